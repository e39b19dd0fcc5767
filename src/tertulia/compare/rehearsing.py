"""Skills that are told about, learnt and remembered: how a run is watched, and how one runs without thinking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.job import Skills

__all__ = ["Rehearsal", "told"]

T = TypeVar("T")


def told(skills: Skills, file_read: Callable[[], None]) -> Skills:
    """Return these skills, with a call after each file that was read."""

    async def read_file(folder: str, path: str) -> FileFacts:
        facts = await skills.read_file(folder, path)
        file_read()
        return facts

    return replace(skills, read_file=read_file)


class Rehearsal:
    """What the skills answered once.

    `learning(skills)` does a job with these skills and keeps their answers; `remembered()` answers the same at once,
    so that only communication is left of the job. Each answer lets the other agents have their turn, as real work
    does.
    """

    def __init__(self) -> None:
        self._listing: FileListing | None = None
        self._facts: dict[str, FileFacts] = {}
        self._criticism: Criticism | None = None
        self._report = ""

    def learning(self, skills: Skills) -> Skills:
        """Return these skills, whose answers are kept."""

        async def list_files(folder: str) -> FileListing:
            self._listing = await skills.list_files(folder)
            return self._listing

        async def read_file(folder: str, path: str) -> FileFacts:
            self._facts[path] = await skills.read_file(folder, path)
            return self._facts[path]

        async def criticise(facts: Iterable[FileFacts]) -> Criticism:
            self._criticism = await skills.criticise(facts)
            return self._criticism

        async def write_report(
            folder_name: str, listing: FileListing, facts: Iterable[FileFacts], criticism: Criticism
        ) -> str:
            self._report = await skills.write_report(folder_name, listing, facts, criticism)
            return self._report

        return Skills(list_files=list_files, read_file=read_file, criticise=criticise, write_report=write_report)

    def remembered(self) -> Skills:
        """Return skills that answer as was learnt; what was never asked for is an error."""

        async def list_files(_: str) -> FileListing:
            return await _at_once(self._listing)

        async def read_file(_: str, path: str) -> FileFacts:
            return await _at_once(self._facts.get(path))

        async def criticise(_: Iterable[FileFacts]) -> Criticism:
            return await _at_once(self._criticism)

        async def write_report(*_: object) -> str:
            return await _at_once(self._report)

        return Skills(list_files=list_files, read_file=read_file, criticise=criticise, write_report=write_report)


async def _at_once(answer: T | None) -> T:
    await asyncio.sleep(0)
    if answer is None:
        raise LookupError("this was not rehearsed")
    return answer
