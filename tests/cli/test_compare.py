"""`tertulia compare` as a user runs it: in a process of its own, with its output going somewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from msgspec.structs import replace

import tertulia
from tertulia.cli.compare import Options, run
from tertulia.compare.comparison import SCHEMA, Comparison
from tertulia.compare.places import ENGINES
from tertulia.compare.report_team.job import MAX_READERS
from tertulia.compare.report_team.teams import TEAMS
from tertulia.compare.results import ReportResult
from tertulia.compare.stages import AgentsAs
from tests.compare.odd_teams import FAILING_REPORT
from tests.processes.running import alive, children

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds; they take about one, so this is met by a hang only
LONG_NAME = "a-folder-whose-name-is-so-long-that-no-terminal-of-eighty-columns-could-show-the-line-that-it-stands-in"

FILES = {
    "README.md": "# Team\n\nRead the [guide](guide.md) and the [missing page](nowhere.md).\n",
    "guide.md": "# Guide\n\nThe dead-letter queue keeps what nobody could handle.\n",
    "tool.py": '"""A tool."""\n',
}

REPORT = ("--use-case", "report")
TASKS = (*REPORT, "--engine", "memory")  # one stage alone, which is quick

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / LONG_NAME
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    return kept | {"PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "utf-8"} | more


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """Run `tertulia` with these arguments, in a folder that is not the one that is reported on."""
    home = tmp_path / "home"
    home.mkdir()

    def call(*arguments: str | Path, cwd: Path = home, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-W", "error", "-m", "tertulia", *map(str, arguments)],
            cwd=cwd,
            env=environment(**more),
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST,
            check=False,
        )

    return call


# --- What it prints and writes -------------------------------------------------------------------


def test_it_prints_the_tables_writes_the_report_and_keeps_the_progress_apart(
    command: Run, folder: Path, tmp_path: Path
):
    done = command("compare", *TASKS, "--input", folder, "--repeat", "2")

    report = tmp_path / "home" / "build" / "tertulia" / "report.md"
    assert done.returncode == 0, done.stderr
    assert report.read_text(encoding="utf-8").startswith(f"# Report on `{LONG_NAME}`\n\n3 files read:")
    for said in ("wall time", "processor time", "messages delivered", "bytes written", "by the 3 readers", "p99"):
        assert said in done.stdout
    assert re.search(r"^  write +\d+", done.stdout, re.MULTILINE)
    assert re.search(r"^  send \+ acknowledge +\d+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^memory, tasks: On this workload .+ and the agents read .+\.$", done.stdout, re.MULTILINE)
    assert "build/tertulia/report.md" in done.stdout
    assert "warm-up" not in done.stdout
    assert re.findall(r"^memory, tasks: (.+), run (\d): ", done.stderr, re.MULTILINE) == [
        ("shared memory", "1"),
        ("messages", "1"),
        ("messages", "2"),
        ("shared memory", "2"),
    ]


def test_what_is_piped_is_plain_whole_and_without_padding(command: Run, folder: Path):
    done = command("compare", *TASKS, "--input", folder, "--repeat", "1", COLUMNS="40", TERM="xterm-256color")

    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout + done.stderr
    assert "…" not in done.stdout
    assert [line for line in lines if line != line.rstrip()] == []
    setting = f"in {LONG_NAME}; a scout, 3 readers, a critic and a writer; 1 run each way"
    assert any(setting in line for line in lines), "a sentence is one line"


def test_colours_follow_the_terminal_and_no_color_forbids_them(command: Run, folder: Path):
    coloured = command("compare", *TASKS, "--input", folder, "--repeat", "1", FORCE_COLOR="1", TERM="xterm-256color")
    plain = command(
        "compare", *TASKS, "--input", folder, "--repeat", "1", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1"
    )

    colour = re.compile(r"\x1b\[(?:3|4|9)\d")  # foreground and background; bold is no colour
    assert "\x1b[1m" in coloured.stdout
    assert not colour.search(plain.stdout)


def test_quiet_shows_the_tables_and_nothing_else(command: Run, folder: Path):
    done = command("compare", *TASKS, "--input", folder, "--repeat", "1", "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    assert "On this workload" in done.stdout


def test_the_report_does_not_change_from_run_to_run_nor_with_the_number_of_readers(command: Run, folder: Path):
    """Also where the output is below the folder that is read, which is where it goes by default."""
    reports: set[bytes] = set()
    for readers in ("1", "5"):
        done = command("compare", *TASKS, "--repeat", "1", "--readers", readers, "--quiet", cwd=folder)
        assert done.returncode == 0, done.stderr
        reports.add((folder / "build" / "tertulia" / "report.md").read_bytes())

    assert len(reports) == 1
    assert b"report.md" not in reports.pop()


# --- JSON ----------------------------------------------------------------------------------------


def figures(text: str | bytes) -> Comparison:
    """Decode JSON as the documented schema has it, to the letter."""
    found = msgspec.json.decode(text, type=Comparison)
    assert msgspec.json.decode(msgspec.json.encode(found)) == msgspec.json.decode(text), (
        "every field that is written is documented"
    )
    return found


def report_of(comparison: Comparison) -> ReportResult:
    assert comparison.report is not None
    return comparison.report


def test_json_to_standard_output_is_all_that_is_there(command: Run, folder: Path, tmp_path: Path):
    done = command("compare", *TASKS, "--input", folder, "--repeat", "3", "--readers", "2", "--json", "-")

    whole = figures(done.stdout)
    found = report_of(whole)
    report = (tmp_path / "home" / "build" / "tertulia" / "report.md").read_bytes()
    assert done.stdout.startswith("{\n")
    assert (whole.schema, whole.complete, whole.cells, whole.replays) == (SCHEMA, True, (), ())
    assert (found.readers, found.repeat, found.conclusion) == (2, 3, "")
    assert (found.input.folder, found.input.files, found.input.complete) == (LONG_NAME, 3, True)
    assert found.input.bytes == sum(len(text) for text in FILES.values())
    assert (found.report_bytes, found.report_sha256) == (len(report), sha256(report).hexdigest())
    (stage,) = found.stages
    assert (stage.engine, stage.agents) == ("memory", "tasks")
    assert [paradigm.name for paradigm in stage.paradigms] == ["memory", "messages"]
    assert "rehearsal" in done.stderr


def test_the_same_is_measured_with_tasks_and_with_processes_and_shown_side_by_side(
    command: Run, folder: Path, tmp_path: Path
):
    file = tmp_path / "figures.json"
    done = command("compare", *REPORT, "--input", folder, "--repeat", "1", "--json", file)

    assert done.returncode == 0, done.stderr
    found = report_of(figures(file.read_bytes()))
    assert [(stage.engine, stage.agents) for stage in found.stages] == [("memory", "tasks"), ("file", "processes")]
    for title in ("memory, tasks", "file, processes"):
        assert re.search(rf"^{title}: On this workload", done.stdout, re.MULTILINE)
        assert f"{title}: shared memory\n" in done.stdout
    assert re.search(
        r"^Beside tasks on memory, processes on file take .+ for communication alone\.", done.stdout, re.MULTILINE
    )
    for stage in found.stages:
        for paradigm in stage.paradigms:
            assert (len(paradigm.job.wall.runs), len(paradigm.alone.wall.runs)) == (1, 3)
            assert paradigm.job.operations == sum(role.operations for role in paradigm.job.roles)
            assert {role.role: role.agents for role in paradigm.job.roles if role.role != "office"} == {
                "scout": 1,
                "reader": 3,
                "critic": 1,
                "writer": 1,
            }
            assert paradigm.job.throughput > 0
            assert paradigm.alone.cpu.median > 0
        memory, messages = stage.paradigms
        assert (memory.job.messages_received, messages.job.changes_noticed) == (0, 0)
        # A message for each file and its facts to two; expect, judgement, request, reply and a goodbye to each.
        assert messages.job.messages_received == 3 * len(FILES) + 4 + 3
        kinds = {operation.kind: operation for operation in memory.job.kinds}
        # Work item, claim and facts of each file; listing, ready, criticism and report.
        assert kinds["write"].count - kinds["write"].refused == 3 * len(FILES) + 4
    # The ids of messages have different lengths, and which reader reads what is chance; all else is the same.
    alone, beside = (stage.paradigms[0].job.roles for stage in found.stages)
    for role, same in zip(alone, beside, strict=True):
        if role.role != "reader":
            assert (role.bytes_written, role.bytes_read) == (same.bytes_written, same.bytes_read), role.role


# --- What goes wrong -----------------------------------------------------------------------------


def problem(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the one line of an error, with nothing on standard output."""
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tertulia compare: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_folder_that_is_missing_is_bad_input(command: Run, tmp_path: Path):
    assert "missing: no such folder" in problem(command("compare", "--input", tmp_path / "missing"), 2)
    assert not (tmp_path / "home" / "build").exists()


