"""SNIP's and GraSP's saliencies: by hand, by differences, by NumPy, and what they are for."""

import itertools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import saliency

WIDTHS = (6, 8, 7, 4)


def network(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(WIDTHS)
    return {
        f"layer_{i}": {
            "bias": jnp.asarray(rng.normal(size=n_out) * 0.1, jnp.float32),
            "kernel": jnp.asarray(rng.normal(size=(n_in, n_out)) / n_in**0.5, jnp.float32),
        }
        for i, (n_in, n_out) in enumerate(pairs)
    }


def logits(params: Any, x: Any) -> Any:
    for i in range(len(params)):
        x = x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"][None]
        x = jnp.tanh(x) if i < len(params) - 1 else x
    return x


def data(batches: int = 3, examples: int = 10) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.normal(size=(batches, examples, WIDTHS[0])), jnp.float32)
    return inputs, jnp.asarray(rng.integers(0, WIDTHS[-1], (batches, examples)), jnp.int32)


LOSS = saliency.cross_entropy(logits)
ALL = jaxsparse.keep_all(network())


def whole_loss(params: Any) -> Any:
    """Over all examples at once."""
    inputs, labels = data()
    return LOSS(params, (inputs.reshape(-1, WIDTHS[0]), labels.reshape(-1)))


def test_snip_by_hand() -> None:
    # loss = 2 a - b c over the only batch: slopes 2, -c = 3, -b = -5.
    loss_fn = lambda params, batch: (
        jnp.sum(batch) * (2 * params["w"][0] - params["w"][1] * params["w"][2])
    )
    masks = {"w": jnp.ones(3, bool)}
    found = saliency.connection_sensitivity(loss_fn, jnp.ones((1, 1)))
    assert found({"w": jnp.array([4.0, 5.0, -3.0])}, masks)["w"].tolist() == [8.0, 15.0, 15.0]
    # Without b the slope of c is 0, that of b is still 3: what it would bring.
    masks = {"w": jnp.array([True, False, True])}
    assert found({"w": jnp.array([4.0, 5.0, -3.0])}, masks)["w"].tolist() == [8.0, 15.0, 0.0]


def test_snip_is_the_slope_of_the_loss_along_the_mask() -> None:
    params, step = network(), 1e-2
    found = jax.jit(saliency.connection_sensitivity(LOSS, data()))(params, ALL)
    loss = jax.jit(whole_loss)
    for layer, place in (("layer_0", (2, 3)), ("layer_1", (7, 0)), ("layer_2", (1, 2))):

        def scaled(factor: float, layer: str = layer, place: Any = place) -> Any:
            kernel = params[layer]["kernel"]
            changed = kernel.at[place].set(kernel[place] * factor)
            return {**params, layer: {**params[layer], "kernel": changed}}

        slope = (loss(scaled(1 + step)) - loss(scaled(1 - step))) / (2 * step)
        np.testing.assert_allclose(found[layer]["kernel"][place], abs(slope), rtol=1e-2, atol=2e-5)


def test_grasp_by_hand() -> None:
    # loss = a^2 b: g = (2ab, a^2) = (12, 9) at (3, 2); H = [[2b, 2a], [2a, 0]] = [[4, 6], [6, 0]];
    # H g = (102, 72); w H g = (306, 144).
    loss_fn = lambda params, batch: jnp.sum(batch) * params["w"][0] ** 2 * params["w"][1]
    params, masks = {"w": jnp.array([3.0, 2.0])}, {"w": jnp.ones(2, bool)}
    found = saliency.gradient_flow(loss_fn, jnp.ones((1, 1)))(params, masks)["w"]
    np.testing.assert_allclose(found, [306.0, 144.0], rtol=1e-6)
    # A dense leaf is no direction of the derivative: g = (12), H = (4), w H g = 144.
    loss_fn = lambda params, batch: jnp.sum(batch) * params["w"][0] ** 2 * params["bias"][0]
    params = {"bias": jnp.array([2.0]), "w": jnp.array([3.0])}
    masks = {"bias": optax.MaskedNode(), "w": jnp.ones(1, bool)}
    found = saliency.gradient_flow(loss_fn, jnp.ones((1, 1)))(params, masks)
    np.testing.assert_allclose(found["w"], [144.0], rtol=1e-6)


def test_grasp_equals_numpy_of_the_whole_hessian() -> None:
    params = network()
    flat, back = jax.flatten_util.ravel_pytree(params)
    of_flat = lambda x: whole_loss(back(x))
    gradient = np.asarray(jax.jit(jax.grad(of_flat))(flat), np.float64)
    hessian = np.asarray(jax.jit(jax.hessian(of_flat))(flat), np.float64)
    sparse = np.concatenate(
        [np.full(leaf.size, leaf.ndim == 2) for leaf in jax.tree.leaves(params)]
    )
    want = np.asarray(flat, np.float64) * (hessian @ np.where(sparse, gradient, 0))
    found = jax.jit(saliency.gradient_flow(LOSS, data()))(params, ALL)
    for layer, scored in jax.tree.map(np.asarray, found).items():
        index = np.asarray(back(jnp.arange(flat.size, dtype=jnp.float32))[layer]["kernel"], int)
        np.testing.assert_allclose(scored["kernel"], want[index], rtol=1e-3, atol=1e-6)


