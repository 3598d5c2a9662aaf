"""``partition``: different methods for different layers."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import dense, partition, rigl, sparsify, static

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def params_like(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "decoder": {"kernel": draw(6, 4)},
        "encoder": {
            "0": {"bias": draw(10), "kernel": draw(8, 10)},
            "1": {"kernel": draw(10, 6)},
        },
        "head": {"kernel": draw(4, 3)},
    }


def train(tx: Any, steps: int) -> list[tuple[Any, Any]]:
    params = params_like()
    state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
    trace = [(params, state)]
    for number in range(steps):
        updates, state = step(params_like(number + 1), state, params)
        params = optax.apply_updates(params, updates)
        trace.append((params, state))
    return trace


def counts(masks: Any) -> dict[str, int]:
    paths = jax.tree_util.tree_flatten_with_path(masks)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(m.sum()) for path, m in paths
    }


def test_each_layer_follows_its_own_method() -> None:
    mixed = partition(
        {
            "encoder/*/kernel": rigl(
                0.75, update=jaxsparse.every(2, start=1), drop_fraction=0.5, regrow_dropped=False
            ),
            "decoder/*": jaxsparse.gradual_magnitude(0.5, start=0, stop=4, interval=2),
            "head/*": static(0.5),
        },
        default=dense(),
    )
    trace = train(sparsify(optax.adam(0.1), mixed, seed=2), 8)
    first, last = trace[0][1].masks, trace[-1][1].masks
    assert counts(first) == {
        "decoder/kernel": 24,
        "encoder/0/kernel": 19,  # ERK of 140 weights: 35 in all
        "encoder/1/kernel": 16,
        "head/kernel": 6,
    }
    assert counts(last) == counts(first) | {"decoder/kernel": 12}
    assert last["encoder"]["0"]["bias"] == optax.MaskedNode()
    np.testing.assert_array_equal(first["head"]["kernel"], last["head"]["kernel"])
    assert (first["encoder"]["0"]["kernel"] != last["encoder"]["0"]["kernel"]).any()
    for (_, before), (params, state) in itertools.pairwise(trace):
        for mask, weight in zip(
            jax.tree.leaves(state.masks),
            jax.tree.leaves({**params, "encoder": _kernels(params["encoder"])}),
            strict=True,
        ):
            assert not np.any(np.asarray(weight)[~np.asarray(mask)])
        # RigL is due at odd steps, pruning at even ones up to 4.
        step = int(before.sparse_step)
        assert int(state.info.updates) - int(before.info.updates) == (step % 2 == 1 or step <= 4)
        assert state.info.kept.tolist() == list(counts(state.masks).values())


def _kernels(encoder: Any) -> Any:
    return {name: {"kernel": part["kernel"]} for name, part in encoder.items()}


def test_budgets_are_over_a_methods_own_leaves() -> None:
    mixed = partition({"encoder/*": static(0.9), "decoder/*": static(0.5)}, default=dense())
    masks = mixed.init(jax.random.key(0), params_like())
    kept = counts(masks)
    assert kept["encoder/0/kernel"] + kept["encoder/1/kernel"] == 14
    assert kept["decoder/kernel"] == 12
    assert masks["head"]["kernel"] == optax.MaskedNode()


def test_the_first_glob_that_matches_holds() -> None:
    mixed = partition({"encoder/1/*": static(0.5), "encoder/*": static(0.9)}, default=dense())
    kept = counts(mixed.init(jax.random.key(0), params_like()))
    assert kept == {"encoder/0/kernel": 8, "encoder/1/kernel": 30}


def test_one_method_everywhere_is_that_method() -> None:
    """As the default of everything, the same masks bit for bit: leaf indices are the tree's."""
    method = rigl(0.75, update=jaxsparse.every(2, start=1), drop_fraction=0.5)
    alone = train(sparsify(optax.sgd(0.125), method), 6)
    mixed = train(sparsify(optax.sgd(0.125), partition({}, default=method)), 6)
    for (_, one), (_, other) in zip(alone, mixed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.masks, other.masks)
        jax.tree.map(np.testing.assert_array_equal, one.info, other.info)


