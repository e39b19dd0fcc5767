"""What `module:attribute` may name, and what is said of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tertulia import MessagePassingAgent, Space, connect
from tertulia.errors import InvalidTargetError
from tertulia.processes.target import agents_in, is_agent, load

MODULE = """
class Shelf:
    def agent(self, space): ...
    @property
    def broken(self): return 1 / 0

shelf = Shelf()
def agent(space): ...
async def main(space): ...
def optional(space, *, more=1): ...
both = [agent, main]
nobody = []
number = 5
mixed = [agent, 5]
def needy(space, more): ...
def free(): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"target_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(("attribute", "entries"), [("agent", 1), ("main", 1), ("optional", 1), ("both", 2)])
def test_functions_of_a_space_and_lists_of_them_are_entries(module: str, attribute: str, entries: int):
    assert len(load(f"{module}:{attribute}")) == entries


def test_an_attribute_may_be_inside_another(module: str):
    assert len(load(f"{module}:shelf.agent")) == 1


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [
        ("missing", "has no attribute 'missing'"),
        ("shelf.missing", "has no attribute 'shelf.missing'"),
        ("nobody", "the list is empty"),
        ("number", "it is a value of type int, neither an agent nor a function of a space"),
        ("mixed", "it is a value of type int"),
        ("needy", "it is the function needy(space, more), neither"),
        ("free", "it is the function free(), neither"),
        ("Shelf", "neither an agent nor a function of a space"),
    ],
)
def test_anything_else_is_refused_with_its_reason(module: str, attribute: str, reason: str):
    with pytest.raises(InvalidTargetError) as refused:
        load(f"{module}:{attribute}")
    assert reason in refused.value.reason
    assert str(refused.value).startswith(f"cannot run '{module}:{attribute}': ")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_at_all:x", "there is no module 'no_such_module_at_all', here or on the path"),
        ("json.nothing:x", "there is no module 'json.nothing'"),
        ("team", "write module:attribute, as in team:main"),
        ("team:", "write module:attribute, as in team:main"),
        (":main", "write module:attribute"),
        ("team.py:main", "a module, not a file: write team:main"),
        ("./src/team.py:main", "a module, not a file: write src.team:main"),
    ],
)
def test_a_target_that_leads_nowhere_is_refused_with_a_hint(target: str, reason: str):
    with pytest.raises(InvalidTargetError) as refused:
        load(target)
    assert refused.value.reason.startswith(reason)


def test_an_import_that_is_missing_inside_the_module_is_the_modules_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "needs_more.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load("needs_more:main")


async def test_agents_are_told_from_everything_else():
    async with connect("memory:") as space:
        agent = MessagePassingAgent("ana", space.broker)
        assert is_agent(agent)
        assert agents_in("t:x", agent) == agents_in("t:x", [agent]) == (agent,)
        for other in (MessagePassingAgent, space, space.broker, "ana", None, 5):
            assert not is_agent(other)
        for made in ([], None, [agent, None], 7, Space):
            with pytest.raises(InvalidTargetError):
                agents_in("t:x", made)