def test_grasp_raises_the_gradient_and_its_opposite_lowers_it() -> None:
    params = network()

    @jax.jit
    def norm(masks: Any) -> Any:
        grads = jax.grad(whole_loss)(jaxsparse.apply_masks(params, masks))
        kept = jax.tree.leaves(jaxsparse.apply_masks(grads, masks))
        return optax.tree.norm([g for g in kept if g.ndim == 2])

    flow = saliency.gradient_flow(LOSS, data())
    prune = jax.jit(lambda params: saliency.prune_in_rounds(flow, params, 0.3))
    oppose = jax.jit(lambda params: saliency.prune_in_rounds(saliency.inverted(flow), params, 0.3))
    assert norm(prune(params)) > 1.2 * norm(oppose(params))


def test_the_absolute_variant() -> None:
    flow, absolute = (saliency.gradient_flow(LOSS, data(), absolute=flag) for flag in (False, True))
    signed, size = (jax.jit(f)(network(), ALL) for f in (flow, absolute))
    for layer in signed:
        np.testing.assert_allclose(
            np.abs(signed[layer]["kernel"]), size[layer]["kernel"], rtol=1e-4, atol=1e-9
        )
    assert min(float(leaf.min()) for leaf in jax.tree.leaves(signed)) < 0


def test_a_temperature_divides_the_logits() -> None:
    inputs, labels = jax.tree.map(lambda x: x[0], data())
    cold = saliency.cross_entropy(logits, temperature=200.0)
    scaled = lambda params, x: logits(params, x) / 200
    np.testing.assert_allclose(
        cold(network(), (inputs, labels)),
        saliency.cross_entropy(scaled)(network(), (inputs, labels)),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match=r"temperature is 0\.0; it must be positive"):
        saliency.cross_entropy(logits, temperature=0.0)


# The methods.


def test_force_with_one_round_is_snip() -> None:
    """On the gradient that SNIP is given by its training step."""
    params, key = network(), jax.random.key(0)
    grads = jax.jit(jax.grad(whole_loss))(params)
    found = []
    for method in (
        jaxsparse.snip(0.8),
        jaxsparse.force(0.8, loss_fn=LOSS, batches=data(), rounds=1),
        jaxsparse.force(0.8, loss_fn=LOSS, batches=data(), rounds=1, regrow=False),
    ):
        masks = jax.jit(method.init)(key, params)
        found.append(jax.jit(method.update)(key, masks, params, grads, 0)[0])
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def numpy_rounds(params: Any, sparsity: float, rounds: int, regrow: bool) -> dict[str, Any]:
    """FORCE or iterative SNIP, by sorting."""
    size = sum(layer["kernel"].size for layer in params.values())
    keep = size - int(sparsity * size)
    masks = {name: np.ones(layer["kernel"].shape, bool) for name, layer in params.items()}
    gradient = jax.jit(jax.grad(whole_loss))
    for t in range(1, rounds + 1):
        seen = {
            name: {**layer, "kernel": jnp.where(masks[name], layer["kernel"], 0)}
            for name, layer in params.items()
        }
        grads = gradient(seen)
        scored = {
            name: np.abs(np.asarray(params[name]["kernel"]) * np.asarray(grads[name]["kernel"]))
            for name in params
        }
        if not regrow:
            scored = {name: np.where(masks[name], x, -1) for name, x in scored.items()}
        k = keep if t == rounds else round(size * (keep / size) ** (t / rounds))
        flat = np.concatenate([x.reshape(-1) for x in scored.values()])
        least = np.sort(flat)[-k]
        masks = {name: x >= least for name, x in scored.items()}
    return masks


@pytest.mark.parametrize("regrow", [True, False])
def test_force_and_iterative_snip_equal_numpy(regrow: bool) -> None:
    params, key = network(), jax.random.key(0)
    method = jaxsparse.force(0.8, loss_fn=LOSS, batches=data(), rounds=6, regrow=regrow)
    masks = jax.jit(method.init)(key, params)
    masks, info = jax.jit(method.update)(key, masks, params, params, 0)
    for name, want in numpy_rounds(params, 0.8, 6, regrow).items():
        np.testing.assert_array_equal(masks[name]["kernel"], want)
    assert int(info.kept.sum()) == 132 - 105


@pytest.mark.parametrize("absolute", [False, True])
def test_grasp_prunes_by_its_saliency_at_temperature_200(absolute: bool) -> None:
    params, key = network(), jax.random.key(0)
    method = jaxsparse.grasp(0.5, model_fn=logits, batches=data(), absolute=absolute)
    masks = jax.jit(method.init)(key, params)
    masks, _ = jax.jit(method.update)(key, masks, params, params, 0)
    loss_fn = saliency.cross_entropy(logits, 200.0)
    scored = jax.jit(saliency.gradient_flow(loss_fn, data(), absolute=absolute))(params, ALL)
    flat = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(scored)])
    least = np.sort(flat)[-66]
    for name, layer in scored.items():
        np.testing.assert_array_equal(masks[name]["kernel"], layer["kernel"] >= least)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (jaxsparse.force, "force needs loss_fn= and batches="),
        (jaxsparse.grasp, "grasp needs model_fn= and batches="),
        (jaxsparse.synflow, "synflow needs model_fn= and inputs="),
    ],
)
def test_what_is_missing_is_named(factory: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory(0.9)
