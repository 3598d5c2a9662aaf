"""Scores and weights that are not finite: the masks stay, and the report says so."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsparse
from jaxsparse import drop_grow, fan_in, saliency, scores, uniform
from jaxsparse.learned import train_own

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

PARAMS = {"w": jnp.arange(1.0, 25.0).reshape(4, 6)}
GRADS = {"w": jnp.linspace(1.0, 2.0, 24).reshape(4, 6)}


def _odd_where(number: float, chosen: Any) -> Any:
    """Magnitudes, but where ``chosen(mask)`` holds."""

    def score(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return jnp.where(chosen(mask), number, jnp.abs(weight))

    return score


CHOSEN = {
    "kept": lambda mask: mask,
    "absent": lambda mask: ~mask,
    "nowhere": lambda mask: mask & ~mask,
}


@pytest.mark.parametrize(
    ("number", "mark"), [(np.nan, scores.elementwise), (np.inf, lambda score: score)]
)
def test_a_score_that_is_not_finite_never_moves_a_mask(number: float, mark: Any) -> None:
    """Where it ranks: of kept weights for the drop, of the others for the growth."""
    for part, harmful in (("drop", "kept"), ("grow", "absent")):
        for where, chosen in CHOSEN.items():
            choices: Any = {"drop": scores.magnitude, "grow": scores.gradient_magnitude}
            choices[part] = mark(_odd_where(number, chosen))
            method = drop_grow(sparsity=0.5, distribution=uniform, drop_fraction=0.5, **choices)
            masks = method.init(jax.random.key(0), PARAMS)
            after, info = jax.jit(method.update)(jax.random.key(1), masks, PARAMS, GRADS, 0)
            skipped = where == harmful
            assert (int(info.skipped), int(info.updates)) == (skipped, not skipped)
            assert bool((after["w"] == masks["w"]).all()) == skipped
            assert int(after["w"].sum()) == 12


def test_sums_of_a_structure_may_overflow() -> None:
    method = drop_grow(
        sparsity=0.5,
        distribution=uniform,
        drop=scores.magnitude,
        grow=scores.gradient_magnitude,
        drop_fraction=0.5,
        structure=jaxsparse.block(2, 2),
    )
    masks = method.init(jax.random.key(0), PARAMS)
    for size, skipped in ((1e30, 0), (3e38, 1)):
        grads = {"w": jnp.full((4, 6), size)}
        after, info = method.update(jax.random.key(1), masks, PARAMS, grads, 0)
        assert (int(info.skipped), int(info.updates)) == (skipped, 1 - skipped)
        assert not skipped or bool((after["w"] == masks["w"]).all())


def test_groups_are_not_moved_either() -> None:
    """With a budget for each neuron."""
    method = drop_grow(
        sparsity=0.5,
        distribution=uniform,
        drop=_odd_where(np.nan, CHOSEN["kept"]),
        grow=scores.gradient_magnitude,
        drop_fraction=0.5,
        structure=fan_in(),
    )
    masks = method.init(jax.random.key(0), PARAMS)
    after, info = method.update(jax.random.key(1), masks, PARAMS, GRADS, 0)
    assert int(info.skipped) == 1
    assert bool((after["w"] == masks["w"]).all())


@pytest.mark.usefixtures("as_on_one_device")
def test_what_fills_up_the_rows_of_many_leaves_is_no_candidate() -> None:
    """Nine leaves are packed; the score of a zero would be NaN."""

    @scores.elementwise
    def ratio(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return grad / weight

    params = {f"{i}": PARAMS["w"] * (i + 1) for i in range(9)}
    grads = {name: jnp.ones((4, 6)) for name in params}
    method = drop_grow(sparsity=0.5, distribution=uniform, drop_fraction=0.5, grow=ratio)
    masks = method.init(jax.random.key(0), params)
    update = jax.jit(method.update)
    _, info = update(jax.random.key(1), masks, params, grads, 0)
    assert (int(info.updates), int(info.skipped)) == (1, 0)
    absent = int(jnp.argmin(masks["3"].reshape(-1)))
    params["3"] = params["3"].reshape(-1).at[absent].set(0.0).reshape(4, 6)
    _, info = update(jax.random.key(1), masks, params, grads, 0)
    assert (int(info.updates), int(info.skipped)) == (0, 1)


def test_saliency_before_training() -> None:
    """In whichever round it is found."""

    def rotten(late: bool) -> saliency.Saliency:
        def score(params: Any, masks: Any) -> Any:
            rot = ~masks["w"].all() if late else jnp.bool_(True)
            return {"w": jnp.abs(params["w"]).at[3, 5].set(jnp.where(rot, jnp.nan, 24.0))}

        return score

    for late in (False, True):
        masks = saliency.prune_in_rounds(rotten(late), PARAMS, 0.5, rounds=3)
        assert bool(masks["w"].all())
        method = jaxsparse.before_training(0.5, saliency=rotten(late), rounds=3)
        first = method.init(jax.random.key(0), PARAMS)
        after, info = method.update(jax.random.key(1), first, PARAMS, GRADS, 0)
        assert (int(info.updates), int(info.skipped)) == (0, 1)
        assert bool((after["w"] == first["w"]).all())
    # What was pruned before is no candidate: its score may be anything.
    sound = lambda params, masks: {"w": jnp.where(masks["w"], params["w"], jnp.nan)}
    assert int(saliency.prune_in_rounds(sound, PARAMS, 0.5, rounds=3)["w"].sum()) == 12


def test_a_methods_own_parameters_stay_finite() -> None:
    """A finite gradient can be too much for what it is added to."""
    sgd, values = optax.sgd(1.0), jnp.full(1, -3e38)
    new, _ = train_own(sgd, jnp.array([2e38]), sgd.init(values), values)
    assert new.tolist() == values.tolist()
