"""Doing the job without thinking: what the skills answered once is remembered, and answered again at once.

What is left of a run then is its communication. The answers are plain data, so that an agent in another process can
have them too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from msgspec import Struct

from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.job import SKILLS, Job, Skills

__all__ = ["Answers", "rehearse", "told"]

T = TypeVar("T")


class Answers(Struct, frozen=True, kw_only=True):
    """What the skills answered, all of it."""

    listing: FileListing
    facts: dict[str, FileFacts]
    criticism: Criticism
    report: str

    def skills(self) -> Skills:
        """Return skills that answer the same. What was never asked for is a LookupError.

        Each answer lets the other agents have their turn, as real work does.
        """

        async def list_files(_: str) -> FileListing:
            return await _at_once(self.listing)

        async def read_file(_: str, path: str) -> FileFacts:
            return await _at_once(self.facts.get(path))

        async def criticise(_: Iterable[FileFacts]) -> Criticism:
            return await _at_once(self.criticism)

        async def write_report(*_: object) -> str:
            return await _at_once(self.report)

        return Skills(list_files=list_files, read_file=read_file, criticise=criticise, write_report=write_report)


async def rehearse(job: Job, step: Callable[[], None]) -> Answers:
    """Do the job without a team, one thing after the other; tell of each file that was read."""
    skills = told(SKILLS, step)
    listing = await skills.list_files(job.folder)
    facts = {file.path: await skills.read_file(job.folder, file.path) for file in listing.files}
    criticism = await skills.criticise(facts.values())
    report = await skills.write_report(job.folder_name, listing, facts.values(), criticism)
    return Answers(listing=listing, facts=facts, criticism=criticism, report=report)


def told(skills: Skills, step: Callable[[], None]) -> Skills:
    """Return these skills, with a call after each file that was read."""

    async def read_file(folder: str, path: str) -> FileFacts:
        facts = await skills.read_file(folder, path)
        step()
        return facts

    return replace(skills, read_file=read_file)


async def _at_once(answer: T | None) -> T:
    await asyncio.sleep(0)
    if answer is None:
        raise LookupError("this was not rehearsed")
    return answer
