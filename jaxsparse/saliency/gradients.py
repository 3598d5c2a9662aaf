"""Saliencies of the loss: SNIP's connection sensitivity, and GraSP's gradient flow."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxsparse import scores
from jaxsparse._dtypes import wide
from jaxsparse._tree import is_dense, map_masks
from jaxsparse.base import Masks, Params
from jaxsparse.masks import apply_masks
from jaxsparse.saliency.rounds import Saliency, mean_over

LossFn: TypeAlias = Callable[[Params, Any], Array]
"""``(params, batch) -> scalar``: the mean loss of a batch."""


def cross_entropy(model_fn: Callable[[Params, Any], Array], temperature: float = 1.0) -> LossFn:
    """The mean cross-entropy of a classifier, as a loss of ``(inputs, labels)``.

    Args:
      model_fn: ``(params, inputs) -> logits``, (examples, classes).
      temperature: Logits are divided by it, positive; GraSP's code takes 200.

    Returns:
      ``(params, (inputs, labels)) -> scalar``; labels are integers, (examples,).

    Raises:
      ValueError: if ``temperature`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss_fn = cross_entropy(lambda params, inputs: inputs @ params["w"])
      >>> inputs, labels = jnp.ones((1, 1)), jnp.array([0])
      >>> round(float(loss_fn({"w": jnp.zeros((1, 2))}, (inputs, labels))), 4)  # ln 2
      0.6931
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")

    def loss_fn(params: Params, batch: tuple[Any, Array]) -> Array:
        inputs, labels = batch
        logits = model_fn(params, inputs) / temperature
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    return loss_fn


def connection_sensitivity(loss_fn: LossFn, batches: Any) -> Saliency:
    """SNIP: ``|w g|``, by how much the loss changes with the mask of a weight.

    The gradient is that at the masked weights, dense: ``|w g|`` of an absent weight says what it
    would bring (FORCE). The mean gradient over all batches counts.

    Args:
      loss_fn: ``(params, batch) -> scalar``.
      batches: Pytree of arrays (batches, examples, ...): one batch is in work at a time.

    Returns:
      A saliency.

    Example:
      >>> import jax.numpy as jnp
      >>> loss_fn = lambda params, batch: jnp.sum(params["w"] * batch)
      >>> saliency = connection_sensitivity(loss_fn, jnp.array([[1.0, -2.0]]))
      >>> masks = {"w": jnp.array([True, False])}
      >>> saliency({"w": jnp.array([3.0, 4.0])}, masks)["w"].tolist()
      [3.0, 8.0]

    References:
      Lee et al., `SNIP <https://arxiv.org/abs/1810.02340>`_, ICLR 2019, equations 4 and 5 (without
      the normalization, which changes no order).
    """

    def saliency(params: Params, masks: Masks) -> PyTree:
        grads = mean_over(jax.grad(loss_fn), apply_masks(params, masks), batches)
        return map_masks(
            lambda mask, w, g: scores.saliency(None, w, g, mask, None), masks, params, grads
        )

    return saliency


def gradient_flow(loss_fn: LossFn, batches: Any, *, absolute: bool = False) -> Saliency:
    """GraSP: ``w (H g)``, by how much the norm of the gradient falls without the weight.

    What is left after pruning shall train fast: weights whose absence raises the norm of the
    gradient go first. H g is one derivative of the gradient along itself (``jvp`` of ``grad``), a
    batch at a time; g is the mean over all batches, of the sparse leaves.

    Args:
      loss_fn: ``(params, batch) -> scalar``; ``cross_entropy(model_fn, 200)`` in published code.
      batches: Pytree of arrays (batches, examples, ...).
      absolute: Keep what changes the gradient's norm most, either way (Frankle et al., 2021).

    Returns:
      A saliency.

    Example:
      >>> import jax.numpy as jnp
      >>> loss_fn = lambda params, batch: jnp.sum(batch * params["w"] ** 2) / 2  # H = batch
      >>> saliency = gradient_flow(loss_fn, jnp.array([[1.0, 2.0]]))
      >>> saliency({"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([True, True])})["w"].tolist()
      [9.0, 4.0]

    Differences from the paper: the paper's score is ``-w H g`` and weights of the largest go; kept
    are the same. Published code takes H and g of two halves of the data on re-initialized dense
    layers, with batch statistics in training mode; here all of it is what ``loss_fn`` does.

    References:
      Wang et al., `Picking Winning Tickets Before Training by Preserving Gradient Flow
      <https://arxiv.org/abs/2002.07376>`_, ICLR 2020, equation 8.
    """

    def saliency(params: Params, masks: Masks) -> PyTree:
        seen = apply_masks(params, masks)
        grads = mean_over(jax.grad(loss_fn), seen, batches)
        marks = jax.tree.leaves(masks, is_leaf=is_dense)
        leaves, tree = jax.tree.flatten(seen)
        of_sparse = [
            jnp.zeros_like(w) if is_dense(mark) else g.astype(w.dtype)
            for mark, w, g in zip(marks, leaves, jax.tree.leaves(grads), strict=True)
        ]
        along = jax.tree.unflatten(tree, of_sparse)
        product = lambda params, batch: jax.jvp(
            lambda p: jax.grad(loss_fn)(p, batch), (params,), (along,)
        )[1]
        products = mean_over(product, seen, batches)
        scored = map_masks(lambda mask, w, hg: wide(w) * hg, masks, params, products)
        return map_masks(lambda mask, x: jnp.abs(x), masks, scored) if absolute else scored

    return saliency
