"""A group of commands whose help does not wait for what only its commands need."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """A group in which nobody having asked for help is a plain False.

    Left as None it is converted to a bool, for which typer (0.29) loads pydantic: 75 ms before a command's own help.
    """

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option, as typer makes it but for its default."""
        option: Any = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option
