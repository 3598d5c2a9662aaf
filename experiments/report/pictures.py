"""Pixel maps over training, as markup: small pictures in a row, on one scale of color."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib
import matplotlib.image
import numpy as np
from matplotlib.colors import to_hex

from .page import element


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
