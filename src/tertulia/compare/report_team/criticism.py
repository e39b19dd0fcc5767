"""The critic: broken links, repeated paragraphs and inconsistent terms across all files."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tertulia.compare.report_team.facts import (
    Criticism,
    DuplicateParagraph,
    FileFacts,
    Inconsistency,
    InconsistentTerm,
    Link,
    LinkFinding,
    LinkProblem,
    Place,
    TermForm,
    Wording,
)
from tertulia.compare.report_team.markdown import anchor_key
from tertulia.compare.report_team.spelling import (
    american,
    compound_key,
    has_own_capitals,
    hyphen_style,
    is_acronym,
)

__all__ = ["criticise"]

# Bounds of the lists: more findings of one sort than this are a job for a tool, not for a reader of
# a report. With paths of ordinary length the whole stays below 256 KiB.
_MAX_LINKS = 300
_MAX_DUPLICATES = 200
_MAX_TERMS = 200
_MAX_PLACES = 5

_LINE_ANCHOR = re.compile(r"L\d+(C\d+)?(-L?\d+(C\d+)?)?$", re.IGNORECASE)
# `#L10-L20` points at lines of any file on GitHub and its kin.

_Uses = Mapping[str, Sequence["_Use"]]


def criticise(facts: Iterable[FileFacts]) -> Criticism:
    """Return what is wrong across the files; the order of *facts* does not matter.

    - A link is reported when its target is neither a file nor a folder on disk, when the target is
      a Markdown file among *facts* without such a heading or anchor, when its reference label is
      not defined, or when it is empty. Links to other hosts, out of the folder or from a root `/`
      are not judged.
    - A paragraph of twelve words or more is reported when the same words stand in another place.
    - A term is reported when the prose (not the code) writes it in two ways: with a hyphen, with a
      space or closed; with different capitals; in British and American spelling. Differences that
      grammar asks for are not reported: a capital at a sentence's start, or `dead letter` beside
      `dead-letter queue`.

    Findings come sorted; when there are more than a list holds, the count beside it tells.
    """
    files = sorted(facts, key=lambda file: file.path)
    anchors = {
        file.path: frozenset(file.anchors) for file in files if file.kind == "markdown" and file.anchors_complete
    }
    links = [finding for file in files for finding in _link_findings(file, anchors)]
    duplicates = sorted(_duplicates(files), key=_by_weight)
    terms = sorted(_inconsistent_terms(files), key=_by_use)
    return Criticism(
        links=tuple(links[:_MAX_LINKS]),
        link_count=sum(finding.count for finding in links),
        duplicates=tuple(duplicates[:_MAX_DUPLICATES]),
        duplicate_count=len(duplicates),
        terms=tuple(terms[:_MAX_TERMS]),
        term_count=len(terms),
    )


def _link_findings(file: FileFacts, anchors: Mapping[str, frozenset[str]]) -> Iterator[LinkFinding]:
    lines: defaultdict[tuple[str, LinkProblem], list[int]] = defaultdict(list)
    for link in file.links:
        problem = _link_problem(link, anchors)
        if problem:
            whole = problem != "missing file"
            target = link.target if whole else link.target.partition("#")[0]
            lines[target, problem].append(link.line)
    for (target, problem), found in lines.items():
        yield LinkFinding(
            path=file.path,
            target=target,
            problem=problem,
            count=len(found),
            lines=tuple(found[:_MAX_PLACES]),
        )


def _link_problem(link: Link, anchors: Mapping[str, frozenset[str]]) -> LinkProblem | None:
    match link.state:
        case "absent":
            return "missing file"
        case "undefined":
            return "undefined label"
        case "empty":
            return "empty target"
        case "present" if _misses_anchor(link.anchor, anchors.get(link.path)):
            return "missing heading"
        case _:
            return None


def _misses_anchor(anchor: str, known: frozenset[str] | None) -> bool:
    if known is None or anchor.lower() in {"", "top"} or _LINE_ANCHOR.match(anchor):
        return False
    return anchor_key(anchor) not in known


def _duplicates(files: Sequence[FileFacts]) -> Iterator[DuplicateParagraph]:
    places: defaultdict[str, list[Place]] = defaultdict(list)
    first: dict[str, tuple[str, int]] = {}
    for file in files:
        for paragraph in file.paragraphs:
            places[paragraph.digest].append(Place(path=file.path, line=paragraph.line))
            first.setdefault(paragraph.digest, (paragraph.opening, paragraph.words))
    for digest, found in places.items():
        if len(found) > 1:
            opening, words = first[digest]
            yield DuplicateParagraph(opening=opening, words=words, count=len(found), places=tuple(found[:_MAX_PLACES]))


def _by_weight(duplicate: DuplicateParagraph) -> tuple[int, Sequence[Place], str]:
    """Sort by how many words are there too often, the most first."""
    return -duplicate.words * (duplicate.count - 1), duplicate.places, duplicate.opening


def _by_use(term: InconsistentTerm) -> tuple[int, str, str]:
    """Sort by how often the less used forms occur, the most first."""
    return -sum(form.count for form in term.forms[1:]), term.forms[0].text, term.kind


@dataclass(frozen=True, slots=True)
class _Use:
    """One form in one file: `wording` as the reader found it, `path` where."""

    path: str
    wording: Wording


def _inconsistent_terms(files: Sequence[FileFacts]) -> Iterator[InconsistentTerm]:
    uses = [_Use(file.path, wording) for file in files for wording in file.wordings]
    words = [use for use in uses if hyphen_style(use.wording.text) == "closed"]
    yield from _hyphenation(uses)
    yield from _capitals(words)
    yield from _dialects(words)


def _hyphenation(uses: Iterable[_Use]) -> Iterator[InconsistentTerm]:
    """Yield the compounds joined in two ways; a name such as `DeadLetter` is no third one."""
    for group in _grouped(uses, compound_key).values():
        named = [use for use in group if not has_own_capitals(use.wording.text)]
        styles = _split(named, _style)
        if len(styles) > 1:
            together = named if "closed" in styles else _same_context(styles)
            yield from _term("hyphenation", _split(together, _lower))


def _same_context(styles: _Uses) -> list[_Use]:
    """Return the hyphenated and open uses of a compound that stand before the same word.

    Grammar asks for `a dead letter` but `a dead-letter queue`; only `dead letter queue` beside
    `dead-letter queue` is inconsistent, or both forms with no further word of the phrase.
    """
    hyphen, space = (_split(styles[style], _following) for style in ("hyphen", "space"))
    return [use for context in hyphen if context in space for use in (*hyphen[context], *space[context])]


def _capitals(words: Iterable[_Use]) -> Iterator[InconsistentTerm]:
    for lower, group in _grouped(words, str.lower).items():
        forms = _split(group, _text)
        wanted = [form for form in forms if form != lower]
        if len(forms) > 1 and (is_acronym(lower) or any(map(has_own_capitals, wanted))):
            yield from _term("capitals", forms)


def _dialects(words: Iterable[_Use]) -> Iterator[InconsistentTerm]:
    for group in _grouped(words, _american_singular).values():
        forms = _split(group, _lower)
        sides = {american(form) == form for form in forms}
        if len(sides) > 1:
            yield from _term("British and American", forms)


def _term(kind: Inconsistency, forms: _Uses) -> Iterator[InconsistentTerm]:
    """Yield the finding, if there is more than one form."""
    if len(forms) > 1:
        made = [_form(text, uses) for text, uses in forms.items()]
        made.sort(key=lambda form: (-form.count, form.text))
        yield InconsistentTerm(kind=kind, forms=tuple(made))


def _form(text: str, uses: Iterable[_Use]) -> TermForm:
    first: dict[str, int] = {}
    count = 0
    for use in uses:
        count += use.wording.count
        first[use.path] = min(use.wording.line, first.get(use.path, use.wording.line))
    places = tuple(Place(path=path, line=line) for path, line in sorted(first.items()))
    return TermForm(text=text, count=count, places=places[:_MAX_PLACES])


def _grouped(uses: Iterable[_Use], key_of: Callable[[str], str]) -> dict[str, list[_Use]]:
    """Group the uses by a key of their text; those with an empty key are left out."""
    groups = _split(uses, lambda use: key_of(use.wording.text))
    groups.pop("", None)
    return groups


def _split(uses: Iterable[_Use], key_of: Callable[[_Use], str]) -> dict[str, list[_Use]]:
    groups: defaultdict[str, list[_Use]] = defaultdict(list)
    for use in uses:
        groups[key_of(use)].append(use)
    return dict(groups)


def _text(use: _Use) -> str:
    return use.wording.text


def _lower(use: _Use) -> str:
    return use.wording.text.lower()


def _following(use: _Use) -> str:
    return use.wording.following


def _style(use: _Use) -> str:
    return hyphen_style(use.wording.text)


def _american_singular(word: str) -> str:
    return american(word.lower()).removesuffix("s")
