"""What the networks' confidence is worth: calibration, and images of no class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .. import arrays, records, tables
from ..plots import DENSE, INK, Style, panel
from . import page
from .cells import Cell, finished, levels, sparse
from .costs import against_sparsity

PANELS = 6  # at once; the others are behind a click
LEAST = 20  # examples in a bin that is drawn


def calibration_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """Reliability diagrams, and the numbers of all cells.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    title = "Calibration"
    pairs = [(label, result) for label, result in finished(cells) if result.evaluation]
    if not pairs:
        text = "Not recorded." if finished(cells) else "No cell is finished."
        return page.section("calibration", title, text, [])
    saved = {cell.name: arrays.read_confidence(cell.folder) for cell in cells}
    parts, drawn = [], set()
    for level in levels(cells):
        mine = {
            cell.label: found
            for cell in cells
            if (cell.method == DENSE or cell.sparsity == level)
            and (found := saved[cell.name]) is not None
        }
        what = "Reliability" + (f", {tables.sparsity_text(level)} sparse" if sparse(cells) else "")
        if mine:
            parts.append(page.figure(reliability_figure(mine, look, title=what), what))
            drawn |= mine.keys()
    if len({result.sparsity for _, result in pairs if result.method != DENSE}) > 1:
        what = "Calibration error (%) against sparsity"
        drawing = error_figure(pairs, look)
        drawing.axes[0].set_title(what, loc="left", color=INK, fontsize=11)
        parts.append(page.figure(drawing, what))
    text = (
        "Of the test images that a network gives a probability of 80 %, 80 % should be right: "
        "below the diagonal it is too sure of itself. All seeds together, bins of at least "
        f"{LEAST} images. ECE is the mean distance from the diagonal; NLL is in nats; Brier lies "
        "in 0 to 2. Logits are divided by the temperature: above 1, a network is too sure. For "
        "“ECE, scaled” each half of the images is divided by the temperature of the other half."
    )
    legend = page.legend({label: style for label, style in look.items() if label in drawn})
    content = [calibration_table(pairs), legend, page.grid(parts, PANELS, "The other sparsities")]
    return page.section("calibration", title, text, content)


def outside_section(cells: Sequence[Cell], look: dict[str, Style]) -> str:
    """Histograms of the confidence on test images and on images of no class.

    Args:
      cells: The cells of the run.
      look: Style of each method.

    Returns:
      Markup.
    """
    title = "Images of no class"
    pairs = [(label, result) for label, result in finished(cells) if result.evaluation]
    if not pairs:
        text = "Not recorded." if finished(cells) else "No cell is finished."
        return page.section("outside", title, text, [])
    parts = []
    for cell in cells:
        found = arrays.read_confidence(cell.folder)
        if found is not None:
            drawing = outside_figure(found, look[cell.label], title=cell.name)
            parts.append(page.figure(drawing, f"Confidence of {cell.name}"))
    names = dict.fromkeys(r.evaluation.outside for _, r in pairs if r.evaluation)
    text = (
        "The probability of the likeliest class, all seeds together: filled for test images, as a "
        f"line for images that belong to none of the classes ({', '.join(names)}). AUROC is how "
        "often it is greater for the former, 50 % is chance; FPR95 is the share of the latter "
        "above the threshold that 95 % of the former pass."
    )
    content = [_outside_table(pairs), page.grid(parts, PANELS, "The other cells")]
    return page.section("outside", title, text, content)


def calibration_table(pairs: Sequence[tuple[str, records.Result]]) -> str:
    """The numbers of calibration, a row a cell that has them.

    Args:
      pairs: Labels and results of finished cells.

    Returns:
      Markup.
    """
    heads = ["method", "sparsity", "ECE (%)", "NLL", "Brier", "temperature", "ECE, scaled (%)"]
    rows = [
        [
            label,
            tables.sparsity_text(result.sparsity),
            tables.percent_text(found.ece),
            tables.spread_text(result.test_loss),
            tables.spread_text(found.brier),
            tables.spread_text(found.temperature),
            tables.percent_text(found.scaled_ece),
        ]
        for label, result in pairs
        if (found := result.evaluation) is not None
    ]
    return page.table(heads, rows)


def _outside_table(pairs: Sequence[tuple[str, records.Result]]) -> str:
    rows = [
        [
            label,
            tables.sparsity_text(result.sparsity),
            tables.percent_text(found.auroc),
            tables.percent_text(found.fpr95),
        ]
        for label, result in pairs
        if (found := result.evaluation) is not None
    ]
    return page.table(["method", "sparsity", "AUROC (%)", "FPR95 (%)"], rows)


def error_figure(pairs: Sequence[tuple[str, records.Result]], look: Mapping[str, Style]) -> Figure:
    """The expected calibration error in percent against sparsity.

    Args:
      pairs: Labels and results of finished cells.
      look: Style of each label.

    Returns:
      The figure.
    """
    return against_sparsity(
        [
            (label, result, [100 * error for error in result.evaluation.ece])
            for label, result in pairs
            if result.evaluation is not None
        ],
        look,
    )


def reliability_figure(
    found: Mapping[str, arrays.Confidence], look: Mapping[str, Style], *, title: str
) -> Figure:
    """Accuracy against confidence, a line a label, seeds pooled, with the diagonal.

    Args:
      found: Histograms by label.
      look: Style of each label.
      title: Written above the panel.

    Returns:
      The figure.
    """
    figure, axes = panel(title, (4.6, 4.0))
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (1, 2)))
    for label, saved in found.items():
        count, confidence, correct = (
            each.sum(0) for each in (saved.count, saved.confidence, saved.correct)
        )
        full = count >= LEAST
        style = look[label]
        axes.plot(
            100 * confidence[full] / count[full],
            100 * correct[full] / count[full],
            color=style.color,
            marker=style.marker,
            linestyle=style.line,
            linewidth=1.4,
            markersize=8 if style.marker == "*" else 5,
        )
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel("confidence (%); upwards: images classified right (%)")
    return figure


def outside_figure(found: arrays.Confidence, style: Style, *, title: str) -> Figure:
    """Histograms of the confidence inside and outside, seeds pooled.

    Args:
      found: Histograms.
      style: Of the cell.
      title: Written above the panel.

    Returns:
      The figure.
    """
    figure, axes = panel(title)
    edges = np.linspace(0, 100, found.inside.shape[1] + 1)
    inside, outside = (
        100 * each.sum(0) / max(each.sum(), 1) for each in (found.inside, found.outside)
    )
    axes.stairs(inside, edges, fill=True, color=style.color, alpha=0.55)
    axes.stairs(outside, edges, color=INK, linewidth=1.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel("confidence (%); upwards: images (%)")
    return figure
