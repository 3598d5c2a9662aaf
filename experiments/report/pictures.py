"""Pixel maps over training, as markup: small pictures in a row, on one scale of color.

Where the reader ticks ``player`` in the same section, a row plays as an animation; not on paper,
nor for readers whose system asks for less motion.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.colors import to_hex

from .page import element


def player() -> str:
    """A box to tick, which sets the strips of its section in motion.

    Returns:
      Markup.
    """
    return '<label class="player"><input type="checkbox"> Play as animations</label>'


def strip(
    title: str,
    steps: Sequence[int],
    maps: np.ndarray,
    *,
    words: Callable[[np.ndarray], str],
    number: Callable[[float], str] = "{:,}".format,
    heading: str = "h3",
) -> str:
    """Pixel maps over training, on one scale of color.

    Args:
      title: What the strip is of.
      steps: Step of each map.
      maps: [T, height, width], not negative; zeros are left out of the color.
      words: What a map shows, for those who do not see it; of the last one for all.
      number: How a value is written at the ends of the scale.
      heading: Element of the title.

    Returns:
      Markup.
    """
    colors = matplotlib.colormaps["viridis"]
    some = maps[maps > 0]
    low, high = (some.min(), some.max()) if some.size else (0, 0)
    logarithmic = high > 4 * low > 0  # from dense to sparse, say: else the sparse end is one color
    low = 0 if low == high else low
    ruler = np.log if logarithmic else np.asarray
    span = ruler(high) - ruler(low) if high else 1
    unit = (ruler(np.maximum(maps, low or 0)) - ruler(low)) / span
    pictures = []
    for step, values, shares in zip(steps, maps, unit, strict=True):
        pixels = colors(shares)
        pixels[values == 0, 3] = 0
        out = io.BytesIO()
        matplotlib.image.imsave(out, pixels, format="png")
        data = base64.b64encode(out.getvalue()).decode()
        text = html.escape(f"{title}, step {step}: {words(values)}")
        image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
        pictures.append(f"<figure>{image}{element('figcaption', f'step {step:,}')}</figure>")
    ramp = ", ".join(to_hex(colors(x)) for x in np.linspace(0, 1, 9))
    ends = [html.escape(number(each.item() if each else 0)) for each in (low, high)]
    scale = (
        f'<div class="scale">{ends[0]}<i style="background: linear-gradient(90deg, {ramp})"></i>'
        f"{ends[1]}{' (log)' if logarithmic else ''}"
        f"{'<b></b>none left' if (maps == 0).any() else ''}"
        f"{element('span', f'{words(maps[-1])} at step {steps[-1]:,}', 'end')}</div>"
    )
    frames = f'<div class="frames">{"".join(pictures)}</div>'
    shown = f'<div class="strip" style="--n: {len(steps)}">{frames}</div>'
    return f"<figure>{element(heading, title)}{shown}{scale}</figure>"
