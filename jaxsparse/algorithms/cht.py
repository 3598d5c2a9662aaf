"""CHT: growth by link prediction, from the mask alone."""

from typing import Literal

from jaxsparse import distributions, scores
from jaxsparse.base import Distribution, MaskAlgorithm, ScalarOrSchedule, Schedule, Where
from jaxsparse.engine import drop_grow
from jaxsparse.layers import default_where
from jaxsparse.schedules import every


def cht(
    sparsity: ScalarOrSchedule,
    *,
    distribution: Distribution = distributions.uniform,
    update: Schedule = every(100, start=100),
    drop_fraction: ScalarOrSchedule = 0.3,
    predictor: Literal["ch2", "ch3", "l3"] = "ch2",
    regrow_dropped: bool = True,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Cannistraci-Hebb training ("CHT", Zhang et al., 2024): gradient-free topological growth.

    ==================  =================  =========  =========================================
    sparsity over time  swap               drop       grow
    ==================  =================  =========  =========================================
    constant            constant fraction  magnitude  most paths of length three to their ends,
                                                      weighted (``scores.length_three_paths``)
    ==================  =================  =========  =========================================

    Neither gradients nor weights decide what grows: links come where the layer's graph, after the
    drop, has many short ways between their ends. Two products of the mask with itself an update.

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      update: ``step -> bool``; the end of each epoch in the paper: ``every(n, start=n)`` for epochs
        of n steps.
      drop_fraction: Fraction of each layer's kept weights swapped, in [0, 1]; the paper's zeta.
      predictor: ``"ch2"``: CH2-L3 by nodes, as in the authors' later CHTs; ``"ch3"``: CH3-L3 by
        nodes; ``"l3"``: paths over the square root of their nodes' degrees.
      regrow_dropped: May a weight dropped by this update grow again at once?
      where: ``(path, leaf) -> bool``: which leaves may be sparse; of two dimensions or more.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if a choice is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> method, params = cht(0.9), {"kernel": jnp.ones((20, 10))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 100)
      >>> int(info.kept[0]), int(info.dropped) == int(info.grown)
      (20, True)

    Differences from the paper: its predictor CH3-L3 weights each path by the links that its two
    nodes have outside of all paths of that pair, which no matrix product gives; the nodes' version,
    which the authors' CHTs introduced for that reason, takes its place. Not here: the start from
    correlations of the inputs or from other graph models (masks start at random); its weight
    initialization; the removal of neurons that lost all links on one side; the stop when few links
    change; the soft sampling and the rising sparsity of CHTs and CHTss (for the latter give a
    schedule). A convolution is a graph for each position of its kernel; the paper has fully
    connected layers.

    References:
      Zhang et al., `Epitopological learning and Cannistraci-Hebb network shape intelligence brain-
      inspired theory for ultra-sparse advantage in deep learning
      <https://openreview.net/forum?id=iayEcORsGd>`_, ICLR 2024;
      Zhang et al., `Brain network science modelling of sparse neural networks enables Transformers
      and LLMs to perform as fully connected <https://arxiv.org/abs/2501.19107>`_, NeurIPS 2025;
      Kovacs et al., Network-based prediction of protein interactions, Nature Communications 10,
      2019.
    """
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=update,
        drop_fraction=drop_fraction,
        drop=scores.magnitude,
        grow=scores.length_three_paths(predictor),
        regrow_dropped=regrow_dropped,
        where=where,
    )
