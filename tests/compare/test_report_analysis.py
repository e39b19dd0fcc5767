"""The report's scout, readers, critic and writer, on folders that the tests make themselves."""

import copy
import os
import socket
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertulia.compare.report_team.criticism import criticise
from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.input_errors import (
    FileUnreadableError,
    FolderMissingError,
    FolderUnreadableError,
    InputFolderError,
    NotAFolderError,
    NoTextFilesError,
)
from tertulia.compare.report_team.reading import facts_of, read_file
from tertulia.compare.report_team.scouting import MAX_FILE_BYTES, list_files
from tertulia.compare.report_team.writing import write_report

LONG = "These twelve words are enough to make one paragraph worth comparing, truly."


def facts(text: str, path: str = "a.md", *, present: tuple[str, ...] = ()) -> FileFacts:
    return facts_of(path, text, size=len(text.encode()), exists=lambda target: target in present)


def lists(file: FileFacts) -> list[tuple[object, ...]]:
    return [file.headings, file.terms, file.links, file.paragraphs]


def headings(text: str, path: str = "a.md") -> list[tuple[int, str, int]]:
    return [(found.level, found.text, found.line) for found in facts(text, path).headings]


def terms(text: str, path: str = "a.md") -> dict[str, int]:
    return {term.text: term.count for term in facts(text, path).terms}


def links(text: str, *, present: tuple[str, ...] = ()) -> list[tuple[str, str, str, str]]:
    found = facts(text, "docs/a.md", present=present).links
    return [(link.kind, link.state, link.path, link.anchor) for link in found]


def broken(*files: FileFacts) -> list[tuple[str, str, str, tuple[int, ...]]]:
    return [(finding.path, finding.target, finding.problem, finding.lines) for finding in criticise(files).links]


def variants(*texts: str) -> dict[str, list[tuple[str, int]]]:
    """The inconsistent terms of several files, by kind and first form."""
    read = [facts(text, f"{index}.md") for index, text in enumerate(texts)]
    return {
        f"{term.kind}: {term.forms[0].text}": [(form.text, form.count) for form in term.forms]
        for term in criticise(read).terms
    }


def write_files(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def listed(folder: Path) -> list[str]:
    return [file.path for file in list_files(folder).files]


def skipped(folder: Path) -> dict[str, str]:
    return {file.path: file.reason for file in list_files(folder).skipped}


def analysed(folder: Path) -> tuple[FileListing, list[FileFacts], Criticism]:
    listing = list_files(folder)
    read = [read_file(folder, file.path) for file in listing.files]
    return listing, read, criticise(read)


# The scout.


def test_files_are_listed_by_path_with_their_sizes(tmp_path: Path):
    write_files(tmp_path, {"b.md": "bé", "a/z.txt": "", "a.md": "x"})

    listing = list_files(tmp_path)

    assert [(file.path, file.size) for file in listing.files] == [
        ("a.md", 1),
        ("a/z.txt", 0),
        ("b.md", 3),
    ]
    assert listing.complete
    assert listing.skipped_count == 0


def test_hidden_files_and_caches_are_passed_over_without_a_word(tmp_path: Path):
    hidden: dict[str, str | bytes] = {".env": "x", ".git/config": "x", ".venv/a.py": "x"}
    write_files(tmp_path, {**hidden, "p/__pycache__/m.pyc": b"\0", "p/m.py": "x"})

    listing = list_files(tmp_path)

    assert [file.path for file in listing.files] == ["p/m.py"]
    assert listing.skipped == ()


def test_build_outputs_caches_and_environments_are_skipped_with_their_reason(tmp_path: Path):
    write_files(
        tmp_path,
        {
            "a.md": "x",
            "build/a.md": "x",
            "x.egg-info/top.txt": "x",
            "target/CACHEDIR.TAG": "x",
            "env/pyvenv.cfg": "x",
        },
    )

    assert listed(tmp_path) == ["a.md"]
    assert skipped(tmp_path) == {
        "build": "build output",
        "env": "virtual environment",
        "target": "cache folder",
        "x.egg-info": "build output",
    }


def test_what_is_no_text_is_skipped_with_its_reason(tmp_path: Path):
    write_files(
        tmp_path,
        {
            "a.md": "x",
            "latin.txt": "café".encode("latin-1"),
            "late.txt": b"x" * 9000 + b"\xff",
            "image.png": b"\x89PNG\0",
            "wide.txt": "text".encode("utf-16"),
            "large.txt": b"x" * (MAX_FILE_BYTES + 1),
            "largest.txt": b"x" * MAX_FILE_BYTES,
        },
    )

    assert listed(tmp_path) == ["a.md", "largest.txt"]
    assert skipped(tmp_path) == {
        "image.png": "binary",
        "large.txt": "larger than 1 MiB",
        "late.txt": "not UTF-8",
        "latin.txt": "not UTF-8",
        "wide.txt": "binary",
    }


def test_symbolic_links_are_not_followed(tmp_path: Path):
    outside = write_files(tmp_path / "outside", {"secret.md": "x"})
    folder = write_files(tmp_path / "in", {"a.md": "x", "sub/b.md": "x"})
    (folder / "alias.md").symlink_to(folder / "a.md")
    (folder / "away.md").symlink_to(outside / "secret.md")
    (folder / "away").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")

    assert listed(folder) == ["a.md", "sub/b.md"]
    reasons = skipped(folder)
    assert reasons.pop("self").startswith("symbolic link")
    assert reasons == {
        "alias.md": "symbolic link inside the folder",
        "away": "symbolic link leaving the folder",
        "away.md": "symbolic link leaving the folder",
        "round": "symbolic link inside the folder",
    }


def test_a_folder_reached_by_a_symbolic_link_is_read(tmp_path: Path):
    folder = write_files(tmp_path / "in", {"a.md": "x"})
    (tmp_path / "link").symlink_to(folder)

    assert listed(tmp_path / "link") == ["a.md"]


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path, {"a.md": "x"})
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path is short, that of a test's folder may not be
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        reasons = skipped(tmp_path)

    assert reasons == {"pipe": "not a regular file", "socket": "not a regular file"}


