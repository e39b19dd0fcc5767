"""The writer: one Markdown report from what the scout, the readers and the critic found."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath

from tertulia.compare.report_team.facts import (
    Criticism,
    FileFacts,
    FileKind,
    FileListing,
    Heading,
    InconsistentTerm,
    LinkFinding,
    Place,
    SkippedFile,
    Term,
    TermForm,
)

__all__ = ["write_report"]

_MAX_REPORT_BYTES = 512 * 1024
# Half of NATS's default for one message; also more than anybody reads.

_MAX_DETAILED = 200
# Files with a section of their own; a folder with more is read by its overview and findings.

_MAX_HEADINGS = 40
_MAX_FILE_TERMS = 10
_MAX_TOP_TERMS = 30
# What shows a file's or a folder's subject at one look.

_KIND_NAMES: dict[FileKind, str] = {
    "markdown": "Markdown",
    "restructuredtext": "reStructuredText",
    "python": "Python",
    "plain": "plain text",
    "other": "other text",
}
_SIGNS = re.compile(r"([\\`*_\[\]<>|])")
_BACKTICKS = re.compile(r"`+")


def write_report(folder_name: str, listing: FileListing, facts: Iterable[FileFacts], criticism: Criticism) -> str:
    """Return the report as Markdown that ends with a newline.

    Equal findings give equal bytes: the order of *facts* does not matter, and the report holds no
    date, duration or path outside the folder (of *folder_name* only the last part is shown). Files
    of the listing without facts are named as not read. The report stays below 512 KiB as long as
    its overview does; details of files are dropped first.
    """
    files = sorted(facts, key=lambda file: file.path)
    head = _head(folder_name, listing, files, criticism)
    tail = _skipped(listing)
    detailed = min(len(files), _MAX_DETAILED)
    while True:
        report = "\n".join([*head, *_file_sections(files, detailed), *tail])
        if detailed == 0 or len(report.encode()) <= _MAX_REPORT_BYTES:
            return report + "\n"
        detailed //= 2


def _head(folder_name: str, listing: FileListing, files: Sequence[FileFacts], criticism: Criticism) -> list[str]:
    name = PurePosixPath(folder_name.replace("\\", "/")).name or "folder"
    return [
        f"# Report on {_code(name)}",
        "",
        *_summary(listing, files, criticism),
        *_overview(files),
        *_link_section(criticism),
        *_duplicate_section(criticism),
        *_term_section(criticism),
        *_top_terms(files),
    ]


def _summary(listing: FileListing, files: Sequence[FileFacts], criticism: Criticism) -> Iterator[str]:
    words, size = sum(file.words for file in files), sum(file.size for file in files)
    yield f"{_count(len(files), 'file')} read: {_count(words, 'word')}, {_count(size, 'byte')}."
    yield (
        f"Found {_count(criticism.link_count, 'broken link')}, "
        f"{_count(criticism.duplicate_count, 'repeated paragraph')} and "
        f"{_count(criticism.term_count, 'inconsistent term')}."
    )
    if not listing.complete:
        yield "The folder holds more files; the scout stopped at its bound."
    yield ""
    known = {file.path for file in files}
    problems = [f"- {_code(file.path)}: {file.note}" for file in files if file.note]
    problems += [f"- {_code(f.path)}: not read" for f in listing.files if f.path not in known]
    if problems:
        yield from ["Hindrances:", "", *problems, ""]


def _overview(files: Sequence[FileFacts]) -> Iterator[str]:
    yield from ["## Overview", ""]
    yield "| file | kind | lines | words | bytes | headings | links |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for file in files:
        numbers = (file.lines, file.words, file.size, file.heading_count, file.link_count)
        cells = [_cell(_code(file.path)), _KIND_NAMES[file.kind], *(f"{n:,}" for n in numbers)]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _link_section(criticism: Criticism) -> Iterator[str]:
    yield from ["## Broken links", ""]
    if not criticism.links:
        yield from ["None found.", ""]
        return
    yield from ["| file | lines | link | problem |", "| --- | --- | --- | --- |"]
    for finding in criticism.links:
        target = _code(finding.target) if finding.target else ""
        cells = _code(finding.path), _lines(finding), target, finding.problem
        yield f"| {' | '.join(map(_cell, cells))} |"
    shown = sum(finding.count for finding in criticism.links)
    yield from [*_left_out(criticism.link_count - shown), ""]


def _duplicate_section(criticism: Criticism) -> Iterator[str]:
    yield from ["## Repeated paragraphs", ""]
    if not criticism.duplicates:
        yield from ["None found.", ""]
        return
    for duplicate in criticism.duplicates:
        places = _places(duplicate.places, duplicate.count)
        yield f"- “{_plain(duplicate.opening)}” ({_count(duplicate.words, 'word')}): {places}"
    yield from [*_left_out(criticism.duplicate_count - len(criticism.duplicates)), ""]


def _term_section(criticism: Criticism) -> Iterator[str]:
    yield from ["## Inconsistent terms", ""]
    if not criticism.terms:
        yield from ["None found.", ""]
        return
    yield "Each line begins with the form used most; the places are the first in each file."
    for kind, terms in groupby(sorted(criticism.terms, key=_kind), key=_kind):
        yield from ["", f"### {kind[0].upper()}{kind[1:]}", ""]
        for term in terms:
            yield "- " + "; ".join(map(_form, term.forms))
    yield from [*_left_out(criticism.term_count - len(criticism.terms)), ""]


def _kind(term: InconsistentTerm) -> str:
    return term.kind


def _form(form: TermForm) -> str:
    return f"**{_plain(form.text)}** {form.count:,} ({_places(form.places, len(form.places))})"


def _top_terms(files: Iterable[FileFacts]) -> Iterator[str]:
    """Yield the most used terms of prose and Python; data and lock files would drown them."""
    counts: Counter[str] = Counter()
    used_in: Counter[str] = Counter()
    for file in files:
        if file.kind != "other":
            counts.update({term.text: term.count for term in file.terms})
            used_in.update(term.text for term in file.terms)
    yield from ["## Most used terms", ""]
    if not counts:
        yield from ["None found.", ""]
        return
    yield from ["| term | uses | files |", "| --- | ---: | ---: |"]
    for text in sorted(counts, key=lambda text: (-counts[text], text))[:_MAX_TOP_TERMS]:
        yield f"| {_plain(text)} | {counts[text]:,} | {used_in[text]:,} |"
    yield ""


def _file_sections(files: Sequence[FileFacts], detailed: int) -> Iterator[str]:
    yield from ["## Files", ""]
    if detailed < len(files):
        yield f"The first {detailed} of {len(files)} files; the overview has all."
        yield ""
    for file in files[:detailed]:
        yield from [f"### {_code(file.path)}", "", *_file_section(file), ""]


def _file_section(file: FileFacts) -> Iterator[str]:
    yield (
        f"{_KIND_NAMES[file.kind][0].upper()}{_KIND_NAMES[file.kind][1:]}, "
        f"{_count(file.lines, 'line')}, {_count(file.words, 'word')}, {_count(file.size, 'byte')}."
    )
    if file.link_count:
        yield f"{_count(file.link_count, 'link')}: {_link_states(file)}."
    if file.terms:
        yield from ["", f"Terms: {_terms(file.terms[:_MAX_FILE_TERMS])}."]
    if file.headings:
        yield from ["", *_headings(file.headings[:_MAX_HEADINGS])]
        yield from _left_out(file.heading_count - min(len(file.headings), _MAX_HEADINGS))


def _link_states(file: FileFacts) -> str:
    names = {"present": "inside the folder", "absent": "to missing files", "external": "to the web"}
    counts = Counter(names.get(link.state, "not checked") for link in file.links)
    return ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts))


def _terms(terms: Iterable[Term]) -> str:
    return ", ".join(f"{_plain(term.text)} {term.count:,}" for term in terms)


def _headings(headings: Sequence[Heading]) -> Iterator[str]:
    """Yield the headings as a nested list; a skipped level does not indent twice."""
    open_levels: list[int] = []
    for heading in headings:
        while open_levels and open_levels[-1] >= heading.level:
            open_levels.pop()
        yield f"{'  ' * len(open_levels)}- {_plain(heading.text)}"
        open_levels.append(heading.level)


def _skipped(listing: FileListing) -> list[str]:
    lines = ["## Skipped", ""]
    reasons: defaultdict[str, list[SkippedFile]] = defaultdict(list)
    for skipped in listing.skipped:
        reasons[skipped.reason].append(skipped)
    for reason in sorted(reasons):
        names = ", ".join(_code(skipped.path) for skipped in reasons[reason])
        lines.append(f"- {reason}: {names}")
    lines += _left_out(listing.skipped_count - len(listing.skipped))
    if reasons:
        lines.append("")
    return [*lines, "Hidden files and folders and Python's caches are never looked at."]


def _left_out(count: int) -> list[str]:
    return ["", f"And {count:,} more."] if count > 0 else []


def _lines(finding: LinkFinding) -> str:
    more = finding.count - len(finding.lines)
    return ", ".join(map(str, finding.lines)) + (f" and {more:,} more" if more else "")


def _places(places: Sequence[Place], count: int) -> str:
    more = count - len(places)
    return ", ".join(map(_place, places)) + (f" and {more:,} more" if more else "")


def _place(place: Place) -> str:
    return _code(f"{place.path}:{place.line}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Quote the signs that Markdown would take for markup."""
    return _SIGNS.sub(r"\\\1", text)


def _cell(text: str) -> str:
    """Quote what would end a table cell, also inside a code span."""
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    """Return a code span, with as many backticks around it as the text makes necessary."""
    runs = {len(run) for run in _BACKTICKS.findall(text)}
    fence = next("`" * length for length in range(1, len(runs) + 2) if length not in runs)
    inner = " ".join(text.split())
    return f"{fence} {inner} {fence}" if "`" in inner else f"{fence}{inner}{fence}"
