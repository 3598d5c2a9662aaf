"""Norms and variances of gradients: by hand, by NumPy, by differences, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import metrics

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


GRADS = {"a": {"bias": draw(4), "kernel": draw(3, 4, seed=1)}, "b": {"kernel": draw(4, 5)}}
MASKS = {
    "a": {"bias": optax.MaskedNode(), "kernel": draw(3, 4, seed=2) < 0},
    "b": {"kernel": draw(4, 5, seed=2) < 0},
}


def kept(grads: Any, dense: bool) -> list[np.ndarray]:
    """The entries that count, leaf by leaf: an oracle that selects where the library multiplies."""
    found = [np.asarray(grads["a"]["bias"])] if dense else []
    for name in "ab":
        kernel = np.asarray(grads[name]["kernel"], np.float64)
        found.append(kernel[np.asarray(MASKS[name]["kernel"])])
    return found


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, np.inf])
def test_norms_equal_numpy(order: float) -> None:
    norm = lambda parts: np.linalg.norm(np.concatenate(parts), order)
    dense = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(GRADS)]
    np.testing.assert_allclose(metrics.gradient_norm(GRADS, order=order), norm(dense), rtol=1e-5)
    for flag in (True, False):
        np.testing.assert_allclose(
            metrics.effective_gradient_norm(GRADS, MASKS, order=order, dense=flag),
            norm(kept(GRADS, flag)),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            metrics.effective_gradient_flow(GRADS, MASKS, order=order, dense=flag),
            np.mean([np.linalg.norm(part, order) for part in kept(GRADS, flag)]),
            rtol=1e-5,
        )


def test_what_is_absent_does_not_count() -> None:
    spoiled = jax.tree.map(lambda grad: grad, GRADS)
    for name in "ab":
        spoiled[name]["kernel"] = jnp.where(MASKS[name]["kernel"], GRADS[name]["kernel"], jnp.nan)
    assert np.isnan(metrics.gradient_norm(spoiled))
    for metric in (metrics.effective_gradient_norm, metrics.effective_gradient_flow):
        assert float(metric(spoiled, MASKS)) == float(metric(GRADS, MASKS)) > 0


def test_each_layer_counts_the_same_in_the_flow() -> None:
    # A hundred ones and a single one: norms 10 and 1, of all together sqrt(101).
    grads = {"large": jnp.ones((20, 10)), "small": jnp.ones((2, 1))}
    masks = {"large": jnp.arange(200).reshape(20, 10) < 100, "small": jnp.array([[True], [False]])}
    assert float(metrics.effective_gradient_flow(grads, masks)) == 5.5
    np.testing.assert_allclose(
        metrics.effective_gradient_norm(grads, masks), np.sqrt(101), rtol=1e-6
    )


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_whose_squares_leave_float32(size: float) -> None:
    grads = {"w": jnp.array([3.0, 4.0, 9.0], jnp.float32) * size}
    masks = {"w": jnp.array([True, True, False])}
    np.testing.assert_allclose(metrics.effective_gradient_norm(grads, masks), 5 * size, rtol=1e-5)


def test_extreme_gradients() -> None:
    masks = {"w": jnp.array([True, True])}
    norm = lambda values: float(metrics.effective_gradient_norm({"w": jnp.array(values)}, masks))
    assert norm([0.0, 0.0]) == 0
    assert norm([np.inf, 1.0]) == np.inf
    assert np.isnan(norm([np.nan, 1.0]))
    half = {"w": jnp.array([3.0, 4.0], jnp.bfloat16)}
    assert metrics.effective_gradient_norm(half, masks).dtype == jnp.float32
    assert float(metrics.gradient_norm({})) == 0


def quadratic(params: Any, batch: Any) -> Any:
    """Each example pulls the kernel towards itself; its bias, too."""
    return jnp.mean(jnp.square(params["kernel"][None] - batch)) + jnp.mean(params["bias"])


def test_the_decrease_of_the_loss_by_differences() -> None:
    params = {"bias": jnp.array([0.5, -1.0]), "kernel": draw(3, 4)}
    masks = {"bias": optax.MaskedNode(), "kernel": draw(3, 4, seed=1) < 0}
    batch = draw(7, 3, 4, seed=2)
    params = jaxsparse.apply_masks(params, masks)
    loss, grads = jax.value_and_grad(quadratic)(params, batch)
    step = 1e-2
    moved = jax.tree.map(lambda w, g: w - step * g, params, jaxsparse.apply_masks(grads, masks))
    decrease = (loss - quadratic(moved, batch)) / step
    np.testing.assert_allclose(metrics.first_order_decrease(grads, masks), decrease, rtol=5e-3)


def test_moments_equal_numpy_in_any_order() -> None:
    # Far from zero: sums of squares minus squares of sums would lose every digit.
    values = np.asarray(1e4 + draw(9, 3, 4))
    add = lambda moments, rows: jax.lax.scan(
        lambda m, g: (metrics.add_gradients(m, {"w": g}), None), moments, rows
    )[0]

    @jax.jit
    def both(rows: Any) -> tuple[Any, Any]:
        empty = metrics.empty_moments({"w": rows[0]})
        parts = add(empty, rows[:2]), add(empty, rows[2:])
        return add(empty, rows), metrics.merge_moments(*parts)

    mask = draw(3, 4, seed=1) < 0
    want = values.astype(np.float64)
    for moments in both(jnp.asarray(values)):
        assert int(moments.count) == 9
        np.testing.assert_allclose(moments.mean["w"], want.mean(0), rtol=1e-6)
        np.testing.assert_allclose(moments.squares["w"] / 8, want.var(0, ddof=1), rtol=5e-3)
        np.testing.assert_allclose(
            metrics.total_variance(moments, {"w": mask}),
            want.var(0, ddof=1)[np.asarray(mask)].sum(),
            rtol=2e-3,
        )


def test_moments_of_too_few_gradients() -> None:
    masks = {"w": jnp.ones(2, bool)}
    empty = metrics.empty_moments({"w": jnp.zeros(2, jnp.bfloat16)})
    assert empty.mean["w"].dtype == jnp.float32
    one = metrics.add_gradients(empty, {"w": jnp.ones(2, jnp.bfloat16)})
    for moments in (empty, one, metrics.merge_moments(empty, one)):
        assert np.isnan(metrics.total_variance(moments, masks))
    assert metrics.merge_moments(empty, one).mean["w"].tolist() == [1.0, 1.0]
    two = metrics.merge_moments(one, one)
    assert float(metrics.total_variance(two, masks)) == 0


def test_the_variance_in_closed_form() -> None:
    """The gradient is 2 (w - mean of the batch) / 12: 4 / 144 times the variance of the means."""
    batches = draw(6, 5, 3, 4)
    masks = {"bias": optax.MaskedNode(), "kernel": draw(3, 4, seed=1) < 0}
    params = {"bias": jnp.ones(2), "kernel": jnp.ones((3, 4))}
    found = jax.jit(lambda p: metrics.gradient_variance(quadratic, p, masks, batches))
    spread = np.asarray(batches).mean(1).var(0, ddof=1)[np.asarray(masks["kernel"])].sum()
    np.testing.assert_allclose(found(params), spread * 4 / 144, rtol=1e-4)


def test_the_variance_is_that_at_the_masked_weights() -> None:
    """The gradient of the first weight is the second one times the batch: absent, it is zero."""
    loss_fn = lambda params, batch: params["w"][0] * params["w"][1] * jnp.sum(batch)
    params, batches = {"w": jnp.array([1.0, 3.0])}, jnp.array([[1.0], [2.0]])
    variance = lambda *mask: float(
        metrics.gradient_variance(loss_fn, params, {"w": jnp.array(mask)}, batches)
    )
    assert variance(True, True) == 5  # (3^2 + 1^2) / 2
    assert variance(True, False) == 0


def test_examples_have_the_variance_of_batches_times_their_size() -> None:
    """Over many draws: independent examples, batches of five."""
    batches = draw(2000, 5, 1, 1)
    params, masks = (
        {"bias": jnp.ones(1), "kernel": jnp.ones((1, 1))},
        {
            "bias": optax.MaskedNode(),
            "kernel": jnp.ones((1, 1), bool),
        },
    )
    variance = lambda batches: metrics.gradient_variance(quadratic, params, masks, batches)
    ratio = variance(batches.reshape(-1, 1, 1, 1)) / variance(batches)
    # The relative deviation of a variance of n normals is sqrt(2 / n): 3 % here.
    np.testing.assert_allclose(ratio, 5, rtol=0.15)


def test_under_vmap() -> None:
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), GRADS)
    found = jax.vmap(lambda grads: metrics.effective_gradient_flow(grads, MASKS))(stacked)
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)
    np.testing.assert_allclose(found[0], metrics.effective_gradient_flow(GRADS, MASKS), rtol=1e-6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"order is 0\.5; a norm has an order of at least 1"):
        metrics.gradient_norm(GRADS, order=0.5)
    dense = {"w": optax.MaskedNode()}
    with pytest.raises(ValueError, match="none of the 1 leaves has a mask, so there is no layer"):
        metrics.effective_gradient_flow({"w": jnp.ones(2)}, dense)
    with pytest.raises(ValueError, match=r"w has shape \(2,\), its mask \(3,\)"):
        metrics.effective_gradient_norm({"w": jnp.ones(2)}, {"w": jnp.ones(3, bool)})
    one = {"w": jnp.ones((1, 2))}
    with pytest.raises(ValueError, match=r"batches has arrays of \[1\] batches; a variance takes"):
        metrics.gradient_variance(quadratic, GRADS, MASKS, one)