def test_names_that_no_key_can_hold_are_skipped(tmp_path: Path):
    write_files(tmp_path, {"a.md": "x", "new\nline.md": "x"})
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "f.md").write_text("x")
    try:
        (tmp_path / os.fsdecode(b"\xff.md")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")

    assert listed(tmp_path) == ["a.md"]
    assert sorted(skipped(tmp_path).values()) == [
        "name is not UTF-8",
        "name is not printable",
        "path longer than 400 bytes",
    ]


def test_files_and_folders_that_may_not_be_read_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path, {"a.md": "x", "b.md": "x"})
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "b.md":
            raise PermissionError
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)

    assert listed(tmp_path) == ["a.md"]
    assert skipped(tmp_path) == {"b.md": "unreadable (permission denied)"}


def test_a_folder_with_too_many_files_is_listed_in_part(tmp_path: Path):
    write_files(tmp_path, {f"{number:04}.md": "" for number in range(1001)})

    listing = list_files(tmp_path)

    assert [file.path for file in listing.files] == [f"{number:04}.md" for number in range(1000)]
    assert not listing.complete


def test_bad_folders_raise_errors_that_say_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path, {"file.md": "x", "empty/.hidden": "x", "binary/x": b"\0"})

    with pytest.raises(FolderMissingError, match="no such folder") as missing:
        list_files(tmp_path / "nowhere")
    with pytest.raises(FolderMissingError):
        list_files(tmp_path / "file.md" / "below")
    with pytest.raises(NotAFolderError, match="not a folder"):
        list_files(tmp_path / "file.md")
    with pytest.raises(NoTextFilesError, match="no text file"):
        list_files(tmp_path / "empty")
    with pytest.raises(NoTextFilesError, match="skipped: 1"):
        list_files(tmp_path / "binary")
    with pytest.raises(FolderUnreadableError):
        list_files("nul\0")

    def refuse(path: str) -> object:
        raise PermissionError(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FolderUnreadableError, match="permission denied"):
        list_files(tmp_path)

    assert missing.value.path == str(tmp_path / "nowhere")
    assert str(copy.copy(missing.value)) == str(missing.value)
    assert isinstance(missing.value, InputFolderError)
    assert isinstance(missing.value, ValueError)


