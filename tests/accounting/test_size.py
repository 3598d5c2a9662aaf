"""Bytes at rest against hand-worked leaves and the published sizes of sparse ResNet-50."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse.accounting import size_bytes


def test_encodings_of_one_leaf() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, :3] = True
    params = {"w": jnp.ones((10, 10)), "b": jnp.ones(7)}
    report = size_bytes(params, {"w": mask, "b": optax.MaskedNode()})
    rows = {row.path: row for row in report.leaves}
    assert rows["w"] == ("w", (10, 10), 3, 400, 12 + 13, 12 + 12 + 44)
    assert rows["w"].smallest == 25
    assert rows["b"] == ("b", (7,), 7, 28, 28, 28)
    assert (report.dense, report.bitmask, report.indices, report.smallest) == (428, 53, 96, 53)
    assert size_bytes(params, {"w": 3}, index_bytes=1).indices == 12 + 3 + 44 + 28
    # Few weights in few rows: indices are the smallest.
    assert size_bytes({"w": jnp.ones((1, 512))}, {"w": 2}).leaves[0][-3:] == (2048, 72, 24)


def test_dtypes_and_full_masks() -> None:
    params = {"w": jax.ShapeDtypeStruct((16, 16), jnp.bfloat16)}
    assert size_bytes(params).bitmask == size_bytes(params, {"w": 256}).bitmask == 512
    assert size_bytes(params, {"w": 128}).bitmask == 256 + 32


def test_table_has_a_row_a_leaf_and_a_total() -> None:
    lines = str(size_bytes({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": 2})).splitlines()
    assert lines[0].split() == ["leaf", "shape", "kept", "dense", "bitmask", "indices", "smallest"]
    assert lines[1].split() == ["a", "(2,", "3)", "2", "24", "9", "28", "9"]
    assert lines[-1].split() == ["total", "36", "21", "40", "21"]
