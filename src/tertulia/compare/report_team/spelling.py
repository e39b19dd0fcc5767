"""Which ways of writing belong to the same word: capitals, hyphens, British and American English.

Pure rules on single words. They err on the side of silence: a pair of forms counts as one word only
where the language leaves no second meaning.
"""

import re

__all__ = ["american", "compound_key", "has_own_capitals", "hyphen_style", "is_acronym"]

_ACRONYM_LIST = """
    api ascii aws cli cpu css csv dns ftp gpu grpc gui html http https imap ip iso jpeg json
    jwt latex llm nats npm oidc orm pdf png posix rfc rpc saml sdk smtp sql ssd ssh ssl
    svg tcp tls toml ttl udp ui uri url usb utc utf uuid vm wasm xml xss yaml
"""
_ACRONYMS = frozenset(_ACRONYM_LIST.split())
# Words that are nothing but acronyms: `url` beside `URL` is an inconsistency, while `get` beside
# `GET` is two words.

_SEPARATE_MEANINGS = frozenset(
    {"coop", "recollect", "recover", "recreate", "recreation", "reform", "release", "remark"}
    | {"represent", "resent", "reserve", "resign", "resort"}
)
# With a hyphen these are other words (to re-sign is not to resign).

_MIN_STEM = 3
_MIN_ISE_STEM = 4
_ISE = re.compile(r"(is)(e|ed|es|er|ers|ing|ation|ations|able)$")
_YSE = re.compile(r"(anal|paral|catal|electrol|hydrol)ys(e|ed|er|ers|ing)$")
_OUR = re.compile(r"our(?=$|s$|ed$|ing$|al$|ally$|ful$|less$|able$|ably$|ite$|ites$|hood$|hoods$)")
_DOUBLED = re.compile(
    r"""^(un|re|mis)?(bevel|cancel|channel|counsel|dial|equal|fuel|funnel|initial|jewel|label|
    level|libel|marshal|model|panel|parcel|pencil|quarrel|rival|shovel|signal|spiral|total|travel|
    tunnel|unravel)l(ed|ing|er|ers|able)$""",
    re.VERBOSE,
)
_WORDS = {
    "acknowledgement": "acknowledgment",
    "aluminium": "aluminum",
    "analogue": "analog",
    "artefact": "artifact",
    "calibre": "caliber",
    "catalogue": "catalog",
    "centre": "center",
    "centred": "centered",
    "defence": "defense",
    "dialogue": "dialog",
    "enrolment": "enrollment",
    "fibre": "fiber",
    "fulfil": "fulfill",
    "fulfilment": "fulfillment",
    "grey": "gray",
    "judgement": "judgment",
    "litre": "liter",
    "lustre": "luster",
    "metre": "meter",
    "offence": "offense",
    "pretence": "pretense",
    "sceptic": "skeptic",
    "sceptical": "skeptical",
    "skilful": "skillful",
    "spectre": "specter",
    "theatre": "theater",
}


def american(word: str) -> str:
    """Return the American form of a British word, or *word* itself; both in lower case.

    The endings are changed by rule, so a word that is spelled alike on both sides may give a form
    that nobody uses (`resource`, `resorce`). The result only tells something about a text that
    uses both.
    """
    plural = word.endswith("s") and word[:-1] in _WORDS
    if plural or word in _WORDS:
        return _WORDS[word.removesuffix("s") if plural else word] + "s" * plural
    if _DOUBLED.search(word):
        return _DOUBLED.sub(r"\1\2\3", word)
    ise = _ISE.search(word)
    if ise and ise.start() >= _MIN_ISE_STEM:
        return _ISE.sub(r"iz\2", word)
    if _YSE.search(word):
        return _YSE.sub(r"\1yz\2", word)
    our = _OUR.search(word)
    return _OUR.sub("or", word) if our and our.start() >= _MIN_STEM else word


def is_acronym(word: str) -> bool:
    """Tell whether *word* (lower case, singular or plural) is an acronym and no other word."""
    return word in _ACRONYMS or (word.endswith("s") and word[:-1] in _ACRONYMS)


def has_own_capitals(word: str) -> bool:
    """Tell whether *word* has capitals of its own, such as `JetStream` or `iPhone`.

    A capital at the start may come from the sentence, and capitals throughout may be an acronym
    (with a plural `s`) or emphasis; these are not the word's own. Compounds have none either.
    """
    if "-" in word or " " in word:
        return False
    return not (word.islower() or word[1:].islower() or word.removesuffix("s").isupper())


def hyphen_style(text: str) -> str:
    """Return how a word or compound is joined: `hyphen`, `space` or `closed`."""
    if "-" in text:
        return "hyphen"
    return "space" if " " in text else "closed"


def compound_key(text: str) -> str:
    """Return what the forms of a compound share: its letters, lower case, without a plural `s`.

    It is empty for compounds whose forms are different words, and for those of single letters.
    """
    parts = text.lower().replace("-", " ").split()
    joined = "".join(parts)
    if joined in _SEPARATE_MEANINGS or (len(parts) > 1 and len(parts[-1]) == 1):
        return ""
    return joined[:-1] if joined.endswith("s") and not joined.endswith("ss") else joined