# The reader: files.


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("missing.md", "no such file"),
        ("folder", "no such file"),
        ("../outside.md", "outside the folder"),
        ("/etc/hostname", "outside the folder"),
        ("", "no such file"),
        ("latin.md", "not UTF-8"),
        ("large.md", "larger than 1 MiB"),
        ("nul\0", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_raises_an_error(tmp_path: Path, path: str, problem: str):
    write_files(tmp_path, {"outside.md": "x"})
    folder = write_files(
        tmp_path / "in",
        {"latin.md": b"caf\xe9", "large.md": b"x" * (MAX_FILE_BYTES + 1), "folder/a.md": "x"},
    )

    with pytest.raises(FileUnreadableError, match=problem):
        read_file(folder, path)


def test_sizes_count_bytes_lines_and_words(tmp_path: Path):
    write_files(tmp_path, {"a.md": "\ufeff# Één\r\ntwo words\r", "empty.md": "", "end.md": "x\n"})

    a, empty, end = (read_file(tmp_path, name) for name in ("a.md", "empty.md", "end.md"))

    assert (a.size, a.lines, a.words) == (22, 2, 4)
    assert [heading.text for heading in a.headings] == ["Één"]
    assert (empty.size, empty.lines, empty.words) == (0, 0, 0)
    assert (end.lines, end.words) == (1, 1)


def test_an_empty_file_has_no_findings():
    for name in ("a.md", "a.py", "a.rst", "a.txt", "a.json"):
        empty = facts("", name)

        assert lists(empty) == [(), (), (), ()]
        assert empty.note == ""


def test_the_same_content_gives_equal_facts(tmp_path: Path):
    write_files(tmp_path, {"a.md": f"# T\n\n{LONG} [x](b.md) data base\n"})

    assert read_file(tmp_path, "a.md") == read_file(tmp_path, "a.md")


# The reader: headings.


def test_markdown_headings_are_found_in_both_forms():
    text = "# One #\n\nTwo\n===\nThree\nlines\n---\n\n###### Six ##\n  ## Indented\n#\n"

    assert headings(text) == [
        (1, "One", 1),
        (1, "Two", 3),
        (2, "Three lines", 5),
        (6, "Six", 9),
        (2, "Indented", 10),
    ]


def test_what_looks_like_a_heading_in_code_is_none():
    text = (
        "```sh\n# no\n```\n\n~~~~\n# no\n~~~\n# no\n~~~~\n\n    # no\n\n"
        "- item\n\n  ```\n  # no\n  ```\n\n> ```\n> # no\n> ```\n\n"
        "<!--\n# no\n-->\n\n<pre>\n# no\n</pre>\n\n```\n> # no\n# no\n```\n# Yes\n"
    )

    assert headings(text) == [(1, "Yes", text.count("\n"))]


def test_a_file_of_only_code_has_neither_headings_nor_terms_nor_links():
    code = facts("```python\n# heading\n[a](b.md)\nsome words here\n")

    assert lists(code) == [(), (), (), ()]


@pytest.mark.parametrize(
    "text",
    [
        "#no space",
        "####### seven",
        "\\# escaped",
        "- item\n---",
        "---\ntitle: x\n---",
        "\n---\n",
        "a | b\n--- | ---\n1 | 2",
        "text\n\n===",
        "***\n---",
    ],
)
def test_what_is_no_heading_in_markdown_is_none_here(text: str):
    assert headings(text) == []


def test_headings_show_what_a_reader_sees():
    text = (
        "# The `read_all` *fast* [way](x.md) ![logo](l.png)\n"
        "## snake_case and _(optional)_ \\*\n## Title {#own-id}\n> ## Quoted\n"
    )

    assert [text for _, text, _ in headings(text)] == [
        "The read_all fast way",
        "snake_case and (optional) *",
        "Title",
        "Quoted",
    ]


def test_restructuredtext_titles_take_their_level_from_their_order():
    text = "=====\nTitle\n=====\n\nPart\n----\n\nDeep\n~~~~\n\nPart two\n--------\n\n::\n\n  No\n  --\n"

    assert headings(text, "a.rst") == [
        (1, "Title", 2),
        (2, "Part", 5),
        (3, "Deep", 8),
        (2, "Part two", 11),
    ]


def test_python_headings_are_its_title_classes_and_functions():
    text = (
        '"""The title.\n\nMore.\n"""\n\nclass A:\n    async def b(self): ...\n'
        "    def _c(self):\n        def inner(): ...\n\ndef d(): ...\n"
    )

    assert headings(text, "a.py") == [
        (1, "The title.", 1),
        (2, "class A", 6),
        (3, "def b", 7),
        (3, "def _c", 8),
        (2, "def d", 11),
    ]


def test_python_that_does_not_parse_gives_a_note():
    assert facts("def (:\n", "a.py").note == "not valid Python (line 1)"
    assert facts("x = " + "(" * 5000, "a.py").note.startswith("not valid Python")
    assert facts("x = '\\d'\n", "a.py").note == ""


# The reader: terms.


def test_terms_are_counted_in_lower_case_without_stop_words():
    text = "The Queue and the queue's end, a DB; don't: dead-letter `max_size` JetStream SQLite URLs"

    assert terms(text) == {
        "queue": 2,
        "end": 1,
        "dead-letter": 1,
        "max_size": 1,
        "JetStream": 1,
        "SQLite": 1,
        "urls": 1,
    }


def test_terms_leave_out_fenced_code_addresses_and_encoded_values():
    text = (
        "word <b class='styled'>bold</b> https://example.org/path [text](target.md)\n"
        f"e3b0c44298fc1c149 {'long' * 20}\n\n```\ncode\n```\n"
    )

    assert terms(text) == {"word": 1, "bold": 1, "text": 1}


def test_terms_of_python_come_from_docstrings_comments_and_definitions():
    text = '"""Queue of tasks."""\n\n# settle quickly\ndef run_task(hidden):\n    return "text"\n'

    assert terms(text, "a.py") == {
        "queue": 1,
        "tasks": 1,
        "settle": 1,
        "quickly": 1,
        "run_task": 1,
    }


# The reader: links.


def test_every_form_of_link_is_found_with_its_target():
    text = (
        "[a](b.md) [t](b.md 'title') [s](<with space.md> \"t\") [e](with%20space.md#A%20b)\n"
        "![i](i.png) [r][ref] [Ref][] [ref] <https://x.org> https://y.org/z, <a href='b.md'>\n"
        "[p](b.md#top(1)) [up](../c.md) [here](#x) [![i](i.png)](b.md) [q](b.md?raw=1)\n\n"
        "[REF]:\n  b.md 'Title'\n"
    )
    present = ("docs/b.md", "docs/with space.md", "docs/i.png", "c.md")

    assert links(text, present=present) == [
        ("inline", "present", "docs/b.md", ""),
        ("inline", "present", "docs/b.md", ""),
        ("inline", "present", "docs/with space.md", ""),
        ("inline", "present", "docs/with space.md", "A b"),
        ("image", "present", "docs/i.png", ""),
        ("reference", "present", "docs/b.md", ""),
        ("reference", "present", "docs/b.md", ""),
        ("reference", "present", "docs/b.md", ""),
        ("autolink", "external", "", ""),
        ("autolink", "external", "", ""),
        ("html", "present", "docs/b.md", ""),
        ("inline", "present", "docs/b.md", "top(1)"),
        ("inline", "present", "c.md", ""),
        ("inline", "present", "docs/a.md", "x"),
        ("inline", "present", "docs/b.md", ""),
        ("image", "present", "docs/i.png", ""),
        ("inline", "present", "docs/b.md", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "`[a](b.md)`",
        "``[a](b.md) ` ``",
        "\\[a](b.md)",
        "[a] (b.md)",
        "<!-- [a](b.md) -->",
        "```\n[a](b.md)\n```",
        "    [a](b.md)",
        "rows[i][j] and [^1][^2] and [x]",
        "- [ ] task\n- [x] done",
        "[note]: this is text",
        "[a](b md)",
    ],
)
def test_what_is_no_link_in_markdown_is_none_here(text: str):
    assert links(text) == []


def test_links_know_their_line_and_targets_out_of_reach_are_not_judged():
    text = "para\ngraph [a](../../b.md)\n\n- item\n  [c](/d.md) <mailto:a@b.c>\n[e](http://[bad)\n"

    found = facts(text, "docs/a.md").links

    assert [(link.line, link.state) for link in found] == [
        (2, "unchecked"),
        (5, "unchecked"),
        (5, "external"),
        (6, "unchecked"),
    ]


def test_links_are_looked_up_on_disk(tmp_path: Path):
    write_files(tmp_path, {"docs/a.md": "[i](i.bin) [d](../docs) [n](n.md) [l](" + "x" * 999 + ")"})
    write_files(tmp_path, {"docs/i.bin": b"\0"})

    found = read_file(tmp_path, "docs/a.md").links

    assert [link.state for link in found] == ["present", "present", "absent", "absent"]


# The critic: links.


def test_a_link_to_a_missing_file_is_broken_and_lines_come_together():
    file = facts("[a](gone.md)\n\n[b](gone.md#x) ![c](here.png)", present=("here.png",))

    assert broken(file) == [("a.md", "gone.md", "missing file", (1, 3))]
    assert criticise([file]).link_count == 2


def test_a_link_to_a_missing_heading_is_broken():
    target = facts("# My Title!\n## Twice\n## Twice\n<a name='Own'></a>\n## C {#id-1}\n## a -- b\n", "b.md")
    good = ["#my-title", "#twice", "#twice-1", "#twice_1", "#own", "#OWN", "#id-1", "#a----b"]
    good += ["#a-b", "#top", "#L3", "#L3-L5"]
    source = facts(
        "# Here\n" + " ".join(f"[x](b.md{anchor})" for anchor in (*good, "#gone")) + " [y](#here)",
        present=("b.md",),
    )

    assert broken(source, target) == [("a.md", "b.md#gone", "missing heading", (2,))]


def test_anchors_are_not_judged_where_headings_are_not_known():
    source = facts("[a](a.py#x) [b](unread.md#x) [c](many.md#x)", present=("a.py", "unread.md", "many.md"))
    many = facts("".join(f"# h{number}\n" for number in range(1001)), "many.md")

    assert broken(source, facts("x = 1", "a.py"), many) == []


def test_undefined_labels_and_empty_targets_are_broken():
    assert broken(facts("See [the text][label].\n\n[empty]()")) == [
        ("a.md", "label", "undefined label", (1,)),
        ("a.md", "", "empty target", (3,)),
    ]


# The critic: repeated paragraphs.


def test_repeated_paragraphs_are_found_within_and_across_files():
    first = facts(f"{LONG}\n\nOther text.\n\n- {LONG.upper()}\n", "a.md")
    second = facts(f"# T\n\n**{LONG}**\n", "b.md")
    python = facts(f'def f():\n    """Do.\n\n    {LONG}\n    """\n', "c.py")

    (found,) = criticise([first, second, python]).duplicates

    assert (found.words, found.count) == (12, 4)
    assert [(place.path, place.line) for place in found.places] == [
        ("a.md", 1),
        ("a.md", 5),
        ("b.md", 3),
        ("c.py", 4),
    ]
    assert found.opening == LONG


def test_short_code_and_different_paragraphs_are_no_duplicates():
    code = f"```\n{LONG}\n```"
    read = [
        facts(f"See also the other page.\n\n{code}\n\n{LONG} More.", "a.md"),
        facts(f"See also the other page.\n\n{code}\n\n{LONG} Less.", "b.md"),
        facts(f"# {LONG}", "c.md"),
        facts(f"# {LONG}", "d.md"),
        facts(f"x = '{LONG}'\n" * 2, "e.py"),
        facts(f"{LONG}\n", "e.json"),
        facts(f"{LONG}\n", "f.json"),
    ]

    assert criticise(read).duplicates == ()


# The critic: inconsistent terms.


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (
            ("Send an e-mail. Then the e-mail waits.", "An email came."),
            {"hyphenation: e-mail": [("e-mail", 2), ("email", 1)]},
        ),
        (
            ("The database and its databases.", "One data base only."),
            {"hyphenation: data base": [("data base", 1), ("database", 1), ("databases", 1)]},
        ),
        (
            ("The dead-letter queue is full.", "Read the dead letter queue."),
            {"hyphenation: dead letter": [("dead letter", 1), ("dead-letter", 1)]},
        ),
        (
            ("It goes to the dead-letters.", "It is a dead letter."),
            {"hyphenation: dead letter": [("dead letter", 1), ("dead-letters", 1)]},
        ),
        (
            ("With JetStream and JetStream.", "With Jetstream and jetstream."),
            {"capitals: JetStream": [("JetStream", 2), ("Jetstream", 1), ("jetstream", 1)]},
        ),
        (
            ("The URL and the URL.", "The url is wrong, and all URLs are."),
            {"capitals: URL": [("URL", 2), ("url", 1)]},
        ),
        (
            ("Its behaviour and colours.", "Its behavior, its color."),
            {
                "British and American: behavior": [("behavior", 1), ("behaviour", 1)],
                "British and American: color": [("color", 1), ("colours", 1)],
            },
        ),
        (
            ("It was cancelled, organised; the centre.", "It was canceled, organized; the center."),
            {
                "British and American: canceled": [("canceled", 1), ("cancelled", 1)],
                "British and American: center": [("center", 1), ("centre", 1)],
                "British and American: organised": [("organised", 1), ("organized", 1)],
            },
        ),
    ],
)
def test_one_term_written_in_two_ways_is_found(texts: tuple[str, ...], found: dict[str, list[tuple[str, int]]]):
    assert variants(*texts) == found


