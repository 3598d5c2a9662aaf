"""L0 regularization: random gates that learn to close."""

import math
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxsparse._sharding import explicit_sharding
from jaxsparse._tree import map_masks
from jaxsparse.base import MaskAlgorithm, Masks, Memory, Params, Where, always
from jaxsparse.layers import default_where
from jaxsparse.learned import learned, sparse_leaves, train_own, with_leaves
from jaxsparse.masks import map_kept

# The hard concrete distribution: temperature, and the interval that (0, 1) is stretched to.
_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1
_LEAST, _MOST = math.log(1e-2), math.log(1e2)
_PUBLISHED = optax.adam(1e-3)


class L0(NamedTuple):
    """What is trained besides the weights: log alpha of each sparse leaf's gates, in their order,
    float32 arrays against which the weights broadcast."""

    log_alpha: PyTree
    optimizer_state: optax.OptState

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """``w z``: in training z is drawn, afterwards it is the gate of the mean."""
        log_alphas = jax.tree.leaves(self.log_alpha)
        keys = [jax.random.fold_in(key, index) for index in range(len(log_alphas))]

        def weight(w: Array, mask: Array, log_alpha: Array, key: chex.PRNGKey) -> Array:
            if training:
                return _gated(w, log_alpha, key)
            return jnp.where(mask, w * _mean_gate(log_alpha), 0).astype(w.dtype)

        return map_kept(weight, params, masks, log_alphas, keys)


