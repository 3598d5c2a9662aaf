"""SynFlow: prune before training, without data, so that no layer runs dry."""

from collections.abc import Callable
from typing import Any

from jaxsparse import distributions
from jaxsparse.algorithms.before_training import before_training
from jaxsparse.base import Distribution, MaskAlgorithm, Scope, Where
from jaxsparse.layers import default_where
from jaxsparse.saliency import synaptic_flow


def synflow(
    sparsity: float,
    *,
    model_fn: Callable[..., Any] | None = None,
    inputs: Any = None,
    rounds: int = 100,
    scope: Scope = "global",
    distribution: Distribution = distributions.uniform,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Iterative synaptic flow pruning ("SynFlow", Tanaka et al., 2020, algorithm 1).

    =====================  ====  ======================  ====
    sparsity over time     swap  drop                    grow
    =====================  ====  ======================  ====
    0, then constant       0     w dR/dw, in rounds      none
    =====================  ====  ======================  ====

    Args:
      sparsity: Fraction of zeros over the sparse leaves, in [0, 1).
      model_fn: ``(params, inputs) -> outputs``, in evaluation mode.
      inputs: Array, or abstract array, with the shape and dtype of a single example.
      rounds: At least 1; 100 in the paper. With 1 layers collapse.
      scope: ``"global"``, as in the paper, or ``"layer"``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; only its sum counts under
        ``"global"``.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``model_fn`` or ``inputs`` is missing, or a number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([[-3.0], [4.0]])}
      >>> model_fn = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
      >>> method = synflow(0.5, model_fn=model_fn, inputs=jnp.ones((1, 1)))
      >>> masks = method.init(jax.random.key(0), params)
      >>> masks, info = method.update(jax.random.key(1), masks, params, params, 0)
      >>> masks["a"].tolist(), masks["b"].tolist()  # the path through the second unit
      ([[False, True]], [[False], [True]])

    Differences from the paper: see ``saliency.synaptic_flow``, also for the patent document that
    covers it.

    References:
      Tanaka et al., `Pruning neural networks without any data by iteratively conserving synaptic
      flow <https://arxiv.org/abs/2006.05467>`_, NeurIPS 2020.
    """
    if model_fn is None or inputs is None:
        raise ValueError(
            "synflow needs model_fn= and inputs=: (params, inputs) -> outputs, and an array of the "
            "shape of one example"
        )
    return before_training(
        sparsity,
        saliency=synaptic_flow(model_fn, inputs),
        rounds=rounds,
        scope=scope,
        distribution=distribution,
        where=where,
    )