def test_memories_stay_apart() -> None:
    windowed = lambda steps: rigl(
        0.5, update=jaxsparse.at(3), drop_fraction=0.5, gradient_steps=steps
    )
    mixed = partition({"encoder/*": windowed(2), "decoder/*": windowed(4)}, default=dense())
    trace = train(sparsify(optax.sgd(0.125), mixed), 3)
    two, four, none = trace[-1][1].memory
    grads = [params_like(number + 1) for number in range(3)]
    np.testing.assert_allclose(
        two["encoder"]["1"]["kernel"], grads[2]["encoder"]["1"]["kernel"], rtol=1e-6
    )
    np.testing.assert_allclose(
        four["decoder"]["kernel"], sum(g["decoder"]["kernel"] for g in grads), rtol=1e-5, atol=1e-6
    )
    assert two["decoder"]["kernel"] == optax.MaskedNode()
    assert none == ()


def test_grown_values_and_slots_are_each_methods_own() -> None:
    ones = lambda key, weight, grad, mask, memory: jnp.ones_like(weight)
    options = {"update": jaxsparse.at(1), "drop_fraction": 0.5, "regrow_dropped": False}
    mixed = partition(
        {
            "encoder/*": rigl(0.75, grown_values=ones, grown_slots=2.0, **options),
            "decoder/*": rigl(0.75, **options),
        },
        default=dense(),
    )
    trace = train(sparsify(optax.adagrad(0.1), mixed), 2)
    (_, before), (params, after) = trace[1:]
    sums, grads = after.inner_state[0].sum_of_squares, params_like(2)
    grown = lambda part, name: np.asarray(part(after.masks)[name] & ~part(before.masks)[name])
    encoder, decoder = (lambda tree: tree["encoder"]["0"]), (lambda tree: tree["decoder"])
    came = grown(encoder, "kernel")
    assert came.sum() > 0
    assert (np.asarray(encoder(params)["kernel"])[came] == 1).all()
    np.testing.assert_allclose(
        np.asarray(encoder(sums)["kernel"])[came],
        (0.1 + 2 * np.asarray(encoder(grads)["kernel"]))[came],
        rtol=1e-5,
    )
    came = grown(decoder, "kernel")
    assert came.sum() > 0
    assert not np.asarray(decoder(params)["kernel"])[came].any()
    assert (np.asarray(decoder(sums)["kernel"])[came] == np.float32(0.1)).all()


def test_a_bad_gradient_anywhere_stops_only_the_methods_that_see_it() -> None:
    mixed = partition(
        {
            "encoder/*": rigl(0.75, update=jaxsparse.at(0), drop_fraction=0.5),
            "decoder/*": rigl(0.75, update=jaxsparse.at(0), drop_fraction=0.5),
        },
        default=dense(),
    )
    params = params_like()
    masks = mixed.init(jax.random.key(0), params)
    grads = params_like(1)
    grads["decoder"]["kernel"] = grads["decoder"]["kernel"] * jnp.inf
    after, info = mixed.update(jax.random.key(1), masks, params, grads, 0)
    assert int(info.skipped) == 1
    np.testing.assert_array_equal(after["decoder"]["kernel"], masks["decoder"]["kernel"])
    assert counts(after) == counts(masks)


def test_only_dense_methods_never_update() -> None:
    mixed = partition({"head/*": dense()}, default=static(0.5))
    assert mixed.due is None
    state = train(sparsify(optax.sgd(0.1), mixed), 2)[-1][1]
    assert int(state.info.updates) == 0
    assert counts(state.masks).keys() == {"decoder/kernel", "encoder/0/kernel", "encoder/1/kernel"}


def test_globs_that_match_nothing_are_named() -> None:
    mixed = partition({"encodr/*": static(0.9)}, default=dense())
    with pytest.raises(ValueError, match=r"'encodr/\*' matches none of the 5 leaves; nearest: "):
        mixed.init(jax.random.key(0), params_like())


def test_an_algorithm_whose_leaves_are_all_dense_may_stand_by() -> None:
    """A glob over biases only: there is nothing to make sparse, and that is an error by name."""
    mixed = partition({"*/bias": static(0.9)}, default=dense())
    with pytest.raises(ValueError, match=r"none of the 1 leaves may be sparse \(encoder/0/bias\)"):
        mixed.init(jax.random.key(0), params_like())