def l0(
    *,
    penalty: float = 1.0,
    examples: int = 50_000,
    gates: Literal["paper", "input", "output", "weight"] = "paper",
    drop_rate: float = 0.5,
    gate_optimizer: optax.GradientTransformation = _PUBLISHED,
    where: Where = default_where,
) -> MaskAlgorithm:
    """L0 regularization with hard concrete gates ("L0", Louizos et al., 2018).

    ==================  =============================  ===============================
    sparsity over time  kept                           trained
    ==================  =============================  ===============================
    learned             where the mean gate is open    w by ``g z``, log alpha by the
                                                       loss and ``penalty / examples``
                                                       of the expected L0 norm
    ==================  =============================  ===============================

    Every gate z multiplies a group of weights: drawn anew at each step in training (with the
    step's key), fixed with ``forward_params(..., training=False)``, where exact zeros are. There
    is no budget: ``penalty`` decides how sparse the network ends.

    Args:
      penalty: The paper's lambda, of one weight, 0 or more.
      examples: N: size of the training set, if the loss is a mean over examples.
      gates: What has a gate of its own: ``"paper"``: input units of matrices, output channels of
        larger kernels; ``"input"`` (last axis but one); ``"output"`` (last axis); ``"weight"``.
      drop_rate: Of the gates at the start, in (0, 1); 0.5, but 0.2 for inputs in published code.
      gate_optimizer: Trains log alpha; 1e-3 with Adam in published code.
      where: ``(path, leaf) -> bool``: which leaves may be sparse.

    Returns:
      A ``MaskAlgorithm``, learned. Its memory holds log alpha and their optimizer's state.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax.numpy as jnp, optax, jaxsparse
      >>> method = l0(penalty=1.0, examples=1, gate_optimizer=optax.sgd(1.0))
      >>> tx, params = jaxsparse.sparsify(optax.sgd(0.0), method), {"w": jnp.ones((2, 8))}
      >>> state = tx.init(params)
      >>> jaxsparse.forward_params(params, state, training=False)["w"][:, 0].tolist()
      [0.5, 0.5]
      >>> for step in range(3):
      ...     _, state = tx.update({"w": jnp.zeros((2, 8))}, state, params)
      >>> jaxsparse.forward_params(params, state, training=False)["w"][:, 0].tolist()
      [0.0, 0.0]

    Differences from the paper: one draw of gates a step for all examples, as in published code by
    default; log alpha starts without noise; weight decay is the optimizer's, not weighted by the
    gates; no average over steps is kept; biases have no gate and no penalty. log alpha is kept in
    [log 0.01, log 100], as in published code.

    References:
      Louizos et al., `Learning Sparse Neural Networks through L0 Regularization
      <https://arxiv.org/abs/1712.01312>`_, ICLR 2018.
    """
    if not 0 < drop_rate < 1:
        raise ValueError(f"drop_rate is {drop_rate}; it must lie between 0 and 1, such as 0.5")
    if not (penalty >= 0 and examples >= 1):
        raise ValueError(
            f"penalty is {penalty} and examples is {examples}; give 0 or more, and 1 or more"
        )
    if gates not in ("paper", "input", "output", "weight"):
        raise ValueError(f"gates is {gates!r}; give 'paper', 'input', 'output' or 'weight'")
    initial = math.log(1 - drop_rate) - math.log(drop_rate)

    def start(masks: Masks, params: Params) -> Memory:
        del params
        if gates == "weight" or not jax.tree.leaves(masks):
            log_alpha = map_masks(lambda mask: jnp.full_like(mask, initial, jnp.float32), masks)
        else:
            # (Not a tree like the masks, whose boxes would be of another shape.)
            shapes = [_shape(mask.shape, gates) for mask in jax.tree.leaves(masks)]
            log_alpha = tuple(jnp.full(shape, initial, jnp.float32) for shape in shapes)
        return L0(log_alpha, gate_optimizer.init(log_alpha))

    def rule(params: Params, masks: Masks, memory: Memory) -> Masks:
        del params
        gated = with_leaves(masks, jax.tree.leaves(memory.log_alpha), masks)
        is_open = lambda mask, a: jnp.ones_like(mask) & (_mean_gate(a) > 0)
        return map_masks(is_open, masks, gated)

    def backward(
        key: chex.PRNGKey, masks: Masks, params: Params, grads: Params, step: Any, memory: Memory
    ) -> tuple[Params, Memory]:
        del step
        log_alphas, tree = jax.tree.flatten(memory.log_alpha)
        given, slopes = [], []
        rows = zip(sparse_leaves(masks, params, grads), log_alphas, strict=True)
        for index, ((_, weight, grad), log_alpha) in enumerate(rows):
            gated = lambda w, a, index=index: _gated(w, a, jax.random.fold_in(key, index))
            forward, pull = jax.vjp(gated, weight, log_alpha)
            to_weight, to_gate = pull(grad.astype(forward.dtype))
            # Of sigmoid(log alpha - beta log(-gamma / zeta)), the chance that a gate is open.
            chance = jax.nn.sigmoid(log_alpha - _BETA * math.log(-_GAMMA / _ZETA))
            each = penalty / examples * (weight.size // log_alpha.size)
            given.append(to_weight.astype(grad.dtype))
            slopes.append(to_gate + each * chance * (1 - chance))
        new, state = train_own(
            gate_optimizer,
            jax.tree.unflatten(tree, slopes),
            memory.optimizer_state,
            memory.log_alpha,
        )
        new = jax.tree.map(lambda a: jnp.clip(a, _LEAST, _MOST), new)
        return with_leaves(masks, given, grads), L0(new, state)

    return learned(rule, start=start, backward=backward, where=where, dense_gradients=always)


def _shape(shape: tuple[int, ...], gates: str) -> tuple[int, ...]:
    """Of the gates of a leaf: as many dimensions, all but one of size 1."""
    output = gates == "output" or (gates == "paper" and len(shape) > 2)
    axis = len(shape) - (1 if output else 2)
    return tuple(n if i == axis else 1 for i, n in enumerate(shape))


def _stretched(x: Array) -> Array:
    """From (0, 1) to (gamma, zeta), and what lies outside [0, 1] to its ends."""
    return jnp.clip(x * (_ZETA - _GAMMA) + _GAMMA, 0, 1)


def _mean_gate(log_alpha: Array) -> Array:
    return _stretched(jax.nn.sigmoid(log_alpha))


def _gated(weight: Array, log_alpha: Array, key: chex.PRNGKey) -> Array:
    """``w z``, with z drawn from the hard concrete distribution."""
    place = explicit_sharding(log_alpha)
    bits = {"minval": 1e-6, "maxval": 1 - 1e-6, "out_sharding": place}
    u = jax.random.uniform(key, log_alpha.shape, jnp.float32, **bits)
    gate = _stretched(jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + log_alpha) / _BETA))
    return (weight * gate).astype(weight.dtype)
