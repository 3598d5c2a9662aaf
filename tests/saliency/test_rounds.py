"""Rounds of pruning before training: counts, what may come back, leaves that compete or do not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import saliency, scores

KEY = jax.random.key(0)


def tree(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"a": draw(8, 9), "b": draw(5, 4), "bias": draw(7)}


def seen_counts(**options: Any) -> list[list[int]]:
    """Kept weights of "a" and "b" that each round is shown."""
    seen: list[list[int]] = []

    def look(params: Any, masks: Any) -> Any:
        jax.debug.callback(
            lambda a, b: seen.append([int(a.sum()), int(b.sum())]),
            masks["a"],
            masks["b"],
            ordered=True,
        )
        return jax.tree.map(jnp.abs, params)

    masks = saliency.prune_in_rounds(look, tree(), **options)
    jax.effects_barrier()
    return [*seen, [int(masks["a"].sum()), int(masks["b"].sum())]]


def test_the_exponential_path_by_hand() -> None:
    # 92 weights, of which 23 stay: 92 / 4. Half of the way in logarithms is 92 / 2 = 46.
    counts = seen_counts(sparsity=0.75, rounds=2)
    assert [sum(row) for row in counts] == [92, 46, 23]
    # Four rounds: 92 / sqrt(2) = 65.05, 46, 92 / 2^1.5 = 32.5, 23.
    counts = seen_counts(sparsity=0.75, rounds=4)
    assert [sum(row) for row in counts] == [92, 65, 46, 33, 23]


def test_the_linear_path_by_hand() -> None:
    # 69 go, a third in each round.
    counts = seen_counts(sparsity=0.75, rounds=3, path="linear")
    assert [sum(row) for row in counts] == [92, 69, 46, 23]


def test_layers_by_themselves() -> None:
    # 72 and 20 weights: 18 and 5 stay, by way of 36 and 10.
    counts = seen_counts(sparsity=0.75, rounds=2, scope="layer")
    assert counts == [[72, 20], [36, 10], [18, 5]]


def test_nothing_and_nearly_all_pruned() -> None:
    assert seen_counts(sparsity=0.0, rounds=2)[-1] == [72, 20]
    # One weight stays; none is left of nothing.
    assert sum(seen_counts(sparsity=0.99, rounds=3)[-1]) == 1


def test_equal_scores_keep_the_count() -> None:
    same = lambda params, masks: jax.tree.map(jnp.ones_like, params)
    masks = saliency.prune_in_rounds(same, tree(), 0.9, rounds=5)
    assert int(masks["a"].sum() + masks["b"].sum()) == 92 - 82
    assert masks["bias"] == optax.MaskedNode()


@pytest.mark.parametrize("regrow", [False, True])
def test_what_was_pruned_comes_back_only_if_it_may(regrow: bool) -> None:
    # Round 1 drops the weight 1.0, and round 2 would want it back.
    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}

    def fickle(params: Any, masks: Any) -> Any:
        first = masks["w"].all()
        return {"w": jnp.where(first, params["w"], -params["w"])}

    masks = saliency.prune_in_rounds(fickle, params, 0.5, rounds=2, path="linear", regrow=regrow)
    assert masks["w"].astype(int).tolist() == ([[1, 1, 0, 0]] if regrow else [[0, 1, 1, 0]])


def test_under_jit_and_vmap() -> None:
    prune = lambda params: saliency.prune_in_rounds(
        saliency.by_score(scores.magnitude), params, 0.75, rounds=3
    )
    many = [tree(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *many)
    together = jax.jit(jax.vmap(prune))(stacked)
    for i, params in enumerate(many):
        for leaf in "ab":
            np.testing.assert_array_equal(together[leaf][i], prune(params)[leaf])


def test_random_and_inverted_controls() -> None:
    params = tree()
    draw = lambda seed: saliency.prune_in_rounds(
        saliency.by_score(scores.random, jax.random.key(seed)), params, 0.5
    )
    assert not np.array_equal(draw(0)["a"], draw(1)["a"])
    np.testing.assert_array_equal(draw(0)["a"], draw(0)["a"])
    by_size = saliency.by_score(scores.magnitude)
    best = saliency.prune_in_rounds(by_size, params, 0.5)
    worst = saliency.prune_in_rounds(saliency.inverted(by_size), params, 0.5)
    for leaf in "ab":
        np.testing.assert_array_equal(best[leaf], ~worst[leaf])


def test_a_mean_over_batches_is_the_mean_over_examples() -> None:
    params, rows = {"w": jnp.array([1.0, 2.0])}, jnp.arange(24.0).reshape(3, 4, 2)
    f = lambda params, batch: {"g": params["w"] * jnp.mean(batch, 0)}
    found = jax.jit(lambda params: saliency.mean_over(f, params, rows))(params)
    np.testing.assert_allclose(found["g"], np.array([1, 2]) * rows.reshape(12, 2).mean(0))
    # In half precision the sum would lose members.
    half = lambda params, batch: jnp.float16(1)
    assert float(saliency.mean_over(half, params, jnp.zeros((5000, 1)))) == 1


@pytest.mark.parametrize(
    ("batches", "found"), [(jnp.ones(()), "[0]"), ({"x": jnp.ones(3), "y": jnp.ones(2)}, "[2, 3]")]
)
def test_batches_that_do_not_fit(batches: Any, found: str) -> None:
    with pytest.raises(ValueError, match="batches has arrays of") as error:
        saliency.mean_over(lambda params, batch: params, jnp.ones(2), batches)
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    options = {"sparsity": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        saliency.prune_in_rounds(saliency.by_score(scores.magnitude), tree(), **options)


def test_in_training_it_prunes_at_step_0_and_not_before() -> None:
    method = jaxsparse.before_training(0.75, saliency=saliency.by_score(scores.magnitude), rounds=3)
    params = tree()
    tx = jaxsparse.sparsify(optax.sgd(0.1), method)
    state = jax.jit(tx.init)(params)
    assert int(state.info.kept.sum()) == 92
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, params), state, params)
    after = optax.apply_updates(params, updates)
    chosen = saliency.prune_in_rounds(saliency.by_score(scores.magnitude), params, 0.75, rounds=3)
    for leaf in "ab":
        np.testing.assert_array_equal(state.masks[leaf], chosen[leaf])
        # Step 0 prunes, and trains nothing.
        np.testing.assert_array_equal(after[leaf], np.where(chosen[leaf], params[leaf], 0))
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, params), state, after)
    np.testing.assert_allclose(np.asarray(updates["a"])[np.asarray(chosen["a"])], -0.1, rtol=1e-6)
    assert int(state.info.updates) == 1


def test_scores_of_a_fresh_initialization_mask_the_weights_that_are_trained() -> None:
    """What published code of SNIP does: the mask of one initialization, training of another."""
    trained, fresh = tree(0), tree(1)
    loss_fn = lambda params, batch: jnp.sum(jnp.tanh(params["a"]) * batch) + jnp.sum(params["b"])
    snip = saliency.connection_sensitivity(loss_fn, jnp.ones((1, *trained["a"].shape)))
    method = jaxsparse.before_training(0.5, saliency=saliency.of_weights(snip, fresh))
    masks = method.init(jax.random.key(0), trained)
    masks, _ = jax.jit(method.update)(jax.random.key(1), masks, trained, trained, 0)
    expected = jax.jit(lambda params: saliency.prune_in_rounds(snip, params, 0.5))
    other = expected(trained)
    for leaf in "ab":
        np.testing.assert_array_equal(masks[leaf], expected(fresh)[leaf])
    assert not np.array_equal(masks["a"], other["a"])
    with pytest.raises(ValueError, match="stand in for"):
        saliency.of_weights(snip, {"a": trained["a"]})(trained, masks)
