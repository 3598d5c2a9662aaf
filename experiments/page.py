"""The pieces of a self-contained HTML page: figures, legends, tables and pixel maps as markup.

Text of the callers is escaped here, so they pass it as it is; what returns ``str`` is markup.
"""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from . import plots

# Marker outlines on a 10 by 10 field, as matplotlib draws them.
_OUTLINES = {
    "o": "M5 1a4 4 0 1 0 .01 0z",
    "s": "M1.5 1.5h7v7h-7z",
    "D": "M5 .5L9.5 5L5 9.5L.5 5z",
    "^": "M5 1L9.3 9H.7z",
    "v": "M5 9L9.3 1H.7z",
    "P": "M3.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "X": "M3 1L5 3L7 1L9 3L7 5L9 7L7 9L5 7L3 9L1 7L3 5L1 3z",
    "*": "M5 0L6.2 3.6H10L7 5.9L8.1 9.6L5 7.4L1.9 9.6L3 5.9L0 3.6H3.8z",
}

_CSS = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2024; --soft: #565b61;
  --line: #d9dce0; --wash: #f4f5f7; --alarm: #9a5b00; --empty: #d9dce0; }
@media (prefers-color-scheme: dark) { :root { --ground: #15171a; --ink: #e6e8ea;
  --soft: #a9afb6; --line: #34383d; --wash: #1f2226; --alarm: #f0b35a; --empty: #34383d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 66rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .2rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 46rem; color: var(--soft); }
p.notice { color: var(--ink); border-left: 4px solid var(--alarm); background: var(--wash);
  padding: .6rem .8rem; max-width: none; }
.scroll { overflow-x: auto; border-block: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.scroll > table { min-width: 100%; overflow-wrap: normal; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom;
  line-height: 1.25; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); }
table.facts { width: 100%; margin: .5rem 0; }
table.facts th, table.facts td { text-align: left; white-space: normal; vertical-align: top;
  font-weight: 400; padding: .25rem .7rem .25rem 0; position: static; }
table.facts th { color: var(--soft); width: 38%; }
.grid { display: grid; gap: 1rem 1.6rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.grid > figure { max-width: 34rem; }
figure { margin: 0; min-width: 0; }
figure > svg { display: block; width: 100%; height: auto; color: var(--soft); }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
ul.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; list-style: none; padding: 0;
  margin: .5rem 0 .3rem; font-size: .92rem; }
ul.legend svg { width: 2.1rem; height: .75rem; margin-right: .4rem; color: var(--soft); }
.strip { display: grid; grid-template-columns: repeat(6, 1fr); gap: .4rem; }
.strip figcaption { font-size: .75rem; color: var(--soft); text-align: center; }
.strip img { display: block; width: 100%; image-rendering: pixelated; background: var(--empty); }
.scale { display: flex; align-items: center; gap: .4rem; font-size: .78rem; color: var(--soft);
  margin: .35rem 0 .8rem; font-variant-numeric: tabular-nums; }
.scale i { height: .55rem; width: 7rem; }
.scale b { height: .75rem; width: .75rem; background: var(--empty); margin-left: .8rem; }
.scale .end { margin-left: auto; text-align: right; }
@media (max-width: 30rem) { .strip { grid-template-columns: repeat(3, 1fr); }
  .scale i { width: 4rem; } .scroll th, .scroll td { padding: .35rem .45rem; font-size: .82rem; } }
@media print { details > * { display: block; } }
"""


def document(title: str, body: Sequence[str]) -> str:
    """A whole page.

    Args:
      title: Shown in the browser's tab.
      body: Markup, in order.

    Returns:
      HTML that asks for nothing from any other place.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def element(tag: str, text: str, kind: str = "") -> str:
    """An element that holds text.

    Args:
      tag: Name of the element.
      text: Its text.
      kind: Its class, if any.

    Returns:
      Markup.
    """
    start = f'<{tag} class="{kind}">' if kind else f"<{tag}>"
    return f"{start}{html.escape(text)}</{tag}>"


def section(name: str, title: str, caption: str, parts: Sequence[str]) -> str:
    """A section of the page.

    Args:
      name: Its id, by which a link finds it.
      title: Its heading.
      caption: What it shows, in words; may be empty.
      parts: Its markup.

    Returns:
      Markup.
    """
    words = element("p", caption) if caption else ""
    head = f'<section id="{html.escape(name)}">{element("h2", title)}{words}'
    return head + "\n".join(parts) + "</section>"


def grid(parts: Sequence[str], shown: int | None = None, rest: str = "") -> str:
    """Figures side by side where there is room.

    Args:
      parts: Markup of each.
      shown: How many are seen at once; all of them by default.
      rest: What the others are called, behind a click.

    Returns:
      Markup.
    """
    first = f'<div class="grid">{"".join(parts[:shown])}</div>'
    if shown is None or len(parts) <= shown:
        return first
    others = f'<div class="grid">{"".join(parts[shown:])}</div>'
    return f"{first}<details>{element('summary', rest)}{others}</details>"


def figure(drawing: Figure, label: str) -> str:
    """A matplotlib figure as inline SVG whose ink is the page's own text color.

    Args:
      drawing: The figure.
      label: What it shows, for those who do not see it; also makes its ids its own.

    Returns:
      Markup.
    """
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
        drawing.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue().decode()
    box = re.search(r'viewBox="[^"]*"', text)
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r" ?font-family: [^;\"]*;?", "", inner)
    inner = inner.replace("xlink:href", "href").replace(plots.INK, "currentColor")
    inner = re.sub(r"\s*\n\s*", "\n", inner)
    named = f'role="img" aria-label="{html.escape(label)}"'
    return f"<figure><svg {box.group() if box else ''} {named}>{inner}</figure>"


def legend(look: Mapping[str, plots.Style]) -> str:
    """Names of the methods with their lines, which wraps on a narrow screen.

    Args:
      look: Style of each method.

    Returns:
      Markup.
    """
    items = []
    for method, style in look.items():
        color = "currentColor" if style.color == plots.INK else style.color
        dash = " ".join(f"{2 * each:g}" for each in style.dash)
        line = f'<path d="M0 5h28" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        marker = _OUTLINES[style.marker]
        mark = f'<path d="{marker}" transform="translate(9 0)" fill="{color}"/>'
        swatch = f'<svg viewBox="0 0 28 10" aria-hidden="true">{line}{mark}</svg>'
        items.append(f"<li>{swatch}{html.escape(method)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways by itself where it is too wide.

    Args:
      heads: Heads of the columns.
      rows: Texts; the first of each row is its head.

    Returns:
      Markup.
    """
    head = "".join(element("th", each) for each in heads)
    body = "".join(
        f"<tr>{element('th', first)}{''.join(element('td', each) for each in others)}</tr>"
        for first, *others in rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{whole}</div>'


def facts(values: Any) -> str:
    """Nested values as rows of dotted names and texts.

    Args:
      values: What JSON can say, usually a dictionary.

    Returns:
      Markup.
    """
    lines = "".join(
        f"<tr>{element('th', name)}{element('td', text)}</tr>" for name, text in _flat("", values)
    )
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def strip(title: str, steps: Sequence[int], maps: np.ndarray) -> str:
    """Pixel maps over training, on one scale of color.

    Args:
      title: What the strip is of.
      steps: Step of each map.
      maps: Counts [T, height, width]; zeros are left out of the color.

    Returns:
      Markup.
    """
    colors = matplotlib.colormaps["viridis"]
    low = int(maps[maps > 0].min()) if (maps > 0).any() else 0
    high = int(maps.max(initial=0))
    logarithmic = high > 4 * low > 0  # from dense to sparse, say: else the sparse end is one color
    ruler = np.log if logarithmic else np.asarray
    unit = (ruler(np.maximum(maps, low)) - ruler(low)) / (ruler(max(high, low + 1)) - ruler(low))
    pictures = []
    for step, values, shares in zip(steps, maps, unit, strict=True):
        pixels = colors(shares)
        pixels[values == 0, 3] = 0
        out = io.BytesIO()
        matplotlib.image.imsave(out, pixels, format="png")
        data = base64.b64encode(out.getvalue()).decode()
        text = f"{title}, step {step}: {int((values > 0).sum())} of {values.size} inputs connected"
        image = f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
        pictures.append(f"<figure>{image}{element('figcaption', f'step {step:,}')}</figure>")
    ramp = ", ".join(to_hex(colors(x)) for x in np.linspace(0, 1, 9))
    end = f"{int((maps[-1] > 0).sum()):,} of {maps[-1].size:,} connected at step {steps[-1]:,}"
    scale = (
        f'<div class="scale">{low}<i style="background: linear-gradient(90deg, {ramp})"></i>{high}'
        f"{' (log)' if logarithmic else ''}"
        f"{'<b></b>none left' if (maps == 0).any() else ''}{element('span', end, 'end')}</div>"
    )
    shown = f'<div class="strip">{"".join(pictures)}</div>'
    return f"<figure>{element('h3', title)}{shown}{scale}</figure>"


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        pairs = [_flat(f"{name}.{key}" if name else str(key), each) for key, each in value.items()]
        return [pair for found in pairs for pair in found]
    if isinstance(value, list | tuple):
        return [(name, ", ".join("none" if each is None else str(each) for each in value))]
    return [(name, "none" if value is None else str(value))]
