"""A blackboard as a document: for programs, and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tertulia.hypotheses import BoardRecord, Hypothesis

__all__ = ["as_dict", "as_markdown"]


def as_dict(name: str, hypotheses: Sequence[Hypothesis], history: Sequence[BoardRecord]) -> dict[str, Any]:
    """Return a board as a plain dict, which JSON can write if the contents can be."""
    return {
        "board": name,
        "hypotheses": [one.to_dict() for one in hypotheses],
        "history": [
            {**msgspec.structs.asdict(one), "kind": one.kind.value, "at": one.done_at.isoformat()} for one in history
        ],
    }


def as_markdown(name: str, hypotheses: Sequence[Hypothesis], history: Sequence[BoardRecord]) -> str:
    """Return a board as a Markdown text: its sections with their hypotheses, then what was done."""
    lines = [f"# {name}"]
    for section in dict.fromkeys(one.section for one in hypotheses):
        lines += ["", f"## {section}", ""]
        lines += [_line(one) for one in hypotheses if one.section == section]
    lines += ["", "## History", ""]
    lines += [
        f"{number}. {one.done_at:%Y-%m-%d %H:%M:%S} {one.agent} {one.kind.value}"
        + (f" `{one.hypothesis}`" if one.hypothesis else "")
        for number, one in enumerate(history, start=1)
    ]
    return "\n".join(lines) + "\n"


def _line(one: Hypothesis) -> str:
    links = [f"supports `{other}`" for other in one.supports] + [f"contradicts `{other}`" for other in one.contradicts]
    if one.refines:
        links.append(f"refines `{one.refines}`")
    about = "; ".join([f"{one.author}, confidence {one.confidence:g}, {one.state.value}", *links])
    text = str(one.content).replace("\n", " ")
    return f"- {text} (`{one.id}`: {about})"
