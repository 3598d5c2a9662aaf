"""Networks from which units are taken out, against the same networks with masks."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxsparse
from experiments import models
from jaxsparse import units

from .measure import Row, faster, medians
from .problems import Problem, small_problems

_SPARSITY = 0.5


def compacted_rows(repeats: int) -> Iterator[Row]:
    """Logits of a batch of 128, half of the units of every layer pruned.

    Args:
      repeats: Runs timed.

    Yields:
      A row a network: ``units.compact`` against the masked network.
    """
    images = jax.random.normal(jax.random.key(1), (128, 32, 32, 3))
    resnet = Problem("ResNet-20", models.CifarResNet(depth=20), images, None, 1)
    for problem in (*small_problems(), resnet):
        apply, variables = problem.model.apply, problem.variables()
        groups = units.unit_groups(apply, variables, problem.x)
        scores = units.unit_norm(groups, variables, order=1)
        masks = units.prune_units(groups, variables, scores, _SPARSITY)
        small = units.compact(apply, variables, masks, problem.x)
        masked = jaxsparse.apply_masks(variables, masks)
        pairs = [(jax.jit(small.apply), small.params), (jax.jit(apply), masked)]
        same = [function(params, problem.x) for function, params in pairs]
        if not jnp.allclose(*same, rtol=1e-3, atol=1e-3):
            raise AssertionError(f"{problem.name}: compacted and masked outputs differ")
        chunk = problem.chunk
        calls = [
            lambda f=function, p=params, x=problem.x, n=chunk: [f(p, x) for _ in range(n)][-1]
            for function, params in pairs
        ]
        times = [seconds / chunk for seconds in medians(calls, 4 * repeats + 1)]
        flops = [jaxsparse.flops(f, p, problem.x).dense for f, p in pairs]
        note = f"the masked network; {flops[1] / flops[0]:.2f} times fewer multiplications"
        yield faster(f"half the units removed, {problem.name}", times, "", note)
