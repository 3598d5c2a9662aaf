"""DCT plus sparse: the offset is SciPy's, and S is a tree that sparsify takes as it is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.fft

import jaxsparse
from jaxsparse.subspaces import dct_matrix, dct_plus_sparse


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 3), (3, 7), (784, 200), (5, 5)])
def test_the_matrix_is_that_of_scipy(inputs: int, outputs: int) -> None:
    n = max(inputs, outputs)
    expected = scipy.fft.dct(np.eye(n), type=2, norm="ortho", axis=-1)[:inputs, :outputs]
    found = dct_matrix(inputs, outputs)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    gram = found.T @ found if inputs >= outputs else found @ found.T
    np.testing.assert_allclose(gram, np.eye(min(inputs, outputs)), atol=1e-12)


def test_two_by_two_by_hand() -> None:
    # Of size 2: columns (1, 1) and (cos 45, cos 135) with sqrt(1/2) and 1 for a factor.
    s = 0.5**0.5
    np.testing.assert_allclose(dct_matrix(2, 2), [[s, s], [s, -s]], atol=1e-15)


def test_kernels_start_at_the_offset_and_other_leaves_as_they_are() -> None:
    params = {"conv": {"bias": jnp.ones(5), "kernel": jnp.ones((3, 3, 2, 5))}}
    offset = dct_plus_sparse(params)
    start = offset.init()
    assert list(start["alpha"]) == ["conv/kernel"]
    assert not start["sparse"]["conv"]["kernel"].any()
    at = jax.jit(offset.params)(start)["conv"]
    assert (at["bias"] == 1).all()
    # Height, width and inputs are the rows: 18 by 5 of a DCT of size 18.
    expected = scipy.fft.dct(np.eye(18), norm="ortho")[:, :5].reshape(3, 3, 2, 5)
    np.testing.assert_allclose(at["kernel"], expected, atol=1e-7)
    moved = {
        "alpha": {"conv/kernel": jnp.float32(-0.5)},
        "sparse": {"conv": {"bias": jnp.zeros(5), "kernel": jnp.full((3, 3, 2, 5), 2.0)}},
    }
    np.testing.assert_allclose(offset.params(moved)["conv"]["kernel"], 2 - expected / 2, atol=1e-6)


def test_gradients_are_those_of_the_sum() -> None:
    offset = dct_plus_sparse({"w": jnp.zeros((6, 4))})
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    loss = lambda trained: jnp.sum(weights * offset.params(trained)["w"])
    grads = jax.grad(loss)(offset.init())
    np.testing.assert_allclose(grads["sparse"]["w"], weights, atol=1e-6)
    expected = float((np.asarray(weights, np.float64) * dct_matrix(6, 4)).sum())
    assert float(grads["alpha"]["w"]) == pytest.approx(expected, rel=1e-5)


def test_half_precision_keeps_alpha_wide() -> None:
    offset = dct_plus_sparse({"w": jnp.zeros((6, 4), jnp.bfloat16)})
    start = offset.init()
    assert (start["alpha"]["w"].dtype, start["sparse"]["w"].dtype) == (jnp.float32, jnp.bfloat16)
    assert offset.params(start)["w"].dtype == jnp.bfloat16


def test_abstract_parameters() -> None:
    abstract = jax.eval_shape(lambda: {"w": jnp.zeros((6, 4))})
    found = jax.eval_shape(lambda params: dct_plus_sparse(params).init(), abstract)
    assert (found["alpha"]["w"].shape, found["sparse"]["w"].shape) == ((), (6, 4))


def test_a_mesh_is_kept() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
        offset = dct_plus_sparse({"w": jax.device_put(jnp.zeros((4, 16)), place)})
        found = jax.jit(lambda trained: offset.params(trained))(offset.init())["w"]
        assert found.sharding.spec == jax.sharding.PartitionSpec(None, "x")
    np.testing.assert_allclose(found, dct_matrix(4, 16), atol=1e-6)


def network(params: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"] + params["b"]["bias"][None]


def test_rigl_moves_the_masks_of_the_sparse_part() -> None:
    shapes = {"a": (12, 16), "b": (16, 3)}
    params = {
        name: {"bias": jnp.zeros(shape[1]), "kernel": jnp.ones(shape)}
        for name, shape in shapes.items()
    }
    offset = dct_plus_sparse(params)
    rigl = jaxsparse.rigl(
        0.9,
        distribution=jaxsparse.equal_per_layer,
        update=jaxsparse.every(5, start=5, stop=40),
        drop_fraction=optax.cosine_decay_schedule(0.3, 40),
    )
    tx = jaxsparse.sparsify(optax.adam(3e-2), rigl)
    x = jax.random.normal(jax.random.key(0), (64, 12))
    labels = jnp.argmax(x[:, :3], 1)

    def loss(trained: Any) -> Any:
        logits = network(offset.params(trained), x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry: Any) -> Any:
        trained, state = carry
        value, grads = jax.value_and_grad(loss)(trained)
        updates, state = tx.update(grads, state, trained)
        return (optax.apply_updates(trained, updates), state), value

    trained = jax.tree.map(jnp.copy, offset.init())
    state = tx.init(trained)
    first = jax.tree.map(np.asarray, jaxsparse.masks_of(state))
    assert jaxsparse.sparse_paths(first) == ["sparse/a/kernel", "sparse/b/kernel"]
    start = float(loss(trained))
    for _ in range(60):
        (trained, state), value = step((trained, state))
    masks = jaxsparse.masks_of(state)
    for name in shapes:
        before, after = first["sparse"][name]["kernel"], masks["sparse"][name]["kernel"]
        kernel = np.asarray(trained["sparse"][name]["kernel"])
        assert int(after.sum()) == int(before.sum()) == 12  # 240 weights, 24 kept, half each
        assert (np.asarray(after) != before).any()
        assert not kernel[~np.asarray(after)].any()
        assert kernel[np.asarray(after)].any()
        assert float(trained["alpha"][f"{name}/kernel"]) != 1
    assert float(value) < 0.7 * start


def test_zeros_are_dropped_in_an_order_that_favors_no_place() -> None:
    # Before the first step all of S is zero: magnitudes are equal, and what goes is by a hash.
    offset = dct_plus_sparse({"w": jnp.zeros((40, 40))})
    rigl = jaxsparse.rigl(0.5, update=jaxsparse.every(1), drop_fraction=0.5, regrow_dropped=False)
    trained = offset.init()
    key = jax.random.key(0)
    masks = rigl.init(key, trained)
    after, info = rigl.update(key, masks, trained, trained, 0)
    gone = np.asarray(masks["sparse"]["w"] & ~after["sparse"]["w"])
    assert int(info.dropped) == gone.sum() == 400
    assert np.abs(gone.reshape(4, 10, 40).sum((1, 2)) - 100).max() < 40


def test_trees_without_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"where takes none of the leaves bias"):
        dct_plus_sparse({"bias": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"bias has shape \(3,\) and dtype float32; a kernel"):
        dct_plus_sparse({"bias": jnp.zeros(3)}, where=lambda path, leaf: True)
    with pytest.raises(ValueError, match=r"0 by 3 is empty"):
        dct_matrix(0, 3)
