"""Words: which terms a text uses, and in which forms it writes words and compounds."""

import re
from collections import Counter
from collections.abc import Iterator

__all__ = ["STOP_WORDS", "count_terms", "prose_forms"]

_ENGLISH = """
    a about above across after again against all almost alone along already also although always am
    among an and another any anybody anyone anything are around as at away back be became because
    been before behind being below beside besides between beyond both but by can cannot could did
    do does doing done down during each either else enough etc even ever every everyone everything
    few first for from further get gets given gives go goes had has have having he hence her here
    hers him his how however if in inside instead into is it its itself just keep keeps kept last
    later least less let lets like made make makes many may maybe me might mine more most much must
    my near neither never next no nobody none nor not nothing now of off often on once one ones
    only onto or other others otherwise our ours out outside over own per perhaps put quite rather
    said same say says second see seen shall she should since so some somebody someone something
    soon still such take taken takes than that the their theirs them then there therefore these
    they thing things third this those though three through thus till to together too toward
    towards two under unless until unto up upon us use used uses using very via was way well were
    what whatever when whenever where wherever whether which while who whoever whole whom whose why
    will with within without would yes yet you your yours zero
"""
_SPANISH = """
    además ahora algo ante antes así aunque bajo bien cada casi como con contra cual cuando cuya cuyo
    debe deben del desde después donde ella ellas ellos entonces entre era eran ese esa eso esos
    esas esta estas este esto estos está están fue fueron hace hacia han hasta hay las les los luego
    mientras mismo misma mucho muchos muy más nada otra otras otro otros para pero poco por porque
    pueden puede que quien según ser será sido siempre sin sino sobre solo sólo son sus también
    tanto tiene tienen toda todas todo todos tras una unas uno unos usted vez
"""
_DOCSTRING = """
    args bool cls defaults false int kwargs optional raises returns self str true yields
"""
STOP_WORDS = frozenset(f"{_ENGLISH} {_SPANISH} {_DOCSTRING}".split())
"""Words that say nothing about a text's subject, so they are no terms and in no compounds.

English and Spanish, the languages of this project's texts (other languages are read without), and
the words that docstrings are laid out with.
"""

_MIN_LETTERS = 3
_MAX_LENGTH = 60
# What is longer is an encoded value, not a word of any language that a report is read in.

_TERM = re.compile(r"_{0,2}[^\W\d_]\w*(?:[-'’][^\W\d_]\w*)*")
_INNER_CAPITAL = re.compile(r"[^\W\d_A-Z][A-Z]|[A-Z]{2}[a-z]{2}")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*(?:['’][^\W\d_]+)?")
_CODE_BEFORE = frozenset("_./\\@$#<=:-~%&'’`")
_CODE_AFTER = frozenset("_/\\(=@-'’`")
_JOINING = frozenset(".:")


def count_terms(text: str) -> Counter[str]:
    """Count the terms of *text*: words of three letters or more that are not stop words.

    Hyphenated compounds are one term. Words are in lower case, except names with an underscore or
    a capital inside (`dead_letters`, `JetStream`), which stay as written.
    """
    counts: Counter[str] = Counter()
    for match in _TERM.finditer(text):
        term = _term(match[0])
        if term:
            counts[term] += 1
    return counts


def _term(word: str) -> str:
    word = word.replace("’", "'").removesuffix("'s")
    letters = sum(map(str.isalpha, word[:_MAX_LENGTH]))
    if letters < _MIN_LETTERS or len(word) > _MAX_LENGTH or 2 * letters < len(word) or "'" in word:
        return ""
    if word.startswith("__"):
        return ""  # Python's own names are in every class
    if "_" in word or _INNER_CAPITAL.search(word):
        return word
    lower = word.lower()
    return "" if lower in STOP_WORDS else lower


def prose_forms(prose: str) -> Iterator[tuple[int, str, str]]:
    """Yield each word and compound of *prose* as written: position, text, following word.

    Compounds are hyphenated words (as written) and pairs of neighbouring words (in lower case),
    except pairs whose second word has capitals: these are names and titles.
    The following word is given for compounds when it stands in the same phrase. Left out are stop
    words, words of fewer than three letters, numbers and whatever looks like code: names with
    dots, underscores, slashes or brackets.
    """
    before: tuple[int, int, str] | None = None
    waiting: tuple[int, str] | None = None
    for match in _WORD.finditer(prose):
        word = _prose_word(match, prose)
        adjacent = before is not None and prose[before[1] : match.start()].isspace()
        following = word.lower() if adjacent else ""
        if waiting:
            yield *waiting, following
            waiting = None
        if not word:
            before = None
            continue
        if "-" in word:
            waiting = match.start(), word
        elif len(word) >= _MIN_LETTERS:
            yield match.start(), word, ""
            if before and adjacent and "-" not in before[2] and word.islower():
                waiting = before[0], f"{before[2].lower()} {word.lower()}"
        before = match.start(), match.end(), word
    if waiting:
        yield *waiting, ""


def _prose_word(match: re.Match[str], prose: str) -> str:
    """Return the word, or nothing when it is a stop word, looks like code or is too long."""
    start, end = match.span()
    before, after, next_after = prose[start - 1 : start], prose[end : end + 1], prose[end + 1 : end + 2]
    if before in _CODE_BEFORE or before.isdigit() or after in _CODE_AFTER or after.isdigit():
        return ""
    if after in _JOINING and (next_after.isalnum() or next_after == "/"):
        return ""
    word = match[0].replace("’", "'").removesuffix("'s")
    if "'" in word or len(word) > _MAX_LENGTH or word.lower() in STOP_WORDS:
        return ""
    return word
