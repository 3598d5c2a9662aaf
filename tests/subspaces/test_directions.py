"""Random subspaces: theta_0 + P d, with P written out column by column."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsparse import subspaces
from jaxsparse.subspaces import RandomSubspace, random_subspace

KINDS = sorted(subspaces.PROJECTIONS)


def tree() -> dict[str, Any]:
    """1,076 floating weights, none of the leaves a multiple of a power of two from 16 on."""
    rng = np.random.default_rng(0)
    return {
        "a": {
            "bias": jnp.asarray(rng.normal(size=10), jnp.float32),
            "kernel": jnp.asarray(rng.normal(size=(30, 10)), jnp.float32),
        },
        "b": jnp.asarray(rng.normal(size=(3, 3, 5, 17)), jnp.float32),
        "scalar": jnp.float32(2.0),
    }


def flat(params: Any) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)]
    return np.concatenate(leaves)


def matrix(subspace: RandomSubspace) -> np.ndarray:
    """P (D, d), by its effect on unit vectors; without theta_0, whose addition would round."""
    still = subspace._replace(origin=jax.tree.map(jnp.zeros_like, subspace.origin))
    columns = jax.jit(jax.vmap(still.params))(jnp.eye(subspace.scale.size))
    return np.concatenate(
        [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(columns)],
        axis=1,
    ).T


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_at_the_parameters_and_moves_linearly(kind: str, key: jax.Array) -> None:
    params = tree()
    subspace = random_subspace(key, params, 12, projection=kind)
    assert (flat(subspace.params(subspace.init())) == flat(params)).all()
    p, d = matrix(subspace), np.random.default_rng(1).normal(size=12)
    assert p.shape == (1076, 12)
    assert np.linalg.matrix_rank(p) == 12
    moved = jax.jit(RandomSubspace.params)(subspace, jnp.asarray(d, jnp.float32))
    np.testing.assert_allclose(flat(moved), flat(params) + p @ d, atol=2e-6)
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    eager = subspace.params(jnp.asarray(d, jnp.float32))
    np.testing.assert_allclose(flat(moved), flat(eager), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_matrix(kind: str, key: jax.Array) -> None:
    params = tree()
    subspace = random_subspace(key, params, 12, projection=kind)
    at = jnp.linspace(-1, 1, 12)
    loss = lambda params: sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(params))
    found = jax.jit(jax.grad(lambda d: loss(subspace.params(d))))(at)
    expected = matrix(subspace).T @ flat(jax.grad(loss)(subspace.params(at)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_columns_are_unit_vectors(kind: str, key: jax.Array) -> None:
    p = matrix(random_subspace(key, tree(), 40, projection=kind))
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), 1, rtol=1e-6)


def test_columns_of_fastfood_are_unit_vectors_where_blocks_are_whole(key: jax.Array) -> None:
    whole = {"a": jnp.zeros((64, 10)), "b": jnp.zeros(128)}
    p = matrix(random_subspace(key, whole, 40, projection="fastfood"))
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), 1, rtol=2e-6)
    # Where they are cut: within four of the deviations that the docstring speaks of.
    cut = matrix(random_subspace(key, tree(), 40, projection="fastfood"))
    rows = [300 % 64, 765 % 64, 10, 1]
    stray = np.sum(cut**2, 0) - 1
    assert np.abs(stray).max() < 4 * np.sqrt(2 * sum(rows)) / 1076
    assert np.abs(stray).max() > 1e-4


def test_fastfood_is_the_product_of_its_matrices(key: jax.Array) -> None:
    subspace = random_subspace(key, {"w": jnp.zeros((4, 5))}, 6, projection="fastfood")
    (part,) = subspace.projections
    h = scipy.linalg.hadamard(8).astype(float)
    blocks = [
        h @ np.diag(np.asarray(gains, float)) @ np.eye(8)[np.asarray(order)] @ h @ np.diag(signs)
        for gains, order, signs in zip(part.gains, part.order, np.asarray(part.signs), strict=True)
    ]
    assert len(blocks) == 3
    expected = np.concatenate(blocks)[:20, :6] / np.sqrt(20)
    np.testing.assert_allclose(matrix(subspace), expected, atol=1e-6)
    # Each block mixes all of its columns into every row: no entry is zero, no two rows are equal.
    assert np.abs(expected).min() > 1e-6


def test_a_sparse_projection_has_the_density_of_the_paper(key: jax.Array) -> None:
    params = {"bias": jnp.zeros(100), "kernel": jnp.zeros((99, 100))}
    p = matrix(random_subspace(key, params, 30, projection="sparse"))
    # One in sqrt(10,000), of each leaf: also of the small one.
    assert (int((p[:100] != 0).sum()), int((p[100:] != 0).sum())) == (30, 2970)
    entries = (p != 0).sum(0)
    assert 60 < entries.min() <= entries.max() < 140  # 100, and four deviations
    # Values of a column are all of one size, either sign.
    for column in p.T:
        sizes = np.unique(np.abs(column[column != 0]).round(6))
        assert len(sizes) == 1
    assert 0.45 < (p[p != 0] > 0).mean() < 0.55


def test_places_of_a_sparse_projection_are_equally_likely(key: jax.Array) -> None:
    draw = lambda key: random_subspace(key, {"w": jnp.zeros((4, 6))}, 5, projection="sparse")
    parts = jax.vmap(lambda key: draw(key).projections[0])(jax.random.split(key, 2000))
    rows, columns = np.asarray(parts.rows), np.asarray(parts.columns)
    assert (np.diff(rows, axis=1) >= 0).all()
    places = rows * 5 + columns
    assert (np.diff(places, axis=1) > 0).all()  # none twice
    counts = np.bincount(places.ravel(), minlength=120)
    # 24 of 120 places: one in five, 400 each of 2,000 draws, give or take 18.
    assert places.shape[1] == round(120 / np.sqrt(24))
    share = places.shape[1] / 120
    assert np.abs(counts - 2000 * share).max() < 5 * np.sqrt(2000 * share)


def test_leaves_that_are_left_out_stay(key: jax.Array) -> None:
    params = {"kernel": jnp.ones((8, 8)), "step": jnp.int32(3), "none": optax.MaskedNode()}
    subspace = random_subspace(key, params, 4, projection="fastfood")
    moved = subspace.params(jnp.ones(4))
    assert moved["step"] is params["step"]
    assert (np.asarray(moved["kernel"]) != 1).any()
    some = {"bias": jnp.ones(8), "kernel": jnp.ones((8, 8))}
    only = random_subspace(key, some, 8, where=lambda path, leaf: path == "bias")
    moved = only.params(jnp.ones(8))
    assert (moved["kernel"] == 1).all()
    assert (moved["bias"] != 1).all()


def test_half_precision_is_left_only_at_the_end(key: jax.Array) -> None:
    params = {"w": jnp.full((40, 8), 1.0, jnp.bfloat16)}
    subspace = random_subspace(key, params, 4)
    assert subspace.init().dtype == jnp.float32
    moved = subspace.params(jnp.full(4, 0.5))["w"]
    wide = random_subspace(key, {"w": jnp.full((40, 8), 1.0)}, 4).params(jnp.full(4, 0.5))["w"]
    assert moved.dtype == jnp.bfloat16
    assert (moved == wide.astype(jnp.bfloat16)).all()


def test_abstract_parameters_and_many_keys(key: jax.Array) -> None:
    draw = lambda key, params: random_subspace(key, params, 3, projection="fastfood")
    abstract = jax.eval_shape(draw, key, jax.eval_shape(tree))
    assert (abstract.scale.shape, abstract.origin["b"].shape) == ((3,), (3, 3, 5, 17))
    many = jax.jit(jax.vmap(draw, in_axes=(0, None)))(jax.random.split(key, 2), tree())
    moved = jax.vmap(RandomSubspace.params)(many, jnp.ones((2, 3)))
    one = draw(jax.random.split(key, 2)[1], tree()).params(jnp.ones(3))
    np.testing.assert_allclose(moved["b"][1], one["b"], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_changes_no_number(kind: str, key: jax.Array) -> None:
    params = {"bias": jnp.zeros(8), "kernel": jnp.arange(128.0).reshape(16, 8)}
    here = random_subspace(key, params, 5, projection=kind).params(jnp.ones(5))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec("x"))
        spread = jax.tree.map(lambda leaf: jax.device_put(leaf, place), params)
        subspace = random_subspace(key, spread, 5, projection=kind)
        loss = lambda d: jnp.sum(subspace.params(d)["kernel"] ** 2)
        there = jax.jit(subspace.params)(jnp.ones(5))
        assert there["kernel"].sharding.spec == PartitionSpec("x", None)
        assert jax.jit(jax.grad(loss))(jnp.ones(5)).shape == (5,)
    np.testing.assert_allclose(flat(there), flat(here), rtol=1e-6, atol=1e-6)


def test_it_trains_an_nnx_model_with_any_optimizer(key: jax.Array) -> None:
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    subspace = random_subspace(key, params, 9, projection="fastfood")
    x = jax.random.normal(key, (32, 6))
    with jax.numpy_rank_promotion("allow"):
        aim = jnp.tanh(x @ jnp.linspace(-1, 1, 24).reshape(6, 4))
        loss = lambda d: jnp.mean((nnx.merge(graph, subspace.params(d))(x) - aim) ** 2)
        optimizer, d = optax.adam(0.1), subspace.init()
        state = optimizer.init(d)

        @jax.jit
        def step(d: Any, state: Any) -> Any:
            value, grad = jax.value_and_grad(loss)(d)
            updates, state = optimizer.update(grad, state)
            return optax.apply_updates(d, updates), state, value

        d, state, first = step(d, state)
        for _ in range(60):
            d, state, last = step(d, state)
    assert float(last) < 0.75 * float(first)


@pytest.mark.parametrize("dimension", [0, -1, 1077, True])
def test_impossible_dimensions_are_refused(dimension: int, key: jax.Array) -> None:
    with pytest.raises(ValueError, match=rf"dimension is {dimension}; .* in \[1, 1076\]"):
        random_subspace(key, tree(), dimension)


def test_other_errors_name_the_remedy(key: jax.Array) -> None:
    with pytest.raises(ValueError, match=r"unknown projection 'fast'; did you mean fastfood"):
        random_subspace(key, tree(), 2, projection="fast")
    with pytest.raises(ValueError, match=r"step has dtype int32; leave it out with where="):
        random_subspace(key, {"step": jnp.int32(1)}, 1, where=lambda path, leaf: True)
    with pytest.raises(ValueError, match=r"dimension is 1; give a whole number in \[1, 0\]"):
        random_subspace(key, {"step": jnp.int32(1)}, 1)
    with pytest.raises(ValueError, match=r"shape \(3,\); give \(2,\)"):
        random_subspace(key, tree(), 2).params(jnp.zeros(3))
