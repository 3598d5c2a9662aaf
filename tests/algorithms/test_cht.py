"""CHT: link prediction by hand and against loops over paths, and one update."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from jaxsparse.algorithms.cht import cht
from jaxsparse.scores import length_three_paths

# Four inputs, four outputs.
MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]], bool)


def predict(mask: Any, kind: Any) -> np.ndarray:
    mask = jnp.asarray(mask)
    return np.asarray(length_three_paths(kind)(jax.random.key(0), mask * 1.0, None, mask, None))


def test_by_hand() -> None:
    # From input 0 to output 2: over output 0 and input 1, and over output 1 and input 2.
    # Output 0 (links to 0, 1): one to the neighbors of output 2, none elsewhere but the link to
    # input 0: 2/1. Output 1 (0, 2): the same. Input 1 (0, 2): 2/1. Input 2 (1, 2, 3): one to the
    # neighbors of input 0, one elsewhere, to output 3: 2/2.
    np.testing.assert_allclose(predict(MASK, "ch2")[0, 2], 2 + 2 + 2 + 1, atol=1e-3)
    np.testing.assert_allclose(predict(MASK, "ch3")[0, 2], 1 + 1 + 1 + 0.5, atol=1e-3)
    # Degrees 2, 2 and 2, 3.
    np.testing.assert_allclose(predict(MASK, "l3")[0, 2], 1 / 2 + 1 / 6**0.5, atol=2e-3)
    # Input 3 has output 3 alone, from there only input 2 and its outputs 1 and 2: not output 0.
    np.testing.assert_allclose(predict(MASK, "ch2")[3, 0], 0, atol=1e-3)


def by_loops(mask: np.ndarray, kind: str) -> np.ndarray:
    """Every pair without a link, every path, every node."""
    found = np.zeros(mask.shape)
    for u in range(len(mask)):
        for v in np.flatnonzero(~mask[u]):
            paths = [
                (z1, z2)
                for z1 in np.flatnonzero(mask[u])
                for z2 in np.flatnonzero(mask[:, v])
                if mask[z2, z1]
            ]
            if kind == "l3":
                degrees = [mask[:, z1].sum() * mask[z2].sum() for z1, z2 in paths]
                found[u, v] = sum(1 / n**0.5 for n in degrees)
                continue
            for z1 in {z1 for z1, _ in paths}:
                inside = (mask[:, z1] & mask[:, v]).sum()
                outside = mask[:, z1].sum() - inside - 1
                found[u, v] += (1 + inside if kind == "ch2" else 1) / (1 + outside)
            for z2 in {z2 for _, z2 in paths}:
                inside = (mask[z2] & mask[u]).sum()
                outside = mask[z2].sum() - inside - 1
                found[u, v] += (1 + inside if kind == "ch2" else 1) / (1 + outside)
    return found


@pytest.mark.parametrize("kind", ["ch2", "ch3", "l3"])
def test_against_loops(kind: str) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((2, 3, 6, 9)) < 0.3
    found = predict(mask, kind)
    for place in np.ndindex(2, 3):
        # A convolution is a graph for each position of its kernel.
        absent = ~mask[place]
        np.testing.assert_allclose(
            found[place][absent], by_loops(mask[place], kind)[absent], atol=2e-2
        )


def test_update_by_hand() -> None:
    # Nine links of twenty. One goes, the least weight, 0.5 from input 4 to output 0. The graph that
    # is left is the one above: ahead of all others is input 0 to output 2, with 7, or another pair
    # with as much.
    mask = np.vstack([MASK, [[True, False, False, False]]])
    weight = np.where(mask, 2.0, 0.0)
    weight[4, 0] = 0.5
    params, masks = {"w": jnp.asarray(weight)}, {"w": jnp.asarray(mask)}
    method = cht(0.55, drop_fraction=0.12)
    new, info = jax.jit(method.update)(jax.random.key(0), masks, params, params, 100)
    assert (int(info.dropped), int(info.grown)) == (1, 1)
    new = np.asarray(new["w"])
    assert not new[4, 0]
    ((row, column),) = np.argwhere(new & ~mask)
    rest = mask.copy()
    rest[4, 0] = False
    wanted = np.where(rest, -1, by_loops(rest, "ch2"))
    assert wanted[row, column] == wanted.max() > 0


def test_equal_scores_come_at_random() -> None:
    # Every link is like every other: none has a path.
    masks, params = {"w": jnp.eye(8, dtype=bool)}, {"w": jnp.eye(8)}
    draw = lambda key: cht(0.9, drop_fraction=0.5).update(key, masks, params, params, 0)[0]["w"]
    new = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 40)))
    assert (new.sum((1, 2)) >= 8 * 0.5).all()
    assert new.any(0).sum() > 40


def test_when_and_bad_arguments() -> None:
    method = cht(0.9)
    assert np.flatnonzero(method.due(jnp.arange(301))).tolist() == [100, 200, 300]
    assert not bool(method.dense_gradients(100))
    assert not bool(method.pauses(100))
    with pytest.raises(ValueError, match="kind is 'l2'; it must be 'ch2', 'ch3' or 'l3'"):
        length_three_paths.__wrapped__("l2")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"drop_fraction is 2.0; it must lie in \[0, 1\]"):
        cht(0.9, drop_fraction=2.0)
    flat = {"w": jnp.ones(8)}
    method = cht(0.5, where=lambda path, leaf: True, distribution=jaxsparse.uniform)
    masks = method.init(jax.random.key(0), flat)
    with pytest.raises(ValueError, match=r"paths need two dimensions or more, not \(8,\)"):
        method.update(jax.random.key(0), masks, flat, flat, 0)
