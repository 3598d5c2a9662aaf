"""Which axes belong together, by hand, for linen, nnx and plain functions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models import CifarResNet, LeNet5, MobileNetV1, WideResNet
from jaxsparse.units import (
    UnitGroups,
    kept_units,
    prune_units,
    unit_groups,
    unit_masks,
    unit_norm,
    unit_scale,
    unit_taylor,
)

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")


def abstract(model: nn.Module, shape: tuple[int, ...]) -> tuple:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x), x


def held(groups: UnitGroups) -> dict[str, set]:
    found: dict[str, set] = {}
    for group in groups.groups:
        if group.held:
            found.setdefault(group.held, set()).add((group.name, group.units))
    return found


def test_flattening_gives_a_channel_many_rows() -> None:
    variables, x = abstract(LeNet5(), (3, 28, 28, 1))
    groups = unit_groups(LeNet5().apply, variables, x)
    assert [(g.name, g.units) for g in groups.free] == [
        ("params/Conv_0/kernel", 20),
        ("params/Conv_1/kernel", 50),
        ("params/Dense_0/kernel", 500),
    ]
    (second,) = [g for g in groups.free if g.units == 50]
    (reader,) = second.members_that("reads")
    assert reader.path == "params/Dense_0/kernel"
    # 4 x 4 positions, channels last.
    np.testing.assert_array_equal(reader.unit, np.tile(np.arange(50), 16))
    assert [m.path for m in second.members_that("along")] == ["params/Conv_1/bias"]
    assert held(groups) == {
        "input of the model": {("params/Conv_0/kernel", 1)},
        "output of the model": {("params/Dense_1/kernel", 10)},
    }
    assert str(groups).splitlines()[3].split()[:3] == [
        "params/Conv_1/kernel",
        "50",
        "params/Conv_1/kernel",
    ]


def test_residual_connections_couple_the_layers_of_a_stage() -> None:
    variables, x = abstract(CifarResNet(depth=14, width=4), (1, 8, 8, 3))
    groups = unit_groups(CifarResNet(depth=14, width=4).apply, variables, x)
    (stem,) = [g for g in groups.free if g.name == "params/conv1/kernel"]
    makers = [member.path for member in stem.members_that("makes")]
    # Zero channels are added on both sides: the stem's are in the middle of later stages.
    assert makers == [
        "params/conv1/kernel",
        *[f"params/stage{s}_block{b}/conv2/kernel" for s in (1, 2, 3) for b in (1, 2)],
    ]
    (third,) = [m for m in stem.members if m.path == "params/stage3_block1/conv2/kernel"]
    np.testing.assert_array_equal(third.unit, [-1] * 6 + [0, 1, 2, 3] + [-1] * 6)
    inner = {g.name for g in groups.free if "/conv1/" in g.name and "stage" in g.name}
    assert inner == {f"params/stage{s}_block{b}/conv1/kernel" for s in (1, 2, 3) for b in (1, 2)}


def test_projections_couple_too_and_pre_activation_statistics_go_along() -> None:
    model = WideResNet(depth=10, width=1)
    groups = unit_groups(model.apply, *abstract(model, (1, 8, 8, 3)))
    (last,) = [g for g in groups.free if g.name == "params/stage3_block1/conv2/kernel"]
    assert {m.path for m in last.members} == {
        *[f"params/stage3_block1/{name}/kernel" for name in ("conv2", "shortcut")],
        "params/head/kernel",
        *[f"params/bn/{name}" for name in ("bias", "scale")],
        *[f"batch_stats/bn/{name}" for name in ("mean", "var")],
    }


def test_depthwise_kernels_go_along() -> None:
    model = MobileNetV1(width=0.25)
    groups = unit_groups(model.apply, *abstract(model, (1, 32, 32, 3)))
    depthwise = [
        (m.role, m.axis)
        for g in groups.free
        for m in g.members
        if "depthwise" in m.path
        if m.path.endswith("kernel")
    ]
    assert set(depthwise) == {("along", 3)}
    assert len(groups.free) == 14


def test_nnx_and_what_is_held() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(4, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.hidden = nnx.Linear(6, 5, rngs=rngs)
            self.last = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.last(nnx.tanh(self.hidden(self.norm(self.first(x)))))

    graph, params = nnx.split(Model(nnx.Rngs(0)))
    groups = unit_groups(lambda p, x: nnx.merge(graph, p)(x), params, jnp.ones((2, 4)))
    assert [(g.name, g.units) for g in groups.free] == [("hidden/kernel", 5)]
    assert ("first/kernel", 6) in held(groups)["read by reduce_sum"]


def test_loops_grouped_convolutions_and_attention_are_held() -> None:
    def model_fn(params, x):
        x, _ = jax.lax.scan(lambda c, _: (jnp.tanh(c @ params["loop"]), None), x, None, 2)
        x = x @ params["in"]
        scores = x @ jnp.swapaxes(x, 0, 1)
        return scores @ x @ params["out"]

    params = {"in": jnp.ones((4, 6)), "loop": jnp.ones((4, 4)), "out": jnp.ones((6, 2))}
    groups = unit_groups(model_fn, params, jnp.ones((3, 4)))
    assert not groups.free
    assert held(groups)["read by scan"] == {("loop", 4)}
    assert ("in", 6) in held(groups)["read by a product over several axes, or of data with data"]
    with pytest.raises(ValueError, match="no units of this model can be removed"):
        prune_units(groups, params, [], 0.5)


def two_branches(params, x):
    """A residual connection over one branch, a scale, and a head."""
    stem = x @ params["stem"]
    branch = jax.nn.relu(stem * params["scale"][None]) @ params["branch"]
    return (stem + branch) @ params["head"]


BRANCHES = {
    "branch": jnp.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]),
    "head": jnp.ones((3, 1)),
    "scale": jnp.array([0.5, -3.0, 1.0]),
    "stem": jnp.array([[3.0, 1.0, 0.0], [4.0, 2.0, 1.0]]),
}


def test_scores_by_hand_over_coupled_kernels() -> None:
    groups = unit_groups(two_branches, BRANCHES, jnp.ones((1, 2)))
    (group,) = groups.free
    assert {m.path: m.role for m in group.members if m.axis == 1} == {
        "branch": "makes",
        "stem": "makes",
    }
    np.testing.assert_allclose(unit_norm(groups, BRANCHES, order=1)[0], [8.0, 5.0, 3.0])
    np.testing.assert_allclose(unit_norm(groups, BRANCHES)[0], np.sqrt([26.0, 9.0, 5.0]))
    np.testing.assert_allclose(unit_scale(groups, BRANCHES)[0], [0.5, 3.0, 1.0])
    grads = jax.tree.map(jnp.ones_like, BRANCHES)
    # branch column + stem column + scale: 1 + 7 + 0.5, 2 + 3 - 3, 2 + 1 + 1.
    np.testing.assert_allclose(unit_taylor(groups, BRANCHES, grads)[0], [8.5, 2.0, 4.0])
    with pytest.raises(ValueError, match="order is 3; pass 1 or 2"):
        unit_norm(groups, BRANCHES, order=3)
    with pytest.raises(ValueError, match="no unit has a parameter 'gamma'"):
        unit_scale(groups, BRANCHES, name="gamma")


def test_taylor_is_the_change_of_a_loss_that_is_linear_in_the_unit() -> None:
    x = jnp.array([[1.0, -2.0]])
    params = {"a": jnp.array([[0.5, -1.0], [2.0, 0.3]]), "b": jnp.array([0.2, 0.1])}
    params["c"] = jnp.array([[1.5], [-0.7]])
    model_fn = lambda p, x: (x @ p["a"] + p["b"][None]) @ p["c"]
    loss = lambda p: jnp.sum(model_fn(p, x))
    groups = unit_groups(model_fn, params, x)
    scores = unit_taylor(groups, params, jax.grad(loss)(params))[0]
    for unit in range(2):
        without = {**params, "a": params["a"].at[:, unit].set(0), "b": params["b"].at[unit].set(0)}
        np.testing.assert_allclose(scores[unit], abs(loss(params) - loss(without)), rtol=1e-5)


def test_kept_units_are_exact_and_ties_do_not_count() -> None:
    groups = unit_groups(two_branches, BRANCHES, jnp.ones((1, 2)))
    for sparsity, kept in [(0.0, 3), (0.3, 3), (0.34, 2), (0.67, 1), (0.99, 1)]:
        mask = kept_units(groups, [jnp.zeros(3)], sparsity)[0]
        assert int(mask.sum()) == kept
    with pytest.raises(ValueError, match=r"sparsity is 1.0, outside \[0, 1\)"):
        kept_units(groups, [jnp.zeros(3)], 1.0)
    with pytest.raises(ValueError, match=r"scores of .* for groups of"):
        kept_units(groups, [jnp.zeros(4)], 0.5)
    with pytest.raises(ValueError, match="scope is 'tree'"):
        kept_units(groups, [jnp.zeros(3)], 0.5, scope="tree")


def test_globally_the_best_of_every_group_stays() -> None:
    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 6)), "c": jnp.ones((6, 1))}
    groups = unit_groups(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, jnp.ones((1, 2)))
    scores = [jnp.arange(4.0), 10 + jnp.arange(6.0)]
    kept = kept_units(groups, scores, 0.5, scope="global")
    np.testing.assert_array_equal(kept[0], [False, False, False, True])
    np.testing.assert_array_equal(kept[1], [False, False, True, True, True, True])
    masks = unit_masks(groups, params, kept)
    np.testing.assert_array_equal(masks["b"], kept[0][:, None] & kept[1][None, :])
