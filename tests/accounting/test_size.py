"""Bytes at rest against hand-worked leaves and the published sizes of sparse ResNet-50."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.models import ResNet50
from jaxsparse.accounting import size_bytes


def test_encodings_of_one_leaf() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0, :3] = True
    params = {"w": jnp.ones((10, 10)), "b": jnp.ones(7)}
    report = size_bytes(params, {"w": mask, "b": optax.MaskedNode()})
    rows = {row.path: row for row in report.leaves}
    assert rows["w"] == ("w", (10, 10), 3, 400, 12 + 13, 12 + 12)
    assert rows["w"].smallest == 24
    assert rows["b"] == ("b", (7,), 7, 28, 28, 28)
    assert (report.dense, report.bitmask, report.indices, report.smallest) == (428, 53, 52, 52)
    assert size_bytes(params, {"w": 3}, index_bytes=1).indices == 12 + 3 + 28


def test_dtypes_and_full_masks() -> None:
    params = {"w": jax.ShapeDtypeStruct((16, 16), jnp.bfloat16)}
    assert size_bytes(params).bitmask == size_bytes(params, {"w": 256}).bitmask == 512
    assert size_bytes(params, {"w": 128}).bitmask == 256 + 32


def test_table_has_a_row_a_leaf_and_a_total() -> None:
    lines = str(size_bytes({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, {"a": 2})).splitlines()
    assert lines[0].split() == ["leaf", "shape", "kept", "dense", "bitmask", "indices", "smallest"]
    assert lines[1].split() == ["a", "(2,", "3)", "2", "24", "9", "16", "9"]
    assert lines[-1].split() == ["total", "36", "21", "28", "21"]


X = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
KERNELS = {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(ResNet50().init, jax.random.key(0), X)["params"]
    )
    if leaf.ndim > 1
}
# RigL's count: a bias in every layer, and no normalization.
RESNET50 = {
    path: {"kernel": leaf, "bias": jax.ShapeDtypeStruct(leaf.shape[-1:], leaf.dtype)}
    for path, leaf in KERNELS.items()
}


@pytest.mark.parametrize(
    ("sparsity", "conv1_dense", "megabytes"),
    [(0.0, True, 102.122), (0.9, True, 13.532), (0.95, True, 8.433), (0.9, False, 13.499)],
)
def test_published_sizes_of_uniform_resnet50(
    sparsity: float, conv1_dense: bool, megabytes: float
) -> None:
    masks = {
        path: {"kernel": round(leaf.size * (1 - sparsity))}
        for path, leaf in KERNELS.items()
        if not (conv1_dense and path == "['conv1']['kernel']")
    }
    assert size_bytes(RESNET50, masks).bitmask / 1e6 == pytest.approx(megabytes, abs=1.1e-3)


@pytest.mark.parametrize(
    ("epsilon", "megabytes"), [(99.562, 23.684), (48.787, 13.499), (24.372, 8.399)]
)
def test_published_sizes_of_erdos_renyi_kernel_resnet50(epsilon: float, megabytes: float) -> None:
    masks = {
        path: {"kernel": min(round(epsilon * sum(leaf.shape)), leaf.size)}
        for path, leaf in KERNELS.items()
    }
    assert size_bytes(RESNET50, masks).bitmask / 1e6 == pytest.approx(megabytes, abs=1.1e-3)
