"""What the figures show: numbers read back from their lines and bars."""

import pathlib

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the experiments extra is not installed")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import arrays, plots, records
from experiments.report import cells, confidence, connections, degrees, layers, training

LOOK = plots.styles(["dense", "set", "rigl"])


def only_panel(figure: Figure | None) -> Axes:
    assert figure is not None
    (axes,) = figure.axes
    return axes


def test_reliability_pools_seeds_and_leaves_small_bins_out() -> None:
    count = np.array([[30, 0, 5], [10, 0, 5]])
    saved = arrays.Confidence(count, 0.25 * count, np.array([[3, 0, 5], [7, 0, 5]]), count, count)
    axes = only_panel(confidence.reliability_figure({"set": saved}, LOOK, title=""))
    diagonal, line = axes.get_lines()
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [100, 100]])
    np.testing.assert_allclose(line.get_xydata(), [[25, 25]])  # 10 of 40 right, 10 are too few


def test_histograms_of_both_sides_are_shares() -> None:
    one = np.ones((2, 3))
    saved = arrays.Confidence(
        one, one, one, np.array([[1, 1, 2], [0, 0, 4]]), np.array([[3, 0, 0], [0, 1, 0]])
    )
    axes = only_panel(confidence.outside_figure(saved, LOOK["set"], title=""))
    inside, outside = (patch.get_data() for patch in axes.patches)
    np.testing.assert_allclose(inside.values, [12.5, 12.5, 75])
    np.testing.assert_allclose(outside.values, [75, 25, 0])
    np.testing.assert_allclose(inside.edges, [0, 100 / 3, 200 / 3, 100])


def test_degrees_are_sorted_and_the_start_is_drawn_where_it_differs() -> None:
    counts = {
        "dense": np.array([[4, 4, 4], [3, 1, 2]]),  # dense at the start: only the end
        "set": np.array([[1, 2, 3], [2, 3, 1]]),  # the same distribution
        "rigl": np.array([[1, 2, 3], [6, 0, 0]]),
    }
    axes = only_panel(degrees.degrees_figure(counts, LOOK, title=""))
    found = [patch.get_data().values.tolist() for patch in axes.patches]
    assert found == [[1, 2, 3], [1, 2, 3], [0, 0, 6], [1, 2, 3]]


def test_bars_of_layers_are_means_over_seeds() -> None:
    bars = {"a": {"dense": [50.0], "set": [4.0, 6.0]}, "b": {"set": [0.5, 0.5]}}
    axes = only_panel(layers.bars_figure(bars, LOOK, title="", axis="x"))
    widths = [patch.get_width() for patch in axes.patches]
    np.testing.assert_allclose(widths, [50, 5, 0.5])
    assert [text.get_text() for text in axes.texts] == ["a", "50.0", "5.0", "b", "0.50"]


def test_flops_of_a_layer_are_its_share_times_what_it_keeps() -> None:
    sparse, dense = (records.Layer("a", [10, 4], 40, kept, 300) for kept in ([10, 20], None))
    rest = records.Layer("b", [1, 1], 1, None, 400)
    none: list[float] = []
    numbers = (none, none, none, [], 81, none, none, 0, [], [], [sparse, dense, rest])
    result = records.Result("set-0.9", "set", 0.9, [0, 1], 1, 1.0, 1.0, *numbers)
    assert layers.flops_of(sparse, result) == pytest.approx([7.5, 15])
    assert layers.flops_of(dense, result) == pytest.approx([30, 30])
    assert layers.flops_of(records.Layer("a", [10, 4], 40, None), result) is None


def test_gradient_norms_that_range_far_are_on_a_log_axis() -> None:
    rows = [{"step": step, "grad_norm": [10.0**-step]} for step in range(4)]
    cell = cells.Cell("set", "set", 0.9, pathlib.Path(), rows, None)
    axes = only_panel(training.curves([cell], "grad_norm", LOOK, title=""))
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [1, 0.1, 0.01, 0.001])


def test_of_deep_networks_some_layers_are_chosen() -> None:
    paths = [f"layer {i}" for i in range(20)]
    found = connections.chosen_layers(paths)
    assert len(found) == connections.LAYERS
    assert [found[0], found[-1]] == [paths[0], paths[-1]]
    assert connections.chosen_layers(paths[:2]) == paths[:2]
