"""What is kept of masks over training: densities of blocks, and degrees."""

import math
import pathlib

import numpy as np
import pytest

from experiments import arrays
from experiments.snapshots import BLOCKS, Snapshots, view_mask

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def test_a_small_mask_is_kept_as_it_is() -> None:
    mask = np.array([[1, 0, 1], [0, 0, 1]], bool)
    view = view_mask(mask)
    np.testing.assert_array_equal(view.density, mask)
    assert view.fan_in.tolist() == [1, 0, 2]
    assert view.fan_out.tolist() == [2, 1]


def test_a_convolution_has_a_row_a_place_and_channel() -> None:
    mask = np.zeros((3, 3, 2, 4), bool)
    mask[1, 2, 1, 3] = mask[1, 2, 0, 3] = mask[0, 0, 1, 0] = True
    view = view_mask(mask)
    assert view.density.shape == (18, 4)
    assert np.argwhere(view.density).tolist() == [[1, 0], [10, 3], [11, 3]]
    assert view.fan_in.tolist() == [1, 0, 0, 2]
    assert view.fan_out.tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(64, 32), (33, 100), (5, 1000), (3, 3, 16, 40)])
def test_blocks_hold_every_weight_once(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    view = view_mask(mask)
    rows, columns = mask.size // shape[-1], shape[-1]
    assert view.density.shape == (min(rows, BLOCKS), min(columns, BLOCKS))
    matrix = mask.reshape(rows, columns)
    # Blocks differ by one row at most, and so do their columns.
    for row in (0, -1):
        high, wide = rows / view.density.shape[0], columns / view.density.shape[1]
        found = [
            matrix[:h, :w].mean() if row == 0 else matrix[-h:, -w:].mean()
            for h in {math.floor(high), math.ceil(high)}
            for w in {math.floor(wide), math.ceil(wide)}
        ]
        assert np.isclose(view.density[row, row], found, rtol=1e-3).any()
    np.testing.assert_array_equal(view.fan_in, matrix.sum(0))
    assert view.fan_in.sum() == view.fan_out.sum() == mask.sum()


def test_files_go_on_where_a_run_was_stopped(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    masks = [{"a": rng.random((2, 4, 3)) < 0.5, "b": None, "bias": None} for _ in range(3)]
    log = Snapshots(tmp_path, (2, 2, 1), 0)
    for step, mask in zip((0, 10, 20), masks, strict=True):
        log.add(step, mask)
    log.save()
    again = Snapshots(tmp_path, (2, 2, 1), 10)
    again.add(30, masks[2])
    again.save()
    inputs, views = arrays.read_inputs(tmp_path), arrays.read_masks(tmp_path)
    assert inputs is not None
    assert views is not None
    assert inputs[0] == views[0] == [0, 10, 30]
    assert [*views[1]] == ["a"]
    for i, mask in enumerate(masks):
        first = mask["a"][0]
        np.testing.assert_array_equal(inputs[1][i].ravel(), first.sum(1))
        np.testing.assert_array_equal(views[1]["a"].density[i], first)


def test_nothing_is_written_where_nothing_is_sparse(tmp_path: pathlib.Path) -> None:
    log = Snapshots(tmp_path, (2, 2, 1), 0)
    log.add(0, {"a": None})
    log.save()
    assert not [*tmp_path.iterdir()]
    assert arrays.read_masks(tmp_path) is None
