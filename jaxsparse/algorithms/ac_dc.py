"""AC/DC: dense and sparse phases in turn, ending sparse."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Structure, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import check_sparsity, every


def ac_dc(
    sparsity: float,
    *,
    start: int = 7_500,
    stop: int = 63_750,
    interval: int = 3_750,
    switches: Sequence[int] | None = None,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "global",
    grown_slots: float | Literal["initial", "keep"] = "initial",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Alternating compressed/decompressed training ("AC/DC", Peste et al., 2021).

    ========================  ==========  ====================  =========================
    sparsity over time        when        drop                  grow
    ========================  ==========  ====================  =========================
    0 and S in turn, S last   at phases'  magnitude, down to S  all, into dense phases
                              starts
    ========================  ==========  ====================  =========================

    A dense warm-up, then phases of ``interval`` steps, sparse and dense in turn; from ``stop`` on
    the network is sparse for good, so give it enough steps there. In a sparse phase the mask is
    fixed. A dense phase brings all weights back, the pruned ones from zero.

    Args:
      sparsity: Fraction of zeros over the sparse leaves in sparse phases, in [0, 1).
      start: End of the dense warm-up and first step of the first sparse phase.
      stop: First step of the last sparse phase at the latest: what is dense then is pruned.
      interval: Steps of a phase, at least 1.
      switches: The first steps of the phases after the warm-up, in place of the three numbers:
        sparse, dense, ..., sparse; an odd number of steps that rise. Published for ImageNet, in
        epochs: ``[*range(10, 75, 5), 75, 85]``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum with a global
        scope.
      scope: ``"global"``, as in published code: leaves compete for the sum; or ``"layer"``.
      grown_slots: Optimizer slots of grown weights: ``"initial"``, ``"keep"``, or a number c for
        initial + c times the gradient.
      structure: What is kept together; default: single weights. N:M needs ``scope="layer"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a number is out of range, or the last phase would be dense.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method = ac_dc(0.9, start=10, stop=30, interval=10)
      >>> [step for step in range(50) if method.due(step)]
      [10, 20, 30]
      >>> params, kept = {"kernel": jnp.arange(200.0).reshape(20, 10)}, []
      >>> masks = method.init(jax.random.key(0), params)
      >>> for step in (10, 20, 30):
      ...     masks, info = method.update(jax.random.key(1), masks, params, params, step)
      ...     kept.append(int(info.kept[0]))
      >>> print(kept)
      [20, 200, 20]

    Differences from the paper: slots of weights that come back start fresh and the others' go on,
    where the published code, on demand, resets all momentum at the start of a dense phase; phases
    are counted in steps; ties never change a count. A switch at which a number is not finite is
    skipped, and the phase before goes on until the next switch.

    References:
      Peste et al., `AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks
      <https://arxiv.org/abs/2106.12379>`_, NeurIPS 2021.
    """
    check_sparsity(sparsity)
    every(interval, start, stop)  # refuses what is out of range
    if switches is None:
        phases = list(range(start, stop, interval))
        # A dense phase is cut short where it would be the last one.
        phases += [] if len(phases) % 2 else [stop]
    else:
        phases = list(switches)
    rising = all(0 <= a < b for a, b in pairwise([*phases, 2**31 - 1]))
    if not (len(phases) % 2 and rising):
        raise ValueError(
            f"switches is {phases}; give an odd number of steps that rise: the first ones of a "
            "sparse phase, a dense one, ..., a sparse one"
        )
    firsts = np.array(phases, np.int32)

    def phase(step: Any) -> Any:
        """How many switches there have been; odd: sparse."""
        return jnp.searchsorted(firsts, jnp.asarray(step), side="right", method="compare_all")

    return drop_grow(
        sparsity=lambda step: jnp.where(phase(step) % 2 == 1, jnp.float32(sparsity), 0.0),
        distribution=distribution,
        update=lambda step: phase(step) != phase(jnp.asarray(step) - 1),
        drop=scores.magnitude,
        grow=scores.magnitude,
        scope=scope,
        grown_slots=grown_slots,
        structure=structure,
        where=where,
    )
