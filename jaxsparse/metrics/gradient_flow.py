"""Gradients of a sparse network: how large over what is kept, and how noisy.

What is trained counts: the kept weights, and the whole of a leaf without a mask (biases, scales,
layers left dense). ``dense=False`` counts only leaves that have a mask.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsparse._dtypes import wide, wide_dtype
from jaxsparse._tree import is_dense
from jaxsparse.base import Masks, Params
from jaxsparse.masks import apply_masks
from jaxsparse.metrics._kept import only_kept
from jaxsparse.saliency import LossFn


def gradient_norm(grads: PyTree, *, order: float = 2.0) -> Float[Array, ""]:
    """The norm of the dense gradient, absent weights included.

    Args:
      grads: Pytree of float arrays.
      order: p of the p-norm, at least 1.

    Returns:
      Scalar, float32 or wider. Gradients too small to be squared in it still count.

    Raises:
      ValueError: if ``order`` is below 1.

    Example:
      >>> float(gradient_norm({"bias": jnp.array([4.0]), "w": jnp.array([3.0, 0.0])}))
      5.0

    References:
      Evci et al., `Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win
      <https://arxiv.org/abs/2010.03533>`_, AAAI 2022.
    """
    return _norm(jax.tree.leaves(grads), order)


def effective_gradient_norm(
    grads: PyTree, masks: Masks, *, order: float = 2.0, dense: bool = True
) -> Float[Array, ""]:
    """The norm of the gradient over kept weights, all layers as one vector.

    Args:
      grads: Pytree of float arrays: the dense gradient.
      masks: Like ``grads``: bool arrays, ``optax.MaskedNode()`` where dense.
      order: p of the p-norm, at least 1.
      dense: Do leaves without a mask count?

    Returns:
      Scalar, float32 or wider; at most ``gradient_norm(grads)``.

    Raises:
      ValueError: if ``order`` is below 1, or leaves or shapes do not fit.

    Example:
      >>> grads = {"bias": jnp.array([4.0]), "w": jnp.array([3.0, 100.0])}
      >>> masks = {"bias": optax.MaskedNode(), "w": jnp.array([True, False])}
      >>> float(effective_gradient_norm(grads, masks))
      5.0
      >>> float(effective_gradient_norm(grads, masks, dense=False))
      3.0
    """
    return _norm(jax.tree.leaves(only_kept(grads, masks, dense)), order)


def effective_gradient_flow(
    grads: PyTree, masks: Masks, *, order: float = 2.0, dense: bool = False
) -> Float[Array, ""]:
    r"""The mean over layers of the norm of the gradient over kept weights.

    .. math:: \mathrm{EGF}_p = \frac{1}{L} \sum_{l=1}^{L} \lVert g_l \odot m_l \rVert_p

    A norm over the whole network is that of its largest layers; here each layer counts the same.

    Args:
      grads: Pytree of float arrays: the dense gradient.
      masks: Like ``grads``: bool arrays, ``optax.MaskedNode()`` where dense.
      order: p of the p-norm, at least 1; the paper takes 1 and 2.
      dense: Is a leaf without a mask a layer of its own? (Biases and scales would be, too.)

    Returns:
      Scalar, float32 or wider.

    Raises:
      ValueError: if ``order`` is below 1, no leaf counts, or leaves or shapes do not fit.

    Example:
      >>> grads = {"a": jnp.array([3.0, 4.0, 9.0]), "b": jnp.array([1.0, 9.0])}
      >>> masks = {"a": jnp.array([True, True, False]), "b": jnp.array([True, False])}
      >>> float(effective_gradient_flow(grads, masks))  # (5 + 1) / 2
      3.0

    Differences from the paper: none known; that biases and normalization are no layers is a choice.

    References:
      Tessera, Hooker, Rosman, `Keep the Gradients Flowing: Using Gradient Flow to Study Sparse
      Network Optimization <https://arxiv.org/abs/2102.01670>`_, 2021, the definition of EGF.
    """
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    leaves = jax.tree.leaves(apply_masks(grads, masks), is_leaf=is_dense)
    layers = [
        leaf
        for leaf, mark in zip(leaves, marks, strict=True)
        if not is_dense(leaf) and (dense or not is_dense(mark))
    ]
    if not layers:
        raise ValueError(f"none of the {len(marks)} leaves has a mask, so there is no layer")
    return jnp.mean(jnp.stack([_norm([layer], order) for layer in layers]))


def first_order_decrease(grads: PyTree, masks: Masks, *, dense: bool = True) -> Float[Array, ""]:
    """What Evci et al. call gradient flow: by how much a step lowers the loss, to first order.

    A step of size e along the gradient of the kept weights lowers the loss by e times the square
    of its norm, and terms of order e squared.

    Args:
      grads: Pytree of float arrays: the dense gradient.
      masks: Like ``grads``: bool arrays, ``optax.MaskedNode()`` where dense.
      dense: Do leaves without a mask count?

    Returns:
      Scalar, float32 or wider: the decrease for a learning rate of 1.

    Raises:
      ValueError: if leaves or shapes do not fit.

    Example:
      >>> grads, masks = {"w": jnp.array([3.0, 9.0])}, {"w": jnp.array([True, False])}
      >>> float(first_order_decrease(grads, masks))
      9.0

    References:
      Evci et al., `Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win
      <https://arxiv.org/abs/2010.03533>`_, AAAI 2022, section 3.
    """
    return jnp.square(effective_gradient_norm(grads, masks, dense=dense))


class GradientMoments(NamedTuple):
    """Mean and spread of the gradients seen so far, in the memory of two.

    Attributes:
      count: Gradients.
      mean: Their mean, like the parameters.
      squares: Sums of squared deviations from it.
    """

    count: Int[Array, ""]
    mean: Params
    squares: Params


def empty_moments(params: Params) -> GradientMoments:
    """No gradient seen yet.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves: what gradients look like.

    Returns:
      :class:`GradientMoments`, float32 or wider.

    Example:
      >>> int(empty_moments({"w": jnp.zeros(2)}).count)
      0
    """
    zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide_dtype(leaf)), params)
    return GradientMoments(jnp.zeros((), jnp.int32), zeros(), zeros())


def add_gradients(moments: GradientMoments, grads: PyTree) -> GradientMoments:
    """One gradient more.

    Args:
      moments: What was seen so far.
      grads: Like the parameters: the gradient of one batch, or of one example.

    Returns:
      :class:`GradientMoments`.

    Example:
      >>> moments = empty_moments({"w": jnp.zeros(1)})
      >>> for value in (1.0, 3.0):
      ...     moments = add_gradients(moments, {"w": jnp.array([value])})
      >>> moments.mean["w"].tolist(), moments.squares["w"].tolist()
      ([2.0], [2.0])

    References:
      Welford, `Note on a method for calculating corrected sums of squares and products
      <https://doi.org/10.1080/00401706.1962.10490022>`_, Technometrics 4, 1962.
    """
    one = GradientMoments(
        jnp.ones((), jnp.int32), jax.tree.map(wide, grads), empty_moments(grads).squares
    )
    return merge_moments(moments, one)


def merge_moments(first: GradientMoments, second: GradientMoments) -> GradientMoments:
    """The moments of two sets of gradients together: those of two machines, or of two epochs.

    Args:
      first: Moments of one set.
      second: Moments of another one.

    Returns:
      :class:`GradientMoments`.

    Example:
      >>> seen = lambda x: add_gradients(empty_moments(jnp.zeros(())), jnp.array(x))
      >>> float(merge_moments(seen(1.0), seen(3.0)).mean)
      2.0

    References:
      Chan, Golub, LeVeque, `Algorithms for computing the sample variance
      <https://doi.org/10.1080/00031305.1983.10483115>`_, The American Statistician 37, 1983.
    """
    count = first.count + second.count
    share = second.count / jnp.maximum(count, 1)
    apart = jax.tree.map(jnp.subtract, second.mean, first.mean)
    mean = jax.tree.map(lambda m, d: m + d * share.astype(d.dtype), first.mean, apart)
    between = (first.count * share).astype(jnp.float32)
    squares = jax.tree.map(
        lambda a, b, d: a + b + jnp.square(d) * between.astype(d.dtype),
        first.squares,
        second.squares,
        apart,
    )
    return GradientMoments(count, mean, squares)


def total_variance(
    moments: GradientMoments, masks: Masks, *, dense: bool = True
) -> Float[Array, ""]:
    """The variance of the gradient over kept weights: the trace of its covariance.

    Args:
      moments: Of two gradients at least.
      masks: Like the parameters: bool arrays, ``optax.MaskedNode()`` where dense.
      dense: Do leaves without a mask count?

    Returns:
      Scalar, unbiased (sums are divided by ``count - 1``); NaN for fewer than two gradients.

    Raises:
      ValueError: if leaves or shapes do not fit.

    Example:
      >>> moments = empty_moments({"w": jnp.zeros(2)})
      >>> for gradient in ([1.0, 5.0], [3.0, 9.0]):
      ...     moments = add_gradients(moments, {"w": jnp.array(gradient)})
      >>> float(total_variance(moments, {"w": jnp.array([True, False])}))
      2.0
    """
    squares = jax.tree.leaves(only_kept(moments.squares, masks, dense))
    total = sum((jnp.sum(leaf) for leaf in squares), jnp.float32(0))
    return jnp.where(moments.count > 1, total / jnp.maximum(moments.count - 1, 1), jnp.nan)


def gradient_variance(
    loss_fn: LossFn, params: Params, masks: Masks, batches: Any, *, dense: bool = True
) -> Float[Array, ""]:
    """The variance of the gradient from batch to batch, over kept weights.

    The gradients are those at the masked weights, one batch in memory at a time. With batches of
    one example this is the variance over examples; with n of them, an n-th of it.

    Args:
      loss_fn: ``(params, batch) -> scalar``: the mean loss of a batch.
      params: Pytree of float arrays.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.
      batches: Pytree of arrays (batches, examples, ...), two batches at least.
      dense: Do leaves without a mask count?

    Returns:
      Scalar: the trace of the covariance, unbiased, float32 or wider.

    Raises:
      ValueError: for fewer than two batches, or if leaves or shapes do not fit.

    Example:
      >>> loss_fn = lambda params, batch: jnp.mean(batch @ params["w"])  # its gradient is the batch
      >>> params, masks = {"w": jnp.zeros(2)}, {"w": jnp.array([True, False])}
      >>> batches = jnp.array([[[1.0, 5.0]], [[3.0, 9.0]]])
      >>> float(gradient_variance(loss_fn, params, masks, batches))
      2.0
    """
    numbers = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(batches)}
    if not numbers or min(numbers) < 2:
        raise ValueError(
            f"batches has arrays of {sorted(numbers)} batches; a variance takes two or more, in "
            "arrays (batches, examples, ...)"
        )
    seen = apply_masks(params, masks)

    def add(moments: GradientMoments, batch: Any) -> tuple[GradientMoments, None]:
        return add_gradients(moments, jax.grad(loss_fn)(seen, batch)), None

    moments, _ = jax.lax.scan(add, empty_moments(params), batches)
    return total_variance(moments, masks, dense=dense)


def _norm(leaves: list[Array], order: float) -> Array:
    """Of all leaves as one vector, scaled by its largest entry: vanishing gradients have one."""
    if not order >= 1:
        raise ValueError(f"order is {order}; a norm has an order of at least 1")
    sizes = [jnp.abs(wide(leaf)) for leaf in leaves if leaf.size]
    if not sizes:
        return jnp.zeros(())
    largest = jnp.max(jnp.stack([jnp.max(size) for size in sizes]))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = sum(jnp.sum((size / scale.astype(size.dtype)) ** order) for size in sizes)
    return scale * jnp.asarray(total) ** (1 / order)