@pytest.mark.parametrize(
    "text",
    [
        "A dead letter goes to the dead-letter queue.",
        "Message after message. Messages are a MESSAGE.",
        "To GET a page is to get it. Read README and readme.",
        "To resign is not to re-sign.",
        "Four hours for our colour; a size, a prize to revise.",
        "He set up the setup, and it will time out after the timeout.",
        "Use `data_base`, `data-base` and `jetstream` with the database and JetStream.",
        "See https://data-base.org/jetstream or data-base.md for the database of JetStream.",
        "```\ndata-base e-mail jetstream\n```\n\nThe database, an email, JetStream.",
        "The end. User or end: user? The enduser.",
        "Data Base Smith met database people.",
        "The DeadLetter class holds a dead letter.",
    ],
)
def test_differences_that_the_language_asks_for_are_not_reported(text: str):
    assert variants(text) == {}


def test_names_of_python_code_in_its_docstrings_are_not_a_wording():
    code = facts('"""Use contextmanager as a context manager."""\n\ncontextmanager = 1\n', "a.py")

    assert criticise([code]).terms == ()


def test_inconsistent_terms_tell_their_first_place_in_each_file():
    read = [facts(f"Line.\n\nAn email. An email {word}.", f"{word}.md") for word in "cab"]

    (term,) = criticise([*read, facts("e-mail", "d.md")]).terms

    assert [(place.path, place.line) for place in term.forms[0].places] == [
        ("a.md", 3),
        ("b.md", 3),
        ("c.md", 3),
    ]


