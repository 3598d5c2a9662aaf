"""SynFlow: how much flows through each weight of the network of absolute weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsparse._dtypes import wide_dtype
from jaxsparse._tree import map_masks
from jaxsparse.base import Masks, Params
from jaxsparse.masks import apply_masks
from jaxsparse.saliency.rounds import Saliency

# Powers of two by which a unit input is scaled, to see how much a network amplifies it.
_TRIALS = (-120, -60, 0, 60, 120)


def synaptic_flow(model_fn: Callable[[Params, Any], Array], inputs: Any) -> Saliency:
    """``w dR/dw`` of ``R = 1' |W_L| ... |W_1| 1``: no data, no labels, and no layer runs dry.

    R is the sum of the outputs for an input of ones, with absolute weights and without additive
    terms: the derivative of the outputs along the inputs, so that biases and running means are
    left out, while scales of batch normalization count. What flows into a unit flows out of it
    (theorem 1), so every layer has the same sum of scores.

    A deep network may amplify ones by more than float32 holds. Input and output are therefore
    scaled, by powers of two, to have what lies between them in the middle of the range: gains from
    2^-220 to 2^220 are exact up to rounding, and scores come out as fractions of R. (The authors'
    code overflows, or runs in float64.)

    Args:
      model_fn: ``(params, inputs) -> outputs``, in evaluation mode, with batch statistics as at
        initialization; activations that are linear where all is positive, such as ReLU.
      inputs: Array, or abstract array, that gives shape and dtype: of a single example.

    Returns:
      A saliency. Scores are nonnegative; each layer's sum to 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([[-3.0], [4.0]])}
      >>> model_fn = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
      >>> masks = jax.tree.map(lambda w: jnp.ones_like(w, bool), params)
      >>> scored = synaptic_flow(model_fn, jnp.ones((1, 1)))(params, masks)
      >>> print((11 * scored["a"]).round(4), (11 * scored["b"].ravel()).round(4))  # R = 3 + 8
      [[3. 8.]] [3. 8.]

    Differences from the paper: biases are left out, as in its equation; its code takes their
    absolute values. One round is its one-shot variant, which does collapse layers: use 100.

    References:
      Tanaka et al., `Pruning neural networks without any data by iteratively conserving synaptic
      flow <https://arxiv.org/abs/2006.05467>`_, NeurIPS 2020, equation 3. (A patent document,
      US 12406185, covers it: ask somebody who knows before you build a product on it.)
    """
    ones = jnp.ones(inputs.shape, inputs.dtype)

    def saliency(params: Params, masks: Masks) -> PyTree:
        sizes = jax.tree.map(jnp.abs, apply_masks(params, masks))

        def outputs(params: Params, exponent: Any) -> Float[Array, ""]:
            given = ones * _power(exponent).astype(ones.dtype)
            _, flow = jax.jvp(lambda x: model_fn(params, x), (given,), (given,))
            return jnp.sum(flow, dtype=wide_dtype(flow))

        trials = jnp.asarray(_TRIALS, jnp.int32)
        # (One after another: a batch of five would need five times the memory.)
        sums = jax.lax.map(lambda exponent: outputs(sizes, exponent), trials)
        usable = jnp.isfinite(sums) & (sums > jnp.finfo(sums.dtype).tiny)
        # The one in the middle of the range, where there is a choice.
        distance = jnp.where(usable, jnp.abs(jnp.log2(jnp.where(usable, sums, 1.0))), jnp.inf)
        best = jnp.argmin(distance)
        gain = jnp.where(usable[best], jnp.log2(sums[best]) - trials[best], 0.0)
        half = jnp.round(-gain / 2).astype(jnp.int32)
        total, slopes = jax.value_and_grad(lambda params: outputs(params, half) * _power(half))(
            sizes
        )
        least = jnp.finfo(total.dtype).tiny

        def share(mask: Any, size: Array, slope: Array) -> Array:
            return size.astype(total.dtype) * slope.astype(total.dtype) / jnp.maximum(total, least)

        return map_masks(share, masks, sizes, slopes)

    return saliency


def _power(exponent: Any) -> Array:
    """Of two, exactly."""
    return jnp.ldexp(jnp.float32(1), exponent)
