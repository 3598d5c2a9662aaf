"""The contract's methods: all tests of one run after another, in all files, and then the next's."""

import pathlib
from collections.abc import Iterator
from typing import Any

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


def method_of(item: Any) -> str | None:
    """Of the registry, or another name; ``None`` for a test that has none."""
    return item.callspec.params.get("name") if hasattr(item, "callspec") else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each method, what runs on several devices comes last: it lets the other programs go."""
    here = pathlib.Path(__file__).parent
    mine = [
        i
        for i, item in enumerate(items)
        if item.path.parent == here and method_of(item) in ALGORITHMS
    ]
    methods = list(dict.fromkeys(method_of(items[i]) for i in mine))

    def place(item: Any) -> tuple[int, bool]:
        return methods.index(method_of(item)), "meshes" in item.fixturenames

    for i, item in zip(mine, sorted([items[i] for i in mine], key=place), strict=True):
        items[i] = item


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs as most users have them, and as are compiled sooner: see `jaxsparse._counting`."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(scope="module", autouse=True)
def forget_programs(quick_compilation: None) -> None:
    """Not after each file: files share programs, and `name` lets them go."""
