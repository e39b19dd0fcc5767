"""Runs the blocks of a page, one after the other, as a reader would who follows it.

- `python` blocks are one program, with `await` at the top, run here. A block that calls `asyncio.run` is a program of
  its own, run by another interpreter. One with a title is a file, which is written.
- `sh` and `console` blocks are typed into a shell: the lines of the one, what follows a `$` in the other, whose other
  lines are what is printed. Commands that go on, such as `tertulia run`, go on until the page ends.
- `text` is what the block before it has printed; `…` in it stands for anything.
- A comment before a block says what is out of the ordinary: `exit 1`, or `not run: ` and why.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import logging
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tertulia
from tests.docs.blocks import ROOT, Block, matches
from tests.nats.server import fresh_space, shared_server

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds for one block; they take less than one, so this is met by a hang only
LASTING = ("tertulia run", "tertulia listen", "tertulia memory watch")  # what goes on until it is stopped
RUNNING = ("runs in process", "listening", "watching")  # what one of them says once it does what it is for
ELSEWHERE = ("make", "pip", "git", "cd", "nats-server", ".venv/bin/python", "python3", "python -m venv", "source")
NATS = re.compile(r"nats://localhost:4222/[\w-]+")  # the server of the pages, for which the tests' own stands in


@dataclass(kw_only=True)
class Reader:
    """Somebody who follows a page in a directory of their own."""

    directory: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    printed: str = ""
    lasting: list[Process] = field(default_factory=list)
    spaces: dict[str, str] = field(default_factory=dict)

    async def follow(self, blocks: list[Block]) -> None:
        """Do what the blocks say, in order. What they set for the log of their process does not outlast them."""
        logger = logging.getLogger("tertulia")
        level = logger.level
        try:
            for block in blocks:
                if not block.note.startswith("not run: "):
                    await self._do(block)
            await self._stop()
        finally:
            logger.setLevel(level)
            for process in self.lasting:
                await _end(process)

    async def _do(self, block: Block) -> None:
        text = self._here(block.text)
        if block.title:
            path = self.directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif block.language == "python" and "asyncio.run(" in text:
            await self._type(f"python -W error -c {shlex.quote(text)}", _status(block))
        elif block.language == "python":
            await self._run_here(text, block.line)
        elif block.language == "sh":
            for command in _commands(text):
                await self._type(command, _status(block))
        elif block.language == "console":
            for command, wanted in dialogue(text):
                await self._type(command, _status(block), wanted)
                assert matches(wanted, self.printed), f"{command}\nprinted:\n{self.printed}\nnot:\n{wanted}"
        elif block.language == "text":
            assert matches(text, self.printed), f"line {block.line}: printed:\n{self.printed}\nnot:\n{text}"

    def _here(self, text: str) -> str:
        """Put the tests' NATS server in the place of the page's, with spaces of this page's own."""
        for url in NATS.findall(text):
            if url not in self.spaces:
                self.spaces[url] = f"{shared_server().url}/{fresh_space()}?storage=memory"
        return NATS.sub(lambda url: self.spaces[url[0]], text)

    async def _run_here(self, text: str, line: int) -> None:
        source = "\n" * (line - 1) + text
        code = compile(source, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with redirect_stdout(io.StringIO()) as out:
            result = eval(code, self.names)  # noqa: S307 - it is the page's own code
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, LONGEST)
        self.printed = out.getvalue()

    async def _type(self, command: str, status: int, wanted: str = "") -> None:
        self.printed = ""
        if command.startswith(ELSEWHERE):
            check_elsewhere(command)
            self.printed = wanted
            return
        lasts = command.startswith(LASTING)
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"exec {command}" if lasts else command),
            cwd=self.directory,
            env=self._environment(),
            stdout=PIPE,
            stderr=STDOUT,
        )
        if lasts:
            self.lasting.append(process)
            await asyncio.wait_for(self._see(process, wanted), LONGEST)
            return
        try:
            printed, _ = await asyncio.wait_for(process.communicate(), LONGEST)
        finally:
            await _end(process)
        self.printed = printed.decode()
        ended = process.returncode or 0
        assert (128 - ended if ended < 0 else ended) == status, f"{command}\n{self.printed}"

    async def _see(self, process: Process, wanted: str) -> None:
        """Wait until what lasts has printed what the page shows or, if that is nothing, has said that it runs."""
        assert process.stdout is not None
        seen = ""
        while not (matches(wanted, seen) if wanted else any(word in seen for word in RUNNING)):
            line = (await process.stdout.readline()).decode()
            assert line, f"it ended, having said:\n{seen}\nnot:\n{wanted}"
            seen += line
        self.printed = seen

    def _environment(self) -> dict[str, str]:
        """Return an environment in which `python` and `tertulia` are the ones being tested."""
        commands = self.directory / ".bin"
        if not commands.exists():
            commands.mkdir()
            for name, arguments in (("python", ""), ("tertulia", "-m tertulia ")):
                script = commands / name
                script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
                script.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TERTULIA")}
        paths = [str(PACKAGE), kept.get("PYTHONPATH", "")]
        return kept | {
            "PATH": f"{commands}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    async def _stop(self) -> None:
        """Stop what has gone on until now, and see that it does."""
        for process in self.lasting:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGTERM)
        for process in self.lasting:
            printed, _ = await asyncio.wait_for(process.communicate(), LONGEST)
            assert process.returncode in (0, 143, -15), f"it ended with {process.returncode}:\n{printed.decode()}"


def dialogue(text: str) -> list[tuple[str, str]]:
    """Return the commands of a `console` block, each with what it prints."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a console block begins with a command, not with {parts[0]!r}"
    return [(_uncommented(command), wanted) for command, _, wanted in (part.partition("\n") for part in parts[1:])]


def check_elsewhere(command: str) -> None:
    """Check, as far as is sensible, a command that sets something up and is not run here."""
    words = shlex.split(command)
    if words[0] == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(f"\n{word}:" in targets for word in words[1:] if "=" not in word), command
    if words[0] == "pip":
        extras = re.findall(r"tertulia\[([\w,]+)\]", command)
        declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(f"\n{name} = [" in declared for extra in extras for name in extra.split(",")), command


def _commands(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [command for line in joined.splitlines() if (command := _uncommented(line))]


def _uncommented(line: str) -> str:
    return re.sub(r"(?:^|\s+)#\s.*$", "", line).strip()


def _status(block: Block) -> int:
    return int(block.note.removeprefix("exit ")) if block.note.startswith("exit ") else 0


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