def test_clean_files_have_no_findings():
    read = [
        facts("# One\n\nA plain text about [two](b.md#two).\n", "a.md", present=("b.md",)),
        facts("# Two\n\nAnother text about [one](a.md).\n", "b.md", present=("a.md",)),
    ]

    assert criticise(read) == Criticism()
    assert criticise([]) == Criticism()


# The writer, and all of them together.


def mixed_folder(folder: Path) -> Path:
    return write_files(
        folder,
        {
            "a.md": f"# Start | here\n\n[gone](gone.md) An e-mail.\n\n{LONG}\n",
            "docs/b|`c.md": f"# T\n## <b>*U*</b>\n\n{LONG}\n\nAn email.\n",
            "broken.py": "def (",
            "data.json": '{"verbose": "verbose"}',
            "image.png": b"\0",
        },
    )


def test_the_report_names_every_finding(tmp_path: Path):
    folder = mixed_folder(tmp_path)

    report = write_report(str(folder), *analysed(folder))

    assert f"# Report on `{folder.name}`" in report
    assert "Found 1 broken link, 1 repeated paragraph and 1 inconsistent term." in report
    assert "| `a.md` | 3 | `gone.md` | missing file |" in report
    assert "(12 words): `a.md:5`, `` docs/b|`c.md:4 ``" in report
    assert "- **e-mail** 1 (`a.md:3`); **email** 1 (`` docs/b|`c.md:6 ``)" in report
    assert "- `broken.py`: not valid Python (line 1)" in report
    assert "| `` docs/b\\|`c.md `` | Markdown |" in report
    assert "- Start \\| here" in report
    assert "- binary: `image.png`" in report
    assert "| verbose |" not in report


