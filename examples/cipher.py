"""A blackboard deciphers a text: four knowledge sources, none of which could do it alone, and nobody who plans it.

Run it with `python examples/cipher.py`. With `post URL` the text is put on the board of a space, and with `join URL`
this process helps to decipher it; any number of processes may, and any of them may be killed.
"""

from __future__ import annotations

import asyncio
import random
import string
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tertulia import (
    Blackboard,
    Controller,
    Hypothesis,
    HypothesisState,
    KnowledgeSource,
    RunResult,
    Situation,
    Space,
    connect,
)

PLAIN = (
    "people who work together need a place where they can share what they know each of them sees only a part of the "
    "problem and no one can say at the start who will have the next good idea so they write what they think on the "
    "board for all to see and change it when somebody finds a reason to in the end the answer is there and everyone "
    "can tell how it came about carlsen"
)
WORDS = frozenset((Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8").split())
BY_FREQUENCY = "etaoinshrdlcumwfgypbvkjxqz"  # the letters of English prose, the most frequent first
SECTIONS = ("text", "words", "letters", "solution")
FEW = 40  # possible words for one enciphered word: with more there is nothing to be learned from it yet


def encipher(plain: str, seed: int) -> str:
    shuffled = list(string.ascii_lowercase)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a puzzle, no secret
    return plain.translate(str.maketrans(string.ascii_lowercase, "".join(shuffled)))


def pattern(word: str) -> tuple[int, ...]:
    """Which letters of a word are the same: `papa` and `noon` differ, `papa` and `dodo` do not."""
    return tuple(word.index(letter) for letter in word)


BY_PATTERN: dict[tuple[int, ...], list[str]] = {}
for known in sorted(WORDS):
    BY_PATTERN.setdefault(pattern(known), []).append(known)


async def standing(board: Blackboard, section: str) -> list[Hypothesis]:
    """The hypotheses of a section that nobody has refined or retracted yet."""
    return [one for one in await board.read_section(section) if one.state is HypothesisState.PROPOSED]


async def possible_letters(board: Blackboard) -> dict[str, str]:
    """What each enciphered letter may stand for. One that is certain stands for nothing else."""
    found = {one.content["cipher"]: one.content["options"] for one in await standing(board, "letters")}
    certain = {letter: options for letter, options in found.items() if len(options) == 1}
    return {
        letter: options if letter in certain else "".join(sorted(set(options) - set(certain.values())))
        for letter, options in found.items()
    }


# --- the knowledge sources -----------------------------------------------------------------------


async def find_patterns(here: Situation) -> None:
    """Knows which words have which letters in common: each enciphered word is one of those with its pattern."""
    for word in sorted(set(here.hypothesis.content.split()), key=lambda word: (-len(word), word)):
        options = BY_PATTERN.get(pattern(word), [])
        if options:
            await here.draft.post_hypothesis(
                "words",
                {"cipher": word, "options": options},
                confidence=1 / len(options),
                supports=[here.hypothesis.id],
            )


async def narrow_letters(here: Situation) -> None:
    """Knows that a letter stands for the same letter everywhere: what no possible word has there, it is not."""
    word, options = here.hypothesis.content["cipher"], here.hypothesis.content["options"]
    known = {one.content["cipher"]: one for one in await standing(here.board, "letters")}
    for letter in sorted(set(word)):
        may_be = {option[word.index(letter)] for option in options}
        before = known.get(letter)
        if before is None:
            await post_letter(here, letter, may_be)
        elif (await here.draft.hypothesis(before.id)).state is HypothesisState.PROPOSED:
            rest = may_be & set(before.content["options"])
            if rest and len(rest) < len(before.content["options"]):
                content = {"cipher": letter, "options": "".join(sorted(rest))}
                await here.draft.refine_hypothesis(before.id, content, confidence=1 / len(rest))


async def post_letter(here: Situation, letter: str, may_be: Iterable[str]) -> None:
    options = "".join(sorted(may_be))
    content = {"cipher": letter, "options": options}
    await here.draft.post_hypothesis("letters", content, confidence=1 / len(options), supports=[here.hypothesis.id])


async def narrow_words(here: Situation) -> None:
    """Knows the dictionary: of the possible words, those that the letters allow. A word with none is a name."""
    letters = await possible_letters(here.board)
    for one in await standing(here.board, "words"):
        word = one.content["cipher"]
        if here.hypothesis.content["cipher"] not in word:
            continue
        options = [
            option
            for option in one.content["options"]
            if all(plain in letters.get(cipher, plain) for cipher, plain in zip(word, option, strict=True))
        ]
        if len(options) == len(one.content["options"]):
            continue
        if (await here.draft.hypothesis(one.id)).state is not HypothesisState.PROPOSED:
            continue
        if options:
            content = {"cipher": word, "options": options}
            await here.draft.refine_hypothesis(one.id, content, confidence=1 / len(options))
        else:
            await here.draft.retract(one.id, reason="no word of the dictionary fits")


async def read_the_text(here: Situation) -> None:
    """Knows how often letters are used: where nothing else decides, the likelier ones go to the more frequent."""
    (posted,) = await here.board.read_section("text")
    text: str = posted.content
    letters = await possible_letters(here.board)
    counts = Counter(text.replace(" ", ""))
    free = [letter for letter in BY_FREQUENCY if letter not in {one for one in letters.values() if len(one) == 1}]
    key: dict[str, str] = {letter: options for letter, options in letters.items() if len(options) == 1}
    for letter, _ in counts.most_common():
        if letter not in key:
            likely = [one for one in free if one in letters.get(letter, one)] or free
            key[letter] = likely[0]
            free.remove(likely[0])
    certain = sum(len(letters.get(letter, "")) == 1 for letter in counts) / len(counts)
    plain = "".join(key.get(letter, letter) for letter in text)
    await here.draft.post_hypothesis("solution", {"plain": plain, "key": key}, confidence=certain)


async def nothing_else_to_do(board: Blackboard, _: Hypothesis) -> bool:
    """The text can be read once all possible words of each enciphered word are few."""
    words = await standing(board, "words")
    return all(len(one.content["options"]) == 1 for one in words)


SOURCES = (
    KnowledgeSource(name="pattern", action=find_patterns, sections=("text",), benefit=10),
    KnowledgeSource(
        name="letters",
        action=narrow_letters,
        sections=("words",),
        trigger=lambda one: one.state is HypothesisState.PROPOSED and len(one.content["options"]) <= FEW,
        benefit=5,
    ),
    KnowledgeSource(
        name="dictionary",
        action=narrow_words,
        sections=("letters",),
        trigger=lambda one: one.state is HypothesisState.PROPOSED,
        benefit=3,
    ),
    KnowledgeSource(
        name="frequency",
        action=read_the_text,
        sections=("letters", "words"),
        trigger=lambda one: one.state is HypothesisState.PROPOSED and len(one.content["options"]) == 1,
        precondition=nothing_else_to_do,
        benefit=0.1,
    ),
)


# --- running them --------------------------------------------------------------------------------


def board_of(space: Space) -> Blackboard:
    return Blackboard(space, "cipher", sections=SECTIONS)


async def solved(board: Blackboard) -> bool:
    return bool(await board.read_section("solution"))


async def decipher(space: Space) -> RunResult:
    return await Controller(board_of(space), SOURCES, lease=1.0).run(until=solved, deadline=100)


async def deciphered(space: Space) -> str:
    best = (await board_of(space).get_solution_candidates())[0]
    return best.hypothesis.content["plain"]


async def main() -> None:
    action, url = sys.argv[1:] or ("all", "memory:")
    async with connect(url) as space:
        if action in {"all", "post"}:
            await board_of(space).post_hypothesis("clerk", "text", encipher(PLAIN, seed=11), confidence=1)
        if action in {"all", "join"}:
            result = await decipher(space)
            print(f"ended by {result.ended.value}: {await deciphered(space)}")
        if action == "all":
            history = await board_of(space).history(limit=100_000)
            ran = Counter(one.agent for one in history if one.kind.value == "ran")
            print(
                f"right: {await deciphered(space) == PLAIN}; every source had a part in it: {len(ran) == len(SOURCES)}"
            )


if __name__ == "__main__":
    asyncio.run(main())
