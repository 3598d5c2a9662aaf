"""The pages in a real browser: no complaint, no request, no overflow, every picture there."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from experiments import report
from tests.experiments.report.browser import SCHEMES, SIZES, chromium, contrast, look, problems
from tests.experiments.report.made_up import make_run


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    run = make_run(tmp_path_factory.mktemp("run"), sparsities=(0.9, 0.98))
    return report.write_report(run)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_page_of_a_run(driver: Any, page: pathlib.Path, size: str, scheme: str) -> None:
    seen = look(driver, page, size, scheme)
    assert problems(seen, page) == []
    assert seen["images"] == page.read_text().count("<img")
    assert seen["drawings"] == page.read_text().count("<svg")
    assert seen["images"] > 20
    assert seen["drawings"] > 8


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_page_of_several_runs(
    driver: Any, tmp_path: pathlib.Path, size: str, scheme: str
) -> None:
    settings = ({"rate": 0.1, "data": "digits"}, {"rate": 0.2, "name" * 9: "value" * 30})
    runs = [
        make_run(tmp_path / name, methods=["dense", "gradual_magnitude"], seeds=2, config=config)
        for name, config in zip(("a-run", "another-run-of-a-long-name"), settings, strict=True)
    ]
    page = report.write_comparison(runs)
    seen = look(driver, page, size, scheme)
    assert problems(seen, page) == []
    assert seen["drawings"] > 8


def test_strips_play_when_asked_to_and_only_then(driver: Any, page: pathlib.Path) -> None:
    playing = "return document.getAnimations().length"
    tick = "document.querySelectorAll('.player input').forEach(each => each.click())"
    width = "return document.querySelector('#masks .strip').getBoundingClientRect().width"
    look(driver, page, "phone", "light")
    assert driver.execute_script(playing) == 0
    driver.execute_script(tick)
    assert driver.execute_script(playing) == page.read_text().count('class="strip"')
    assert 0 < driver.execute_script(width) < 200
    look(driver, page, "phone", "light", motion="reduce")
    driver.execute_script(tick)
    assert driver.execute_script(playing) == 0
    shown = "return getComputedStyle(document.querySelector('.player')).display"
    assert driver.execute_script(shown) == "none"


def test_light_and_dark_differ(driver: Any, page: pathlib.Path) -> None:
    light, dark = (look(driver, page, "phone", scheme)["ground"] for scheme in SCHEMES)
    assert contrast(light, "rgb(0, 0, 0)") > 15 > 2 > contrast(dark, "rgb(0, 0, 0)")


def test_what_is_wrong_is_seen(driver: Any, tmp_path: pathlib.Path) -> None:
    """The checks above can fail, each of them."""
    path = tmp_path / "wrong.html"
    path.write_text(
        "<!doctype html><title>x</title><link rel='icon' href='data:,'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<body style='background: #fff'><p style='color: #aaa; width: 5000px'>pale and wide</p>"
        "<img alt='gone' src='data:image/png;base64,AAAA'><img alt='far' src='http://x.invalid/'>"
        "<svg aria-label='flat' style='height: 0'></svg><script>throw Error('oh')</script>"
    )
    found = " ".join(problems(look(driver, path, "phone", "light"), path))
    for word in ("oh", "x.invalid", "width: 5", "picture: gone", "size: flat", "contrast: rgb(170"):
        assert word in found


def test_contrast_of_known_colors() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.478, abs=1e-3)
