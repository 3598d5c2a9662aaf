"""DNW: dense weights, of which the largest are seen, chosen anew at every step."""

from jaxsparse import distributions, scores
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    ScalarOrSchedule,
    Scope,
    Structure,
    Where,
    always,
)
from jaxsparse.engine import drop_grow
from jaxsparse.forward import MaskedForward
from jaxsparse.layers import default_where


def dnw(
    sparsity: ScalarOrSchedule,
    *,
    distribution: Distribution = distributions.uniform,
    scope: Scope = "layer",
    structure: Structure | None = None,
    where: Where = default_where,
) -> MaskAlgorithm:
    """Discovering neural wirings ("DNW", Wortsman et al., 2019).

    ==================  ================  =========================  =============================
    sparsity over time  chosen            forward                    trained
    ==================  ================  =========================  =============================
    constant            anew, every step  the largest by magnitude   all weights, straight through
    ==================  ================  =========================  =============================

    The loss is taken at ``forward_params(params, opt_state)``, and its gradient there trains the
    dense weights as if the forward pass had no mask: a hidden weight goes on learning until it is
    among the largest. Weight decay reaches all weights.

    Args:
      sparsity: Fraction of zeros in the forward pass, over the sparse leaves, in [0, 1); a float
        or ``step -> float``.
      distribution: ``(params, sparsity, *, where) -> kept counts``; uniform in published code.
      scope: ``"layer"``, as in published code for ImageNet, or ``"global"``: leaves compete for the
        sum.
      structure: What is kept together; default: single weights.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if ``sparsity`` is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> tx, params = jaxsparse.sparsify(optax.sgd(1.0), dnw(0.5)), {"w": jnp.array([[3.0, 1.0]])}
      >>> state = tx.init(params)
      >>> jaxsparse.forward_params(params, state)["w"].tolist()
      [[3.0, 0.0]]
      >>> updates, state = tx.update({"w": jnp.array([[0.0, -4.0]])}, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> params["w"].tolist(), jaxsparse.forward_params(params, state)["w"].tolist()
      ([[3.0, 5.0]], [[0.0, 5.0]])

    Differences from the paper: the weights of given layers, not the graph between channels that it
    also learns; any optimizer; equal magnitudes are ordered by a hash of the index.

    References:
      Wortsman et al., `Discovering Neural Wirings <https://arxiv.org/abs/1906.00586>`_,
      NeurIPS 2019.
    """
    return drop_grow(
        sparsity=sparsity,
        distribution=distribution,
        update=always,
        drop=None,
        grow=scores.magnitude,
        scope=scope,
        structure=structure,
        where=where,
        start=lambda masks, params: MaskedForward(),
        dense_gradients=always,
        dense_weights=True,
    )
