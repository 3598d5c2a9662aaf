"""The promises of setup.cfg, constraints/ and the layout."""

import configparser
import pathlib
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONSTRAINTS = sorted((ROOT / "constraints").glob("*.txt"))
SOURCES = [path for top in ("jaxsparse", "experiments") for path in (ROOT / top).rglob("*.py")]


def _requirements() -> list[Requirement]:
    """Every dependency that setup.cfg names, without the extras that name jaxsparse itself."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    fields = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = [Requirement(line) for field in fields for line in field.split("\n") if line.strip()]
    return [requirement for requirement in found if requirement.name != "jaxsparse"]


def _lines(path: pathlib.Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def test_there_is_a_constraints_file_for_each_python() -> None:
    assert [path.name for path in CONSTRAINTS] == ["py311.txt", "py313.txt"]


@pytest.mark.parametrize("requirement", _requirements(), ids=str)
def test_a_dependency_has_a_lower_bound_and_no_upper_one(requirement: Requirement) -> None:
    assert [bound.operator for bound in requirement.specifier] == [">="]


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_pin_every_dependency_within_its_bounds(path: pathlib.Path) -> None:
    pins = dict(line.split("==") for line in _lines(path))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in _requirements():
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} but the pin is {version}"


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_constraints_hold_names_and_versions_only(path: pathlib.Path) -> None:
    """Whole lines, so that no option, address or path is anywhere, not even in a comment."""
    text = path.read_text()
    assert "http" not in text
    about, how, *pins = text.splitlines()
    assert re.fullmatch(r"# What [\w ]+ on Python 3\.\d+, for [\w. ]+ too\.", about)
    assert how == (
        "# To renew: install '.[all]' into an empty environment, and its "
        "`pip freeze --exclude-editable` goes below."
    )
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+", line), line


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_400_lines_and_a_telling_name(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.name != "utils.py"


def test_the_type_marker_is_there() -> None:
    assert (ROOT / "jaxsparse" / "py.typed").is_file()
