"""The contract's methods: all tests of one run after another, in all files, and then the next's."""

from collections.abc import Iterator

import jax
import pytest

from jaxsparse import ALGORITHMS
from tests.contract.methods import forget


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The methods; the first of them is in every choice."""
    if "name" in metafunc.fixturenames and "name" not in written(metafunc):
        methods = list(ALGORITHMS)[:: metafunc.config.getoption("--every")]
        metafunc.parametrize("name", methods, indirect=True, scope="session")


def written(metafunc: pytest.Metafunc) -> list[str]:
    """What a test is parametrized with by itself: the names of optimizers, say."""
    marks = metafunc.definition.iter_markers("parametrize")
    return [mark.args[0] for mark in marks]


@pytest.fixture(scope="session")
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A method of the registry; its programs go when its tests are done."""
    yield request.param
    forget()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each method, what runs on several devices comes last: it lets the other programs go."""
    mine = [i for i, item in enumerate(items) if "name" in getattr(item, "fixturenames", ())]
    mine = [i for i in mine if items[i].callspec.params["name"] in ALGORITHMS]
    methods = list(dict.fromkeys(items[i].callspec.params["name"] for i in mine))

    def place(item: pytest.Item) -> tuple[int, bool]:
        return methods.index(item.callspec.params["name"]), "meshes" in item.fixturenames

    for i, item in zip(mine, sorted([items[i] for i in mine], key=place), strict=True):
        items[i] = item


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs as most users have them, and as are compiled sooner: see `jaxsparse._counting`."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(scope="module", autouse=True)
def forget_programs(quick_compilation: None) -> None:
    """Not after each file: files share programs, and `name` lets them go."""