def test_a_folder_without_text_is_bad_input(command: Run, tmp_path: Path):
    (tmp_path / "empty").mkdir()

    assert "no text file in this folder" in problem(command("compare", "--input", tmp_path / "empty"), 2)


def test_a_file_instead_of_a_folder_is_bad_input(command: Run, folder: Path):
    assert "README.md: not a folder" in problem(command("compare", "--input", folder / "README.md"), 2)


def test_an_output_that_the_next_run_would_read_is_bad_input(command: Run, folder: Path):
    done = command("compare", "--input", folder, "--output", folder / "reports")

    assert "inside the input folder, so the next run would read it" in problem(done, 2)
    assert not (folder / "reports").exists()


def test_an_output_that_cannot_be_a_folder_is_bad_input(command: Run, folder: Path, tmp_path: Path):
    (tmp_path / "taken").write_text("", encoding="utf-8")

    assert "cannot be made a folder" in problem(
        command("compare", "--input", folder, "--output", tmp_path / "taken" / "out"), 2
    )


def test_a_json_file_that_cannot_be_written_is_bad_input_before_any_work(command: Run, folder: Path, tmp_path: Path):
    done = command("compare", "--input", folder, "--json", tmp_path / "missing" / "figures.json")

    assert "not a file in a folder that exists" in problem(done, 2)
    assert "warm-up" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--readers", "0"],
        ["--readers", "65"],
        ["--repeat", "0"],
        ["--repeat", "some"],
        ["--engine", "unknown"],
        ["--agents", "threads"],
        ["--nonsense"],
    ],
)
def test_an_option_outside_its_range_is_bad_input(command: Run, arguments: list[str]):
    done = command("compare", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


def options(folder: Path, tmp_path: Path) -> Options:
    return Options(
        folder=folder,
        output=tmp_path / "out",
        readers=2,
        repeat=1,
        engines=("memory",),
        use_cases=("report",),
        quiet=True,
    )


class Instead:
    """A team in whose place something else happens when its agents begin."""

    reference = "nowhere:nothing"
    task_type = type(None)

    def __init__(self, happens: Callable[[], str]) -> None:
        self._happens = happens

    async def prepare(self, *_: object, **__: object) -> None:
        """Set up nothing."""

    def roles(self, *_: object) -> dict[str, Callable[..., Awaitable[str]]]:
        async def scout(_: object) -> str:
            return self._happens()

        return {"scout": scout}


def test_reports_that_differ_are_an_error_and_all_are_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(TEAMS, "messages", Instead(lambda: "# Another report\n"))  # type: ignore[arg-type] - a dict

    assert run(options(folder, tmp_path)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "not all runs gave the same report" in printed.err
    out = tmp_path / "out"
    assert (out / "report-by-messages-memory-tasks.md").read_text(encoding="utf-8") == "# Another report\n"
    assert (out / "report-by-memory-memory-tasks.md").read_text(encoding="utf-8").startswith("# Report on ")
    assert not (out / "report.md").exists()


def test_a_folder_that_changes_meanwhile_is_not_blamed_on_the_paradigms(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def write_meanwhile() -> str:
        (folder / "guide.md").write_text("# Changed\n", encoding="utf-8")
        return "what it says by now"

    monkeypatch.setitem(TEAMS, "messages", Instead(write_meanwhile))  # type: ignore[arg-type] - a dict

    assert run(options(folder, tmp_path)) == 1
    assert "its files changed during the comparison" in capsys.readouterr().err


def test_a_run_that_fails_is_one_line_and_exit_code_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail() -> str:
        raise TimeoutError("the team was not done within 600 s")

    monkeypatch.setitem(TEAMS, "messages", Instead(fail))  # type: ignore[arg-type] - a dict

    assert run(options(folder, tmp_path)) == 1
    assert capsys.readouterr().err == "tertulia compare: TimeoutError: the team was not done within 600 s\n"


def test_an_agent_that_fails_in_its_process_is_shown_with_its_traceback(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(PACKAGE)]))
    monkeypatch.setitem(TEAMS, "messages", FAILING_REPORT)  # type: ignore[arg-type] - a dict

    assert run(replace(options(folder, tmp_path), engines=("file",))) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert "in stumble" in said
    assert said.splitlines()[-1] == "tertulia compare: the second failed in its process with ValueError: on purpose"


def test_processes_are_refused_where_a_space_is_in_one_process(command: Run, folder: Path):
    done = command("compare", *REPORT, "--input", folder, "--engine", "memory", "--agents", "processes")

    assert "agents there can only be tasks" in problem(done, 2)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A place for temporary files whose path is short enough for sockets."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["ctrl-c", "term", "kill"],
)
def test_stopping_it_ends_all_processes_and_leaves_no_files(
    folder: Path, tmp_path: Path, temporary: Path, number: signal.Signals, code: int
):
    process = subprocess.Popen(  # noqa: S603 - our own command
        [
            sys.executable,
            "-m",
            "tertulia",
            "compare",
            *REPORT,
            "--input",
            str(folder),
            "--repeat",
            "100",
            "--output",
            "out",
        ],
        cwd=tmp_path,
        env=environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    while "file, processes: messages, run 1" not in (line := process.stderr.readline()):
        assert line, "it ended too early"
    agents = children(process.pid)
    assert len(agents) == 6
    began = time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=LONGEST)

    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in errors
    while any(map(alive, agents)):
        assert time.monotonic() - began < LONGEST / 2
        time.sleep(0.02)
    if number is not signal.SIGKILL:
        assert errors.splitlines()[-1] == "tertulia compare: stopped; nothing was written"
        assert list(temporary.glob("tertulia-compare-*")) == []
    assert list((tmp_path / "out").iterdir()) == []


# --- The command line itself ---------------------------------------------------------------------


def test_help_lists_the_commands_and_loads_nothing_heavy(command: Run, tmp_path: Path):
    script = tmp_path / "home" / "look.py"
    script.write_text(
        "import sys\n"
        "from tertulia.cli import main\n"
        "sys.argv = ['tertulia', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in sys.modules if name.startswith(('rich.progress', 'tertulia.compare', 'apsw'))])\n",
        encoding="utf-8",
    )
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, script], env=environment(), capture_output=True, encoding="utf-8", timeout=LONGEST, check=True
    )

    assert "compare" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--input" in command("compare", "--help").stdout


def test_version_names_the_program(command: Run):
    done = command("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"tertulia (\d+\.\d+\.\d+\S*|\(not installed\))\n", done.stdout)


def test_the_options_offer_what_the_runner_has(command: Run):
    shown = command("compare", "--help", COLUMNS="200").stdout

    assert f"1<=x<={MAX_READERS}" in shown
    assert f"[{'|'.join(ENGINES)}]" in shown
    assert f"[{'|'.join(AgentsAs)}|both]" in shown
