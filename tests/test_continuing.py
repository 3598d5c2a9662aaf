"""Sparse training from weights that are there: the largest are kept, in a method's own numbers."""

import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import keep_largest
from tests.contract.methods import build, random_tree, same

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def pairs(masks: Any, weights: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = zip(jax.tree.leaves(masks), [weights[part] for part in SPARSE], strict=True)
    return [(np.asarray(mask), np.abs(np.asarray(part["kernel"]))) for mask, part in rows]


SPARSE = ("Conv_0", "Dense_0", "Dense_1")


@pytest.mark.parametrize("name", ["rigl", "srigl", "soft_deep_r"])
def test_a_method_begins_with_its_own_counts_and_the_largest_weights(name: str) -> None:
    """In each leaf; and in each neuron, where the method has a structure."""
    method, weights, key = build(name), random_tree(7), jax.random.key(3)
    usual = jax.jit(method.init)(key, weights)
    found = jax.jit(keep_largest(method).init)(key, weights)
    for (mask, size), (other, _) in zip(pairs(found, weights), pairs(usual, weights), strict=True):
        axes = tuple(range(mask.ndim - 1)) if name == "srigl" else None
        np.testing.assert_array_equal(mask.sum(axes), other.sum(axes))
        kept, dropped = np.where(mask, size, np.inf), np.where(mask, -np.inf, size)
        assert np.all(kept.min(axes) > dropped.max(axes))


def test_what_leaves_nothing_to_chance_is_returned_as_it_is() -> None:
    for method in (jaxsparse.dense(), build("str"), jaxsparse.fixed({"w": jnp.ones(2, bool)})):
        assert keep_largest(method) is method


def test_blocks_are_kept_whole_by_their_sums() -> None:
    method = jaxsparse.static(0.5, distribution=jaxsparse.uniform, structure=jaxsparse.block(2, 2))
    weights = {"w": random_tree(1)["Dense_0"]["kernel"]}
    mask = np.asarray(keep_largest(method).init(jax.random.key(0), weights)["w"])
    sums = np.abs(np.asarray(weights["w"])).reshape(6, 2, 8, 2).sum((1, 3))
    chosen = sums >= np.sort(sums.reshape(-1))[24]
    np.testing.assert_array_equal(mask, np.kron(chosen, np.ones((2, 2), bool)))


def test_from_sparse_to_sparser_and_back() -> None:
    """Higher: inside of what was there. Lower: all of it, and zeros that begin to be trained."""
    begin = functools.partial(keep_largest, jaxsparse.rigl(0.75, distribution=jaxsparse.uniform))
    weights = {"w": random_tree(2)["Dense_1"]["kernel"]}
    masks = begin().init(jax.random.key(0), weights)
    sparse = jaxsparse.apply_masks(weights, masks)
    for sparsity, kept in ((0.9, 17), (0.75, 42), (0.5, 83)):
        method = jaxsparse.rigl(sparsity, distribution=jaxsparse.uniform)
        tx = jaxsparse.sparsify(optax.sgd(0.1, momentum=0.9), keep_largest(method))
        state = tx.init(sparse)
        mask, was = np.asarray(state.masks["w"]), np.asarray(masks["w"])
        assert mask.sum() == kept
        assert (mask <= was).all() if sparsity >= 0.75 else (mask >= was).all()
        params = jaxsparse.initial_params(sparse, state)
        updates, state = tx.update({"w": jnp.ones((15, 11))}, state, params)
        after = np.asarray(optax.apply_updates(params, updates)["w"])
        assert np.count_nonzero(after) == kept
        np.testing.assert_allclose(after[mask], np.asarray(sparse["w"])[mask] - 0.1, rtol=1e-5)


def test_each_part_of_a_partition_begins_so_and_accounts_are_kept() -> None:
    parts = {"Dense_0/*": jaxsparse.rigl(0.5), "Dense_1/*": jaxsparse.magnitude(0.5)}
    mixed = jaxsparse.partition(parts, default=jaxsparse.dense())
    weights, key = random_tree(3), jax.random.key(0)
    masks = keep_largest(jaxsparse.explored(mixed)).init(key, weights)
    alone = keep_largest(jaxsparse.rigl(0.5)).init(key, {"a": weights["Dense_0"]["kernel"]})
    assert same(masks["Dense_0"]["kernel"], alone["a"])
    assert np.asarray(masks["Dense_1"]["kernel"]).all()
    assert isinstance(masks["Conv_0"]["kernel"], optax.MaskedNode)
    # Without it, the choice is the one it always was.
    assert same(mixed.init(key, weights), mixed.init(key, jax.tree.map(jnp.negative, weights)))


def test_the_examples_of_the_page_run(tmp_path: pathlib.Path) -> None:
    page = pathlib.Path(__file__).parents[1] / "docs" / "checkpoints.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"folder": tmp_path}
    exec(blocks[0], names)
    assert same(names["restored"], {"params": names["params"], "state": names["state"]})
    exec(blocks[1], names)
    kept = np.asarray(names["params"]["kernel"]) != 0
    assert kept.sum() == 784 * 300 // 20
    assert (kept <= (np.asarray(names["trained"]["kernel"]) != 0)).all()
