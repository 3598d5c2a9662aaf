"""Lookahead pruning: three layers by hand, convolutions against NumPy loops, chains that break."""

import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.algorithms.lookahead import lookahead

KEY = jax.random.key(0)
CHAIN = ["a/kernel", "b/kernel", "c/kernel"]
PARAMS = {
    "a": {"bias": jnp.ones(2), "kernel": jnp.array([[3.0, 0.0], [4.0, 1.0]])},
    "b": {"bias": jnp.ones(3), "kernel": jnp.array([[1.0, -2.0, 2.0], [6.0, 4.0, -3.0]])},
    "c": {"kernel": jnp.array([[5.0, 12.0], [0.0, 2.0], [3.0, 4.0]])},
}


def prune(method: Any, params: Any, masks: Any = None, step: int = 0) -> dict[str, Any]:
    masks = method.init(KEY, params) if masks is None else masks
    masks, _ = jax.jit(method.update)(KEY, masks, params, params, step)
    return {name: mask["kernel"].astype(int).tolist() for name, mask in masks.items()}


def test_an_update_by_hand() -> None:
    # Norms into the units between a and b: 5, 1; out of them: 3, sqrt(61) = 7.8.
    # Into those between b and c: sqrt(37) = 6.1, sqrt(20) = 4.5, sqrt(13) = 3.6; out: 13, 2, 5.
    # a: [[3 x 3, 0], [4 x 3, 1 x 7.8]] = [[9, 0], [12, 7.8]].
    # b: [[1 x 5 x 13, 2 x 5 x 2, 2 x 5 x 5], [6 x 13, 4 x 2, 3 x 5]] = [[65, 20, 50], [78, 8, 15]].
    # c: [[30, 73], [0, 8.9], [10.8, 14.4]].
    assert prune(lookahead(0.5, chain=CHAIN), PARAMS) == {
        "a": [[1, 0], [1, 0]],
        "b": [[1, 0, 1], [1, 0, 0]],
        "c": [[1, 1], [0, 0], [0, 1]],
    }
    # By magnitude b would keep 6, 4 and -3.
    assert prune(jaxsparse.magnitude(0.5), PARAMS)["b"] == [[0, 0, 0], [1, 1, 1]]


def test_variants_by_hand() -> None:
    # Forward: a keeps [[3, 0], [4, 0]]; nothing feeds the second unit any more, so b keeps its
    # first row; then c is fed by norms 1, 2, 2: [[5, 12], [0, 4], [6, 8]].
    assert prune(lookahead(0.5, chain=CHAIN, variant="forward"), PARAMS) == {
        "a": [[1, 0], [1, 0]],
        "b": [[1, 1, 1], [0, 0, 0]],
        "c": [[0, 1], [0, 0], [1, 1]],
    }
    # Backward: c as in the base variant; its norms out are then 13, 0, 4: b = [[65, 0, 40],
    # [78, 0, 12]]; then a: out of its units come norms sqrt(5) = 2.2 and 6: [[6.7, 0], [8.9, 6]].
    assert prune(lookahead(0.5, chain=CHAIN, variant="backward"), PARAMS) == {
        "a": [[1, 0], [1, 0]],
        "b": [[1, 0, 1], [1, 0, 0]],
        "c": [[1, 1], [0, 0], [0, 1]],
    }


def test_batch_normalization_by_hand() -> None:
    # The second output of a is worth 10 times as much, for a itself and for the second row of b.
    params = {**PARAMS, "norm": {"scale": jnp.array([1.0, -10.0])}}
    where = lambda path, leaf: path.endswith("kernel")
    by_path = lookahead(0.5, chain=CHAIN, scales=["norm/scale", None, None], where=where)
    function = lambda params: [params["norm"]["scale"], None, None]
    by_function = lookahead(0.5, chain=CHAIN, scales=function, where=where)
    for method in (by_path, by_function):
        masks, _ = method.update(KEY, method.init(KEY, params), params, params, 0)
        # a: [[9, 0], [12, 78]]; b: [[65, 20, 50], [780, 80, 150]].
        assert masks["a"]["kernel"].astype(int).tolist() == [[0, 0], [1, 1]]
        assert masks["b"]["kernel"].astype(int).tolist() == [[0, 0, 0], [1, 1, 1]]


def norm(numbers: Any) -> float:
    return float(np.sqrt(np.sum(np.square(numbers))))


def paths_through(kernels: list[np.ndarray], layer: int) -> np.ndarray:
    """Scores of a layer, weight by weight: |w| x norm of what comes in x norm of what goes out."""
    found = np.zeros(kernels[layer].shape)
    for index in np.ndindex(*found.shape):
        unit, output = index[-2:]
        value = abs(kernels[layer][index])
        if layer:
            before = kernels[layer - 1]
            value *= norm(before[..., unit % before.shape[-1]])
        if layer + 1 < len(kernels):
            after, outputs = kernels[layer + 1], found.shape[-1]
            uses = [u for u in range(after.shape[-2]) if u % outputs == output]
            value *= norm([after[..., u, :] for u in uses])
        found[index] = value
    return found


