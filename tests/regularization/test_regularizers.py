"""Penalties and their proximal operators: by hand, by NumPy, and by what they minimize."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxsparse.regularization import Regularizer, group_lasso, kept_groups, l1

everywhere = lambda path, leaf: True


def shrunk(regularizer: Regularizer, weight: Any, step_size: float = 1.0, step: int = 0) -> Any:
    return np.asarray(regularizer.prox({"kernel": jnp.asarray(weight)}, step_size, step)["kernel"])


def test_soft_thresholding_by_hand() -> None:
    # eta lambda = 0.5 * 2 = 1; what is as large as the threshold goes, too.
    found = shrunk(l1(2.0), np.float32([[3, 1, 0.5], [-3, -1, -1.5]]), 0.5)
    assert found.tolist() == [[2, 0, 0], [-2, 0, -0.5]]


def test_group_lasso_by_hand() -> None:
    # Columns (3, 4), (0.6, 0.8), (0, 0): norms 5, 1, 0. Threshold 1: factors 0.8, 0, 0.
    weight = np.float32([[3, 0.6, 0], [4, 0.8, 0]])
    columns = group_lasso(1.0, "filters", weight_by_size=False)
    np.testing.assert_allclose(shrunk(columns, weight), [[2.4, 0, 0], [3.2, 0, 0]], rtol=1e-6)
    assert np.count_nonzero(shrunk(columns, weight)) == 2
    # With the root of 2 weights a group: 1 - sqrt(2) / 5.
    sized = shrunk(group_lasso(1.0, "filters"), weight)
    np.testing.assert_allclose(sized[:, 0], np.array([3, 4]) * (1 - 2**0.5 / 5), rtol=1e-6)
    # 5 + 1 + 0, times 2.
    penalty = group_lasso(2.0, "filters", weight_by_size=False).penalty({"kernel": weight})
    np.testing.assert_allclose(penalty, 12.0, rtol=1e-6)


# Axes that lie inside a group, for a kernel (h, w, in, out).
INSIDE = {"filters": (0, 1, 2), "channels": (0, 1, 3), "shapes": (3,), "depth": (0, 1, 2, 3)}


def numpy_prox(weight: np.ndarray, axes: tuple[int, ...], threshold: float) -> np.ndarray:
    """A group at a time, in float64."""
    moved = np.moveaxis(np.array(weight, np.float64), axes, range(-len(axes), 0))
    rows = moved.reshape(-1, int(np.prod([weight.shape[a] for a in axes])))
    for i, row in enumerate(rows):
        norm = np.sqrt((row**2).sum())
        rows[i] = row * max(0.0, 1 - threshold / norm) if norm else 0.0
    return np.moveaxis(rows.reshape(moved.shape), range(-len(axes), 0), axes)


def kernel(seed: int = 0, shape: tuple[int, ...] = (3, 2, 4, 5)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Sizes from far below to far above the thresholds.
    return np.float32(rng.normal(size=shape) * np.exp(rng.normal(size=(1, 1, *shape[2:])) * 1.5))


@pytest.mark.parametrize("group", INSIDE)
@pytest.mark.parametrize("weight_by_size", [False, True])
def test_groups_equal_numpy(group: Any, weight_by_size: bool) -> None:
    weight, axes = kernel(), INSIDE[group]
    size = np.prod([weight.shape[a] for a in axes]) ** 0.5 if weight_by_size else 1.0
    strength = {"filters": 29.0, "channels": 27.0, "shapes": 10.0, "depth": 25.0}[group] / size
    regularizer = group_lasso(float(strength), group, weight_by_size=weight_by_size)
    want = numpy_prox(weight, axes, 0.4 * strength * size)
    found = shrunk(regularizer, weight, 0.4)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found == 0, want == 0)
    if group != "depth":
        assert 0 < np.mean(want == 0) < 1  # the test has groups of both kinds
    value = regularizer.penalty({"kernel": weight})
    norms = np.sqrt((np.float64(weight) ** 2).sum(axes))
    np.testing.assert_allclose(value, strength * size * norms.sum(), rtol=1e-5)


def test_groups_by_their_axes() -> None:
    weight = kernel()
    for name, axes in (("filters", (-1,)), ("channels", (2,)), ("shapes", (0, 1, -2))):
        named, numbered = group_lasso(2.0, name), group_lasso(2.0, axes)
        np.testing.assert_array_equal(shrunk(named, weight, 0.4), shrunk(numbered, weight, 0.4))
    # Of a dense kernel (in, out), shapes are channels: rows of the matrix.
    same = [shrunk(group_lasso(1.0, name), weight[0, 0]) for name in ("shapes", "channels")]
    np.testing.assert_array_equal(*same)


def objective(regularizer: Regularizer, weight: np.ndarray, step_size: float) -> Any:
    """What a proximal operator minimizes."""
    value = lambda w: (
        jnp.sum((w - weight) ** 2) / 2 + step_size * regularizer.penalty({"kernel": w})
    )
    return jax.jit(value)


@pytest.mark.parametrize(
    "regularizers",
    [
        (l1(0.7),),
        (group_lasso(1.0, "filters"),),
        (group_lasso(0.3, ("channels", "shapes", "depth")),),
        (group_lasso(0.6, ("depth", "filters")),),
        (l1(0.4), group_lasso(0.5, "channels")),
    ],
    ids=["l1", "filters", "nested", "filters in depth", "l1 in channels"],
)
def test_it_minimizes_what_it_should(regularizers: tuple[Regularizer, ...]) -> None:
    """Against random neighbors, and against a search of another kind that starts at v."""
    weight = kernel(1, (1, 2, 3, 2))
    found = {"kernel": jnp.asarray(weight)}
    for regularizer in regularizers:
        found = regularizer.prox(found, 0.8, 0)
    both = Regularizer(lambda *_: None, lambda p: sum(r.penalty(p) for r in regularizers))
    value = objective(both, weight, 0.8)
    least, ours = float(value(found["kernel"])), np.asarray(found["kernel"])
    assert 0 < np.mean(ours == 0) < 1
    rng = np.random.default_rng(0)
    for size in (1e-2, 1e-1, 1.0):
        for _ in range(50):
            assert float(value(ours + np.float32(rng.normal(size=ours.shape) * size))) > least
    powell = scipy.optimize.minimize(
        lambda w: float(value(np.float32(w.reshape(weight.shape)))),
        weight.reshape(-1),
        method="Powell",
        options={"xtol": 1e-5, "ftol": 1e-9, "maxiter": 40},
    )
    assert least <= powell.fun * (1 + 1e-5)


def test_a_scalar_on_a_grid() -> None:
    grid = np.linspace(-4, 4, 80_001)
    for v in (-3.0, -0.9, 0.2, 1.1, 2.5):
        want = grid[np.argmin((grid - v) ** 2 / 2 + 0.9 * abs(grid))]
        np.testing.assert_allclose(shrunk(l1(0.9), np.float32([[v]]))[0, 0], want, atol=1e-4)


def dykstra(weight: np.ndarray, step_size: float, rounds: int = 2000) -> np.ndarray:
    """The proximal operator of |rows| + |columns|, in float64 (Bauschke & Combettes, 2008)."""
    x, p, q = np.float64(weight), 0.0, 0.0
    for _ in range(rounds):
        y = numpy_prox(x + p, (0,), step_size)
        p = x + p - y
        x = numpy_prox(y + q, (1,), step_size)
        q = y + q - x
    return x


def test_crossing_groups_come_near_the_operator_of_the_sum() -> None:
    """Not it: the distance falls with the square of the step size, and zeros are exact."""
    weight = kernel(2)[0, 0]
    regularizer = group_lasso(1.0, ("filters", "channels"), weight_by_size=False)
    steps = (0.08, 0.04, 0.02)
    far = [np.abs(shrunk(regularizer, weight, t) - dykstra(weight, t)).max() for t in steps]
    assert far[0] > 1e-5
    for more, less in itertools.pairwise(far):
        assert 3 < more / less < 5
    # Both orders of naming are one order of work.
    swapped = group_lasso(1.0, ("channels", "filters"), weight_by_size=False)
    np.testing.assert_array_equal(shrunk(regularizer, weight, 2), shrunk(swapped, weight, 2))
    zeros = shrunk(regularizer, weight, 2.0) == 0
    np.testing.assert_array_equal(zeros, zeros.all(0)[None] | zeros.all(1)[:, None])
    assert zeros.all(0).any()


def test_penalties_have_gradients_also_at_zero() -> None:
    weight = jnp.asarray([[3.0, 0.0], [4.0, 0.0]])
    of = lambda regularizer: jax.grad(lambda w: regularizer.penalty({"kernel": w}))(weight)
    columns = of(group_lasso(2.0, "filters", weight_by_size=False))
    np.testing.assert_allclose(columns, [[1.2, 0], [1.6, 0]], rtol=1e-6)
    assert of(l1(2.0)).tolist() == [[2, 0], [2, 0]]


def test_dense_leaves_and_other_types() -> None:
    params = {
        "bias": jnp.ones(3),
        "count": jnp.int32(4),
        "kernel": jnp.asarray(kernel()[0, 0, :, :3], jnp.bfloat16),
        "left": optax.MaskedNode(),
    }
    for regularizer in (l1(0.3), group_lasso(1.0, ("filters", "channels"))):
        found = regularizer.prox(params, 1.0, 0)
        assert found["bias"] is params["bias"]
        assert found["count"] is params["count"]
        assert found["kernel"].dtype == jnp.bfloat16
        assert 0 < int((found["kernel"] == 0).sum()) < 12
        whole = regularizer.prox(
            jax.tree.map(lambda x: x.astype(jnp.float32), {"kernel": params["kernel"]}), 1.0, 0
        )
        np.testing.assert_array_equal(found["kernel"], whole["kernel"].astype(jnp.bfloat16))
        biased = {"bias": params["bias"], "kernel": params["kernel"]}
        assert regularizer.penalty(params) == regularizer.penalty(biased)
    all_of_them = l1(0.25, where=everywhere).prox({"bias": jnp.ones(2)}, 1.0, 0)
    assert all_of_them["bias"].tolist() == [0.75, 0.75]


def test_a_number_that_is_none_is_not_hidden_in_a_zero() -> None:
    weight = np.float32([[np.nan, 0.1], [1.0, 0.1]])
    assert np.isnan(shrunk(group_lasso(1.0, "filters"), weight)[:, 0]).all()
    assert shrunk(group_lasso(1.0, "filters"), weight)[:, 1].tolist() == [0, 0]
    assert np.isnan(shrunk(l1(1.0), weight)[0, 0])


def test_a_strength_may_be_a_schedule_or_an_axis() -> None:
    rising = optax.linear_schedule(0.0, 1.0, 10)
    weight = np.float32([[3.0, 0.4]])
    np.testing.assert_array_equal(shrunk(l1(rising), weight), weight)  # nothing yet
    np.testing.assert_allclose(shrunk(l1(rising), weight, 1.0, 5), [[2.5, 0]])
    np.testing.assert_allclose(l1(rising).penalty({"kernel": weight}, 5), 1.7, rtol=1e-6)
    sweep = jax.vmap(lambda x: group_lasso(x, "filters").prox({"kernel": weight}, 1.0, 0)["kernel"])
    np.testing.assert_allclose(
        sweep(jnp.array([0.0, 1.0, 5.0]))[:, 0], [[3, 0.4], [2, 0], [0, 0]], rtol=1e-6
    )


def test_groups_are_counted() -> None:
    weight = jnp.zeros((2, 2, 3, 4)).at[0, 1, 2, 3].set(1.0).at[1, 1, 2, 0].set(-1.0)
    params = {"a": weight, "bias": jnp.zeros(4)}
    counts = {g: int(kept_groups(params, g)["a"]) for g in ("filters", "channels", "shapes")}
    assert counts == {"filters": 2, "channels": 1, "shapes": 2}
    assert int(kept_groups(params, "depth")["a"]) == 1
    assert isinstance(kept_groups(params, "depth")["bias"], optax.MaskedNode)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: l1(-0.1), "strength is -0.1; it must be a finite number, 0 or more"),
        (lambda: group_lasso(float("nan"), "filters"), "strength is nan"),
        (lambda: group_lasso(1.0, "filter"), "unknown group 'filter'; did you mean filters"),
        (lambda: group_lasso(1.0, ("depth", "rows")), "unknown group 'rows'"),
        (lambda: group_lasso(1.0, []), r"groups is \[\]; name at least one kind"),
        (lambda: group_lasso(1.0, ("depth", "depth")), "each once"),
        (lambda: kept_groups({}, "channel"), "unknown group 'channel'; did you mean channels"),
        (
            lambda: group_lasso(1.0, "channels", where=everywhere).prox({"b": jnp.ones(3)}, 1.0, 0),
            r"groups 'channels' are numbered by axes \(-2,\); b has shape \(3,\)",
        ),
        (lambda: l1(1.0).prox({"bias": jnp.ones(3)}, 1.0, 0), "none of the 1 leaves"),
    ],
)
def test_what_does_not_fit_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
