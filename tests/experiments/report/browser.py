"""Headless Chromium, and what it finds wrong with a page."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
SCHEMES = ("light", "dark")

_MEASURE = """
const shown = each => { const box = each.getBoundingClientRect();
  return box.width > 0 && box.height > 0; };
const name = each => each.getAttribute('aria-label') || each.alt || each.outerHTML.slice(0, 60);
for (const each of document.querySelectorAll('details')) each.open = true;
const root = document.documentElement;
const images = [...document.images], drawings = [...document.querySelectorAll('svg')];
const color = each => getComputedStyle(each).color;
return {
  images: images.length, drawings: drawings.length,
  width: [root.scrollWidth, root.clientWidth],
  broken: images.filter(each => !each.complete || each.naturalWidth === 0).map(name),
  unseen: [...images, ...drawings].filter(each => !shown(each)).map(name),
  ground: getComputedStyle(document.body).backgroundColor,
  inks: [...document.querySelectorAll('h1, p, td, th, figcaption, svg')].map(color),
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A driver of Debian's Chromium, ended with the context; where there is none, a skip."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    found = {
        "chromium": shutil.which("chromium") or shutil.which("google-chrome"),
        "chromedriver": shutil.which("chromedriver"),
    }
    missing = " and no ".join(name for name, path in found.items() if path is None)
    if missing:
        pytest.skip(f"a real browser: no {missing} here; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


def look(driver: Any, path: pathlib.Path, size: str, scheme: str, motion: str = "") -> dict:
    """Load a page, offline, and measure it.

    Args:
      driver: From ``chromium``.
      path: The page.
      size: A key of ``SIZES``.
      scheme: One of ``SCHEMES``.
      motion: What the reader prefers: empty, or ``reduce``.

    Returns:
      What the page measured of itself; ``said``, its console; ``asked``, its requests.
    """
    width, height = SIZES[size]
    cdp = driver.execute_cdp_cmd
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2}
    cdp("Emulation.setDeviceMetricsOverride", metrics | {"mobile": size == "phone"})
    media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in media.items()]
    cdp("Emulation.setEmulatedMedia", {"features": features})
    cdp("Network.enable", {})
    speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    cdp("Network.emulateNetworkConditions", {"offline": True} | speed)
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.as_uri())
    measured = driver.execute_script(_MEASURE)
    events = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    sent = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    measured["asked"] = [each["request"]["url"] for each in sent]
    measured["said"] = [
        each["message"]
        for each in driver.get_log("browser")
        if each["level"] in ("SEVERE", "WARNING")
    ]
    return measured


def problems(measured: dict, path: pathlib.Path) -> list[str]:
    """What is wrong with a page that was looked at.

    Args:
      measured: From ``look``.
      path: The page.

    Returns:
      A line for each thing wrong.
    """
    found = [f"console: {each}" for each in measured["said"]]
    others = [each for each in measured["asked"] if not each.startswith("data:")]
    if path.as_uri() not in others:
        found.append("the page itself was not seen among the requests")
    found += [f"request: {each}" for each in others if each != path.as_uri()]
    content, window = measured["width"]
    if content > window:
        found.append(f"width: {content} pixels in a window of {window}")
    found += [f"no picture: {each}" for each in measured["broken"]]
    found += [f"no size: {each}" for each in measured["unseen"]]
    for ink in sorted(set(measured["inks"])):
        if contrast(ink, measured["ground"]) < 4.5:  # WCAG 2.2, 1.4.3
            found.append(f"contrast: {ink} on {measured['ground']}")
    return found


def contrast(ink: str, ground: str) -> float:
    """The contrast of two colors such as ``rgb(0, 0, 0)``, from 1 to 21 (WCAG 2.2)."""

    def luminance(color: str) -> float:
        parts = [float(each) / 255 for each in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(ink), luminance(ground)])
    return (high + 0.05) / (low + 0.05)