@pytest.mark.parametrize("variant", ["base", "forward", "backward"])
def test_convolutions_and_a_flattening_equal_numpy(variant: Any) -> None:
    # Two convolutions, 2 x 3 positions flattened, two dense layers.
    shapes = [(3, 3, 2, 4), (3, 3, 4, 5), (30, 7), (7, 3)]
    names = ["conv_1", "conv_2", "dense_1", "dense_2"]
    method = lookahead(0.7, chain=[f"{n}/*" for n in names], variant=variant)
    init, update = method.init, jax.jit(method.update)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kernels = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        params = {n: {"kernel": jnp.asarray(k)} for n, k in zip(names, kernels, strict=True)}
        masks, info = update(KEY, init(KEY, params), params, params, 0)
        keep = list(jaxsparse.uniform([jnp.zeros(s) for s in shapes], 0.7))
        assert info.kept.tolist() == keep
        layers = reversed(range(4)) if variant == "backward" else range(4)
        left = [kernel.copy() for kernel in kernels]
        for layer in layers:
            score = paths_through(kernels if variant == "base" else left, layer)
            want = score >= np.sort(score, axis=None)[-keep[layer]]
            np.testing.assert_array_equal(masks[names[layer]]["kernel"], want)
            left[layer] = left[layer] * want


def test_the_flattened_channel_runs_fastest() -> None:
    # What a network computes: 2 x 2 positions of 3 channels, flattened; one channel feeds nothing.
    kernel = jnp.ones((1, 1, 1, 3))
    image = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    features = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    channel = np.broadcast_to(np.arange(3), features.shape).reshape(-1)
    dense = jnp.where((channel == 1)[:, None], 0.0, jnp.ones((12, 2)))
    params = {"conv": {"kernel": kernel}, "dense": {"kernel": dense}}
    found = prune(lookahead(1 / 3, chain=["conv*", "dense*"]), params)
    assert found["conv"] == [[[[1, 0, 1]]]]


def test_a_schedule_and_dense_neighbors() -> None:
    # A dense first layer counts as a neighbor; the sparsity rises with the step.
    where = lambda path, leaf: path in CHAIN[1:]
    for variant in ("base", "forward"):
        method = lookahead(
            jaxsparse.polynomial_sparsity(0.5, 0, 2, power=1.0),
            update=jaxsparse.every(1),
            chain=CHAIN,
            variant=variant,
            where=where,
        )
        masks, update, kept = method.init(KEY, PARAMS), jax.jit(method.update), []
        for step in range(4):
            masks, info = update(KEY, masks, PARAMS, PARAMS, step)
            kept.append(info.kept.tolist())
        # 1.5 zeros round to even.
        assert kept == [[6, 6], [4, 4], [3, 3], [3, 3]]
        if variant == "base":
            # As in one go; 20 and 15 of b are worth less once c's 2 is gone.
            assert masks["b"]["kernel"].astype(int).tolist() == [[1, 0, 1], [1, 0, 0]]


def test_leaves_outside_the_chain_are_pruned_by_magnitude() -> None:
    first = lambda masks: jaxsparse.sparse_paths(masks)[:1]
    found = prune(lookahead(0.5, chain=first), PARAMS)
    assert found == prune(jaxsparse.magnitude(0.5), PARAMS)


def test_training_prunes_at_its_step() -> None:
    method = lookahead(0.5, chain=CHAIN, step=3)
    assert [step for step in range(6) if method.due(step)] == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "chain is None; lookahead needs the paths of the kernels from input to output"),
        ({"chain": []}, r"chain is \[\]; lookahead needs"),
        ({"chain": CHAIN, "sparsity": 1.0}, r"is 1.0; it is the fraction of zeros"),
        ({"chain": CHAIN, "sparsity": jaxsparse.one_shot(0.5)}, "give a number and step, or a sch"),
        ({"chain": CHAIN, "update": jaxsparse.at(1)}, "give a number and step, or a schedule"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lookahead(**{"sparsity": 0.5} | options)


def test_an_unknown_variant() -> None:
    with pytest.raises(ValueError, match="variant is 'sideways'; it must be 'base', 'forward' or"):
        inspect.unwrap(lookahead)(0.5, chain=CHAIN, variant="sideways")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": ["a/kernel", "d/kernel"]}, "chain: pattern 'd/kernel' matches none of the 5"),
        ({"chain": ["*kernel"]}, r"chain: '\*kernel' matches 3 leaves \(a/kernel, b/kernel, c/"),
        ({"chain": CHAIN[::-1]}, r"chain: b/kernel \(2, 3\) has 3 outputs, a/kernel .* 2 inputs"),
        ({"chain": ["a/bias", *CHAIN[1:]]}, r"a/bias has shape \(2,\); kernels have two or more"),
        ({"chain": CHAIN, "scales": ["a/bias"]}, "1 scales for the 3 kernels of chain"),
        (
            {"chain": CHAIN, "scales": ["b/bias", None, None]},
            r"a/kernel has 2 outputs, its scale has shape \(3,\)",
        ),
    ],
)
def test_a_chain_that_does_not_fit_is_refused_in_init(
    options: dict[str, Any], message: str
) -> None:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    with pytest.raises(ValueError, match=message):
        lookahead(0.5, **options).init(KEY, shapes)


def test_every_order_of_neighbors_that_fits_is_taken() -> None:
    square = {name: jnp.ones((3, 3)) for name in "ab"}
    for order in itertools.permutations("ab"):
        lookahead(0.5, chain=list(order)).init(KEY, square)


def test_a_neighbor_in_another_part_of_a_partition_is_out_of_reach() -> None:
    apart = jaxsparse.partition({"c/*": jaxsparse.dense()}, default=lookahead(0.5, chain=CHAIN))
    with pytest.raises(ValueError, match="chain: c/kernel is out of reach, in another part"):
        apart.init(KEY, PARAMS)
