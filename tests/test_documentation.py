"""Every public name is documented and annotated, and every example in a docstring runs."""

import doctest
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

MODULES = [
    "jaxsparse",
    *(module.name for module in pkgutil.walk_packages(jaxsparse.__path__, "jaxsparse.")),
]
PUBLIC = {name: getattr(jaxsparse, name) for name in jaxsparse.__all__}
FUNCTIONS = {k: v for k, v in PUBLIC.items() if inspect.isroutine(inspect.unwrap(v))}
# Only what is defined here: an alias of another library's type is documented there.
CLASSES = {
    k: v
    for k, v in PUBLIC.items()
    if inspect.isclass(v) and v.__module__.partition(".")[0] == "jaxsparse"
}
EXAMPLE_NAMES = {"jaxsparse": jaxsparse, "jax": jax, "jnp": jnp, "np": np, "optax": optax}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _examples(module: ModuleType) -> list[doctest.DocTest]:
    """The docstrings of one module that have an example, each with the usual names in scope."""
    found = doctest.DocTestFinder().find(module, extraglobs=EXAMPLE_NAMES)
    return [test for test in found if test.examples]


def test_all_names_everything_once() -> None:
    assert len(set(jaxsparse.__all__)) == len(jaxsparse.__all__)
    public = {
        name
        for name, value in vars(jaxsparse).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("jaxsparse")
    }
    assert public <= set(jaxsparse.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_documented(name: str) -> None:
    doc = CLASSES[name].__doc__
    # A NamedTuple and a dataclass write a docstring by themselves: their signature.
    assert doc
    assert not doc.startswith(f"{name}("), f"jaxsparse.{name} has no docstring of its own"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_an_example(name: str) -> None:
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    assert ">>>" in doc, f"jaxsparse.{name} shows no example"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_annotated(name: str) -> None:
    function: Callable[..., Any] = inspect.unwrap(FUNCTIONS[name])
    signature = inspect.signature(function)
    missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not missing, f"jaxsparse.{name} does not annotate {missing}"
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_example_is_among_those_that_run(name: str) -> None:
    function = inspect.unwrap(FUNCTIONS[name])
    module = importlib.import_module(function.__module__)
    assert f"{module.__name__}.{function.__name__}" in {test.name for test in _examples(module)}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    report: list[str] = []
    for test in _examples(importlib.import_module(name)):
        runner.run(test, out=report.append)
    assert not report, "".join(report)


def test_the_table_of_methods_is_that_of_the_registry() -> None:
    folder = pathlib.Path(__file__).parents[1] / "docs"
    spec = importlib.util.spec_from_file_location("method_table", folder / "method_table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (folder / "methods.md").read_text()
    assert module.page(text) == text, "run: python docs/method_table.py"
    assert all(f"| `{name}` " in text for name in jaxsparse.ALGORITHMS)
