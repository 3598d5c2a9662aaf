"""What each step of each method costs, by its own definition, from the masks of the run."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxsparse import ALGORITHMS
from jaxsparse.accounting import FlopsReport, LayerFlops, step_cost
from tests.contract.methods import build, leaves, run

# Operations of dense layers, as uneven as can be; two of each stay whatever is masked.
DENSE = {"Conv_0/kernel": 102, "Dense_0/kernel": 30, "Dense_1/kernel": 7}
SHAPES = {"Conv_0/kernel": (3, 3, 4, 8), "Dense_0/kernel": (12, 16), "Dense_1/kernel": (15, 11)}
REPORT = FlopsReport(
    tuple(LayerFlops(path, SHAPES[path], 0, cost, cost, 2) for path, cost in DENSE.items())
)
ALL = 645
OTHERS = 32

# Whose gradients are read beside those of the kept weights: all, at all steps (the papers' 2 f_S +
# f_D), or at those that move masks (RigL's); or those of a larger set (Top-KAST's). All others cost
# 3 f_S at every step, with the masks of that step.
ALWAYS = {
    "snfs", "snfs_rigl", "dnw", "ste", "ste_random", "sr_ste", "l0", "variational_dropout",
    "movement",
}  # fmt: skip
AT_UPDATES = {"rigl", "srigl", "granet"}
LARGER = {"top_kast"}


def test_the_table_names_methods() -> None:
    assert set(ALGORITHMS) >= ALWAYS | AT_UPDATES | LARGER


def share(masks: Any) -> float:
    """Operations of a forward pass, as a fraction of dense."""
    found = leaves(masks)
    if not found:
        return 1.0
    rows = zip(found, DENSE.values(), strict=True)
    return sum(2 + (cost - 2) * mask.mean() for (mask,), cost in rows) / sum(DENSE.values())


def test_every_step_costs_what_its_definition_says(name: str) -> None:
    method, done = build(name), run(name)
    cost = jax.jit(lambda *states: step_cost(REPORT, method, *states))
    for step, params in enumerate(done.params[:-1]):
        before, after = done.states[step], done.states[step + 1]
        used = read = share(before.masks)
        if name in ALWAYS or (name in AT_UPDATES and method.due and method.due(step)):
            read = 1.0
        elif name in LARGER:
            read = share(after.memory.trained)
            assert read > used
        found = cost(before, after, params)
        assert float(found.training) == pytest.approx(2 * used + read, rel=1e-5)
        assert float(found.inference) == pytest.approx(share(after.masks), rel=1e-5)
        kept = sum(int(mask.sum()) for (mask,) in leaves(before.masks))
        hidden = sum(mask.size for (mask,) in leaves(before.masks))
        assert float(found.parameters) == ALL + OTHERS - hidden + kept
        assert np.shape(found.parameters) == ()