def test_the_report_holds_no_path_outside_the_folder_and_is_the_same_elsewhere(tmp_path: Path):
    here, there = mixed_folder(tmp_path / "x" / "in"), mixed_folder(tmp_path / "y" / "in")

    report = write_report(str(here), *analysed(here))

    assert str(tmp_path) not in report
    assert report == write_report("in", *analysed(there))


def test_the_order_of_the_facts_does_not_matter(tmp_path: Path):
    folder = mixed_folder(tmp_path)
    listing, read, criticism = analysed(folder)
    report = write_report("in", listing, read, criticism)

    for shuffled in permutations(read):
        assert criticise(shuffled) == criticism
        assert write_report("in", listing, shuffled, criticise(shuffled)) == report


def test_a_clean_folder_gives_a_report_that_says_so(tmp_path: Path):
    folder = write_files(tmp_path, {"a.md": ""})

    report = write_report("in", *analysed(folder))

    assert report.count("None found.") == 4
    assert "1 file read: 0 words, 0 bytes." in report
    assert report.endswith("\n")
    assert not report.endswith("\n\n")


def test_a_file_that_nobody_read_is_named(tmp_path: Path):
    folder = write_files(tmp_path, {"a.md": "x", "b.md": "x"})
    listing, read, _ = analysed(folder)

    assert "- `b.md`: not read" in write_report("in", listing, read[:1], criticise(read[:1]))


