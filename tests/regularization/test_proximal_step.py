"""The proximal step: exact zeros, other wrappers around it, the lasso's solution, fine-tuning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

import jaxsparse
from jaxsparse.regularization import group_lasso, kept_groups, l1, masks_from_zeros, proximal


def network(dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    of = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {"a": {"bias": of(6), "kernel": of(8, 6)}, "b": {"kernel": of(6, 5)}}


def gradients(like: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), like)


def stepping(tx: Any) -> Any:
    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def zeros(params: Any) -> int:
    return sum(int((layer["kernel"] == 0).sum()) for layer in params.values())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_zeros_are_exact_and_those_of_the_operator(dtype: Any) -> None:
    params = network(dtype)
    regularizers = l1(0.3), group_lasso(0.3, ("filters", "channels"))
    tx = proximal(optax.sgd(0.3, momentum=0.9), *regularizers, learning_rate=0.3)
    state, step, inner = tx.init(params), stepping(tx), optax.sgd(0.3, momentum=0.9)
    inner_state, seen = inner.init(params), 0
    for number in range(6):
        grads = gradients(params, number)
        updates, inner_state = inner.update(grads, inner_state, params)
        # One operator after the other, in float32, where the plain optimizer goes.
        want = jax.tree.map(
            lambda w, u: w.astype(jnp.float32) + u.astype(jnp.float32), params, updates
        )
        for regularizer in regularizers:
            want = regularizer.prox(want, 0.3, number)
        params, state = step(params, state, grads)
        for name, layer in params.items():
            assert layer["kernel"].dtype == dtype
            found, aim = np.asarray(layer["kernel"], np.float32), np.asarray(want[name]["kernel"])
            np.testing.assert_array_equal(found[aim == 0], 0)
            resolution = float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(found, aim, rtol=4 * resolution, atol=4 * resolution)
        seen += zeros(params)
    assert 60 < seen < 6 * 78
    assert int(state.count) == 6


def test_without_strength_it_is_the_inner_optimizer_to_the_last_bit() -> None:
    params = network()
    plain, wrapped = optax.adamw(0.01), proximal(optax.adamw(0.01), l1(0.0), learning_rate=0.01)
    grads = gradients(params, 0)
    want, _ = plain.update(grads, plain.init(params), params)
    found, _ = wrapped.update(grads, wrapped.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, want, found)
    # Where nothing is chosen, at any strength.
    strong = proximal(optax.adamw(0.01), l1(9.0), learning_rate=1.0)
    found, _ = strong.update(grads, strong.init(params), params)
    np.testing.assert_array_equal(want["a"]["bias"], found["a"]["bias"])


def test_step_size_and_strength_follow_schedules() -> None:
    # Thresholds 1 * 0, 0.5 * 1, 0.25 * 2 off a weight that no gradient moves.
    rate = optax.exponential_decay(1.0, 1, 0.5)
    tx = proximal(optax.sgd(rate), l1(lambda step: step * 1.0), learning_rate=rate)
    params = {"kernel": jnp.array([[4.0, 0.75]])}
    state, path, step = tx.init(params), [], stepping(tx)
    for _ in range(3):
        params, state = step(params, state, {"kernel": jnp.zeros((1, 2))})
        path.append(params["kernel"][0].tolist())
    assert path == [[4.0, 0.75], [3.5, 0.25], [3.0, 0.0]]


def test_a_zero_comes_back_against_the_penalty() -> None:
    tx = proximal(optax.sgd(1.0), l1(1.0), learning_rate=1.0)
    params = {"kernel": jnp.zeros((1, 2))}
    updates, _ = tx.update({"kernel": jnp.array([[-1.5, 0.9]])}, tx.init(params), params)
    assert optax.apply_updates(params, updates)["kernel"].tolist() == [[0.5, 0.0]]


def test_it_is_traced_once() -> None:
    traces = []
    tx = proximal(
        optax.adam(optax.cosine_decay_schedule(0.1, 9)),
        l1(optax.linear_schedule(0.0, 1.0, 5)),
        group_lasso(0.1, "channels"),
        learning_rate=optax.cosine_decay_schedule(0.1, 9),
    )

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(gradients(params, 0), state, params)
        return optax.apply_updates(params, updates), state

    params, state = network(), tx.init(network())
    for _ in range(4):
        params, state = step(params, state)
    assert len(traces) == 1
    # The same numbers in a scan, and under vmap.
    body = lambda carry, _: (step(*carry), None)
    (scanned, _), _ = jax.lax.scan(body, (network(), tx.init(network())), None, length=4)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), (network(), tx.init(network())))
    (mapped, _), _ = jax.lax.scan(lambda c, _: (jax.vmap(step)(*c), None), batch, None, length=4)
    for name in params:
        want = params[name]["kernel"]
        np.testing.assert_allclose(scanned[name]["kernel"], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mapped[name]["kernel"][1], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["static", "rigl"])
def test_inside_sparsify(algorithm: str) -> None:
    """Zeros off the masks stay, and the penalty adds zeros among the kept."""
    rows = {"static": jaxsparse.static(0.5), "rigl": jaxsparse.rigl(0.5, update=jaxsparse.every(2))}
    inner = proximal(optax.sgd(0.1, momentum=0.9), l1(0.3), learning_rate=0.1)
    tx = jaxsparse.sparsify(inner, rows[algorithm])
    params = network()
    state, step = tx.init(params), stepping(tx)
    params = jaxsparse.apply_masks(params, state.masks)
    for number in range(6):
        params, state = step(params, state, gradients(params, number))
        masks = jaxsparse.masks_of(state)
        assert float(jaxsparse.density(masks)) == 0.5
        for name, layer in params.items():
            np.testing.assert_array_equal(layer["kernel"][~masks[name]["kernel"]], 0)
    assert zeros(params) > 39
    # (RigL's updates take the place of a step.)
    assert int(state.inner_state.count) == {"static": 6, "rigl": 3}[algorithm]


def test_inside_multi_steps() -> None:
    """One operator for each step of the mean gradient, not for each micro-batch."""
    make = lambda: proximal(optax.sgd(0.2), l1(1.0), learning_rate=0.2)
    tx, params = optax.MultiSteps(make(), 3), network()
    state, step, now = tx.init(params), stepping(tx), params
    parts = [gradients(params, number) for number in range(6)]
    for number, grads in enumerate(parts):
        before = now
        now, state = step(now, state, grads)
        if number % 3 < 2:
            jax.tree.map(np.testing.assert_array_equal, before, now)
    plain, want = make(), params
    plain_state, step = plain.init(params), stepping(plain)
    for part in (parts[:3], parts[3:]):
        mean = jax.tree.map(lambda *g: sum(g) / 3, *part)
        want, plain_state = step(want, plain_state, mean)
    for name in want:
        np.testing.assert_allclose(now[name]["kernel"], want[name]["kernel"], rtol=1e-5, atol=1e-6)
    assert zeros(now) == zeros(want) > 0
    assert int(state.inner_opt_state.count) == 2


def test_in_a_chain_and_in_a_partition() -> None:
    step = proximal(optax.sgd(0.1), group_lasso(2.0, "channels"), learning_rate=0.1)
    params = network()
    tx = optax.partition(
        {"shrunk": optax.chain(optax.clip_by_global_norm(1.0), step), "plain": optax.sgd(0.1)},
        {"a": {"bias": "shrunk", "kernel": "shrunk"}, "b": {"kernel": "plain"}},
    )
    grads = gradients(params, 0)
    updates, state = tx.update(grads, tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(
        moved["b"]["kernel"], params["b"]["kernel"] - 0.1 * grads["b"]["kernel"], rtol=1e-5
    )
    norms = lambda tree: np.linalg.norm(tree["a"]["kernel"], axis=1)
    # sqrt(6) weights, 0.1 * 2: no row loses more, but for the clipped step of at most 0.1.
    np.testing.assert_allclose(norms(moved), norms(params) - 0.2 * 6**0.5, atol=0.101)
    # Other tools find their way in the state.
    doubled = optax.tree.map_params(tx, lambda x: 2 * x, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


def lasso_problem() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 20))
    truth = np.where(np.arange(20) < 5, rng.normal(size=20) * 2, 0)
    targets = inputs @ truth + 0.3 * rng.normal(size=60)
    loss = lambda p: jnp.mean((jnp.float32(inputs) @ p["w"][:, 0] - jnp.float32(targets)) ** 2) / 2
    return inputs, targets, loss


@pytest.mark.parametrize(
    ("inner", "step_size"),
    [
        (optax.sgd(0.2), 0.2),
        # What momentum adds up to: see the table of `proximal`.
        (optax.sgd(0.02, momentum=0.9), 0.2),
        (optax.sgd(0.02, momentum=0.9, nesterov=True), 0.2),
    ],
    ids=["ista", "momentum", "nesterov"],
)
def test_it_ends_at_the_lasso(inner: Any, step_size: float) -> None:
    """The minimum that coordinate descent finds: support and coefficients."""
    inputs, targets, loss = lasso_problem()
    tx = proximal(inner, l1(0.1), learning_rate=step_size)
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(20, 1)), jnp.float32)}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=1500)[0])
    found = np.asarray(run((params, tx.init(params)))[0]["w"][:, 0])
    want = Lasso(alpha=0.1, fit_intercept=False, tol=1e-10, max_iter=100_000)
    want = want.fit(inputs, targets).coef_
    assert 5 <= np.count_nonzero(want) < 20
    np.testing.assert_array_equal(found != 0, want != 0)
    np.testing.assert_allclose(found, want, atol=2e-5)


def test_from_regularized_to_pruned_to_fine_tuned() -> None:
    """Rows that nothing depends on go; what is left trains on without the penalty's bias."""
    inputs, targets, loss = lasso_problem()
    tx = proximal(optax.sgd(0.2), group_lasso(0.3, "channels"), learning_rate=0.2)
    params = {"w": jnp.full((20, 1), 0.5), "bias": jnp.zeros(1)}
    state, step = tx.init(params), stepping(tx)
    gradient = jax.jit(jax.grad(loss))
    for _ in range(200):
        params, state = step(params, state, gradient(params))
    masks = masks_from_zeros(params)
    assert isinstance(masks["bias"], optax.MaskedNode)
    kept = np.asarray(masks["w"][:, 0])
    assert kept[:5].sum() == kept.sum() == int(kept_groups(params, "channels")["w"]) >= 3
    tx = jaxsparse.sparsify(optax.sgd(0.2), jaxsparse.fixed(masks))
    tuned, state, step = params, tx.init(params), stepping(tx)
    for _ in range(200):
        tuned, state = step(tuned, state, gradient(tuned))
    np.testing.assert_array_equal(tuned["w"][:, 0] != 0, kept)
    # Least squares over the columns that are left.
    want = np.linalg.lstsq(inputs[:, kept], targets, rcond=None)[0]
    np.testing.assert_allclose(tuned["w"][kept, 0], want, atol=1e-4)
    assert float(loss(tuned)) < float(loss(params))


