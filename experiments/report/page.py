"""The pieces of a self-contained HTML page: figures, legends and tables as markup.

Text of the callers is escaped here, so they pass it as it is; what returns ``str`` is markup.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .. import plots
from . import style

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
        f"<title>{html.escape(title)}</title>\n<style>{style.CSS}</style>\n</head>\n<body>\n"
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


def contents(sections: Sequence[str]) -> str:
    """Links to the sections of a page.

    Args:
      sections: Markup from ``section``, in order.

    Returns:
      Markup.
    """
    found = [re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', each) for each in sections]
    links = [f'<a href="#{each[1]}">{each[2]}</a>' for each in found if each]
    return f"<nav>{''.join(links)}</nav>"


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
    for method, drawn in look.items():
        color = "currentColor" if drawn.color == plots.INK else drawn.color
        dash = " ".join(f"{2 * each:g}" for each in drawn.dash)
        line = f'<path d="M0 5h28" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        marker = _OUTLINES[drawn.marker]
        mark = f'<path d="{marker}" transform="translate(9 0)" fill="{color}"/>'
        swatch = f'<svg viewBox="0 0 28 10" aria-hidden="true">{line}{mark}</svg>'
        items.append(f"<li>{swatch}{html.escape(method)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table that scrolls sideways by itself where it is too wide.

    Args:
      heads: Heads of the columns.
      rows: Texts; the first of each row is its head.
      kind: ``numbers``, or ``texts`` that may wrap.

    Returns:
      Markup.
    """
    name = _breakable if kind == "texts" else html.escape
    head = "".join(element("th", each) for each in heads)
    body = "".join(
        f"<tr><th>{name(first)}</th>{''.join(element('td', each) for each in others)}</tr>"
        for first, *others in rows
    )
    whole = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{whole}</div>'


def facts(values: Any) -> str:
    """Nested values as rows of dotted names and texts.

    Args:
      values: What JSON can say, usually a dictionary.

    Returns:
      Markup.
    """
    lines = "".join(
        f"<tr><th>{_breakable(name)}</th>{element('td', text)}</tr>"
        for name, text in flat("", values)
    )
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Nested values as dotted names and texts.

    Args:
      name: Where they are, empty at the top.
      value: What JSON can say.

    Returns:
      Pairs of a name and a text, in order.
    """
    if isinstance(value, Mapping):
        pairs = [flat(f"{name}.{key}" if name else str(key), each) for key, each in value.items()]
        return [pair for found in pairs for pair in found]
    if isinstance(value, list | tuple):
        return [(name, ", ".join("none" if each is None else str(each) for each in value))]
    return [(name, "none" if value is None else str(value))]


def _breakable(name: str) -> str:
    """Markup of a dotted name, which may wrap after its dots and underscores."""
    return re.sub(r"([._])", r"\1<wbr>", html.escape(name))