def test_long_lists_are_cut_and_the_report_says_so():
    text = "".join(f"# h{number}\n[x](gone{number}.md)\n\n" for number in range(2500))
    file = facts(text)

    criticism = criticise([file])
    report = write_report("in", FileListing(files=()), [file], criticism)

    assert (file.heading_count, file.link_count) == (2500, 2500)
    assert (len(file.headings), len(file.links), len(criticism.links)) == (1000, 2000, 300)
    assert "And 1,700 more." in report
    assert "And 2,460 more." in report


def test_a_report_on_many_files_stays_small():
    text = "".join(f"# {'heading ' * 18}{number}\n" for number in range(50))
    read = [facts(text, f"{number:03}.md") for number in range(300)]

    report = write_report("in", FileListing(files=()), read, Criticism())

    assert len(report.encode()) < 512 * 1024
    assert "`299.md`" in report
    assert "files; the overview has all." in report


def test_all_values_survive_messagepack(tmp_path: Path):
    listing, read, criticism = analysed(mixed_folder(tmp_path))

    for value in (listing, *read, criticism):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_facts_are_frozen():
    with pytest.raises(AttributeError):
        facts("x").size = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_facts_stay_below_their_bound_whatever_the_file_holds():
    words = " ".join(f"wörd{chr(0x4E00 + n % 9000)}{chr(0x4E00 + n // 9)}" for n in range(60_000))
    text = "".join(f"# {'é' * 200}{n}\n[x]({'y' * 400}{n})\n\n" for n in range(800)) + words

    assert len(msgspec.msgpack.encode(facts(text))) <= 512 * 1024


@pytest.mark.parametrize(
    "piece",
    ["[", "![", "](", "[a](", "`", "` ``", "_", "_a ", "* ", "<a ", "<!--", "> ", "\\[", "a-", "# "],
)
@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.py", "a.txt"])
def test_a_huge_line_is_read_in_one_go(name: str, piece: str):
    text = piece * (500_000 // len(piece))

    assert facts(text, name).lines == 1


MARKS = ["# ", "- ", "> ", "```", "\n", "\n\n", "    ", "[a]", "(b)", ": ", "---", "===", "`", "a"]
MARKS += ["é", " ", "<", "<!--", "-->", '"""', "::", "def f():", "\r", "\0", "\t", "\\", "_", "b-c"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text() | st.lists(st.sampled_from(MARKS)).map("".join),
    suffix=st.sampled_from([".md", ".rst", ".py", ".txt", ".json", ""]),
)
def test_any_text_can_be_read_and_reported(tmp_path: Path, text: str, suffix: str):
    name = f"file{suffix}"
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read = read_file(tmp_path, name)
    except FileUnreadableError:
        assert any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
        return

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(read), type=FileFacts) == read
    assert all(1 <= heading.line <= read.lines for heading in read.headings)
    assert all(1 <= link.line <= read.lines for link in read.links)
    assert write_report("in", FileListing(files=()), [read], criticise([read]))