def test_masks_of_zeros() -> None:
    params = {"kernel": jnp.array([[0.0, -0.0, 1e-30], [jnp.nan, -2.0, 0.0]]), "bias": jnp.zeros(1)}
    masks = masks_from_zeros(params)
    assert masks["kernel"].tolist() == [[False, False, True], [True, True, False]]
    assert isinstance(masks["bias"], optax.MaskedNode)
    assert masks_from_zeros(params, where=lambda *_: True)["bias"].tolist() == [False]
    with pytest.raises(ValueError, match="none of the 1 leaves may be sparse"):
        masks_from_zeros({"bias": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: proximal(optax.sgd(0.1), learning_rate=0.1), "proximal has no regularizer"),
        (
            lambda: proximal(optax.sgd(0.1), l1(0.1), learning_rate=-0.1),
            "learning_rate is -0.1; it must be a finite number, 0 or more",
        ),
        (
            lambda: proximal(optax.sgd(0.1), l1(0.1), learning_rate=0.1).init({"b": jnp.ones(2)}),
            "none of the 1 leaves may be sparse",
        ),
        (
            lambda: proximal(optax.sgd(0.1), group_lasso(0.1, (-3,)), learning_rate=0.1).init(
                {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
            ),
            r"numbered by axes \(-3,\); kernel has shape \(2, 2\)",
        ),
        (
            lambda: proximal(optax.sgd(0.1), l1(0.1), learning_rate=0.1).update({}, None),
            "proximal needs the parameters",
        ),
    ],
)
def test_what_does_not_fit_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
