"""The loss between solutions, and how it curves where they are.

Losses are ``(params, batch) -> scalar`` and means over ``batches``, one in memory at a time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxsparse._dtypes import wide, wide_dtype
from jaxsparse.base import Masks, Params
from jaxsparse.masks import apply_masks
from jaxsparse.metrics._kept import only_kept
from jaxsparse.metrics._lanczos import lanczos
from jaxsparse.saliency import LossFn, mean_over

Path: TypeAlias = Callable[[Any], Params]
"""``t -> params`` for t in [0, 1], a scalar."""


def linear_path(first: Params, last: Params) -> Path:
    """The straight line between two solutions: ``(1 - t) first + t last``.

    Between sparse solutions it lies in the union of their masks (``metrics.union``): at the ends
    only each mask's own weights are there.

    Args:
      first: Pytree of float arrays.
      last: Like ``first``.

    Returns:
      ``t -> params``, dtypes as in ``first``.

    Example:
      >>> linear_path({"w": jnp.array([0.0])}, {"w": jnp.array([4.0])})(0.25)["w"].tolist()
      [1.0]

    References:
      Goodfellow, Vinyals, Saxe, `Qualitatively characterizing neural network optimization problems
      <https://arxiv.org/abs/1412.6544>`_, ICLR 2015; Evci et al., `The Difficulty of Training
      Sparse Neural Networks <https://arxiv.org/abs/1906.10732>`_, 2019.
    """
    return lambda t: _combined([1 - t, t], [first, last])


def bezier_path(first: Params, bend: Params, last: Params) -> Path:
    """The quadratic Bezier curve: ``(1 - t)^2 first + 2 t (1 - t) bend + t^2 last``.

    Args:
      first: Pytree of float arrays.
      bend: Like ``first``: from ``train_bend``. The curve does not pass through it.
      last: Like ``first``.

    Returns:
      ``t -> params``, dtypes as in ``first``.

    Example:
      >>> ends = {"w": jnp.array([0.0])}
      >>> bezier_path(ends, {"w": jnp.array([4.0])}, ends)(0.5)["w"].tolist()
      [2.0]

    References:
      Garipov et al., `Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs
      <https://arxiv.org/abs/1802.10026>`_, NeurIPS 2018, section 3.2.
    """
    return lambda t: _combined(
        [jnp.square(1 - t), 2 * t * (1 - t), jnp.square(t)], [first, bend, last]
    )


def _combined(factors: list[Any], trees: list[Params]) -> Params:
    """Their weighted sum, in float32 or wider, back in the dtypes of the first."""

    def one(*leaves: Array) -> Array:
        parts = [
            wide(x) * jnp.asarray(f, wide_dtype(x)) for f, x in zip(factors, leaves, strict=True)
        ]
        return sum(parts[1:], parts[0]).astype(leaves[0].dtype)

    return jax.tree.map(one, *trees)


def losses_along(
    loss_fn: Callable[[Params, Any], PyTree],
    path: Path,
    positions: Float[Array, " positions"],
    batches: Any,
    *,
    chunk: int = 1,
) -> PyTree:
    """The mean loss over batches, at each position of a path.

    Batch statistics of a network belong to its weights: along a path, evaluate with statistics of
    the batch, or estimate them anew at each position.

    Args:
      loss_fn: ``(params, batch) -> scalar``, or a pytree of what else shall be averaged (accuracy).
      path: ``t -> params``.
      positions: In [0, 1].
      batches: Pytree of arrays (batches, examples, ...).
      chunk: Positions at a time: one after the other, or so many networks in memory.

    Returns:
      Like the loss, with the positions in front; float32 or wider.

    Raises:
      ValueError: if ``chunk`` is out of range.

    Example:
      >>> loss_fn = lambda params, batch: jnp.mean((params["w"] - batch) ** 2)
      >>> path = linear_path({"w": jnp.array(0.0)}, {"w": jnp.array(2.0)})
      >>> losses_along(loss_fn, path, jnp.array([0.0, 0.5, 1.0]), jnp.array([[1.0]])).tolist()
      [1.0, 0.0, 1.0]
    """
    _check("chunk", chunk)
    at = lambda t: mean_over(loss_fn, path(t), batches)
    return jax.lax.map(at, positions, batch_size=None if chunk == 1 else chunk)


def loss_barrier(
    losses: Float[Array, " positions"], positions: Float[Array, " positions"]
) -> Float[Array, ""]:
    """How far the loss along a path rises above the straight line between those at its ends.

    Args:
      losses: Along a path, the first at t = 0, the last at t = 1.
      positions: The t of each.

    Returns:
      Scalar, at least 0; 0 where the ends are connected without a barrier.

    Example:
      >>> float(loss_barrier(jnp.array([1.0, 5.0, 3.0]), jnp.array([0.0, 0.5, 1.0])))
      3.0

    References:
      Entezari et al., `The Role of Permutation Invariance in Linear Mode Connectivity of Neural
      Networks <https://arxiv.org/abs/2110.06296>`_, ICLR 2022, equation 1. (Frankle et al., 2020,
      subtract the mean of both ends instead.)
    """
    return jnp.max(losses - ((1 - positions) * losses[0] + positions * losses[-1]))


class Bend(NamedTuple):
    """What ``train_bend`` found.

    Attributes:
      params: The bend, like the solutions: for ``bezier_path``.
      losses: Of each step, at the position and on the batch that it drew: (steps,).
    """

    params: Params
    losses: Float[Array, " steps"]


def train_bend(
    key: chex.PRNGKey,
    loss_fn: LossFn,
    first: Params,
    last: Params,
    batches: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    masks: Masks | None = None,
) -> Bend:
    """Bend a curve between two solutions so that the loss along it is low.

    Each step draws a position from the uniform distribution on [0, 1], takes the next batch, and
    moves the bend against its gradient there. It starts in the middle between the solutions.

    Without masks the curve may pass through the dense space. With masks the bend keeps to them:
    ``metrics.union`` of both solutions' masks is the smallest space of weights that holds them both
    (for two solutions of one topology, its own sparse space).

    Args:
      key: PRNG key.
      loss_fn: ``(params, batch) -> scalar``: the mean loss of a batch.
      first: Pytree of float arrays.
      last: Like ``first``.
      batches: Pytree of arrays (batches, examples, ...), taken in turn.
      optimizer: Any optax optimizer.
      steps: Of it, at least 1; compiled as one loop.
      masks: Like ``first``: bool arrays, ``optax.MaskedNode()`` where dense; None: the dense space.

    Returns:
      :class:`Bend`.

    Raises:
      ValueError: if ``steps`` is out of range.

    Example:
      >>> # A ring of low loss: the straight line between its sides crosses the hill in the middle.
      >>> loss_fn = lambda params, batch: (jnp.sum(params["w"] ** 2) - 1) ** 2
      >>> ends = {"w": jnp.array([1.0, 0.1])}, {"w": jnp.array([-1.0, 0.1])}
      >>> bend = train_bend(jax.random.key(0), loss_fn, *ends, jnp.zeros(1),
      ...                   optimizer=optax.adam(0.1), steps=100)
      >>> middle = lambda path: round(float(loss_fn(path(0.5), None)), 1)
      >>> middle(linear_path(*ends)), middle(bezier_path(ends[0], bend.params, ends[1]))
      (1.0, 0.0)

    Differences from the paper: none known. Evci et al., `The Difficulty of Training Sparse Neural
    Networks <https://arxiv.org/abs/1906.10732>`_, 2019, compare the sparse with the dense space.

    References:
      Garipov et al., `Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs
      <https://arxiv.org/abs/1802.10026>`_, NeurIPS 2018, section 3.
    """
    _check("steps", steps)
    inside = (lambda tree: tree) if masks is None else (lambda tree: apply_masks(tree, masks))
    number = jax.tree.leaves(batches)[0].shape[0]

    def step(carry: tuple[Params, Any], i: Array) -> tuple[tuple[Params, Any], Array]:
        bend, state = carry
        t = jax.random.uniform(jax.random.fold_in(key, i))
        batch = jax.tree.map(lambda x: x[i % number], batches)
        loss, grads = jax.value_and_grad(
            lambda bend: loss_fn(bezier_path(first, bend, last)(t), batch)
        )(bend)
        updates, state = optimizer.update(inside(grads), state, bend)
        return (inside(optax.apply_updates(bend, updates)), state), loss

    middle = inside(linear_path(first, last)(0.5))
    (bend, _), losses = jax.lax.scan(step, (middle, optimizer.init(middle)), jnp.arange(steps))
    return Bend(bend, losses)


class HessianEigenvalues(NamedTuple):
    """What ``top_hessian_eigenvalues`` found, the largest first.

    Attributes:
      values: (k,); NaN past the number of weights that count.
      residuals: (k,): some eigenvalue is at most this far from each value, up to rounding.
      vectors: Like the parameters, with k in front: of unit length, zeros off the mask.
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    vectors: Params


def top_hessian_eigenvalues(
    key: chex.PRNGKey,
    loss_fn: LossFn,
    params: Params,
    masks: Masks,
    batches: Any,
    *,
    k: int = 1,
    iterations: int = 32,
    dense: bool = True,
) -> HessianEigenvalues:
    """The largest eigenvalues of the Hessian of the loss over kept weights, by Lanczos.

    The Hessian at the masked weights, rows and columns of absent weights left out: what curves
    along the directions in which a sparse network can move. Products with it are derivatives of
    the gradient (``jvp`` of ``grad``), a batch at a time; each Lanczos vector is orthogonalised
    against all before it, so that memory is ``iterations`` times that of the parameters.

    Largest by sign, not by size: the most negative ones are those of the loss times -1.

    Args:
      key: PRNG key.
      loss_fn: ``(params, batch) -> scalar``: the mean loss of a batch.
      params: Pytree of float arrays; half precision is widened to float32.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense.
      batches: Pytree of arrays (batches, examples, ...).
      k: How many, at least 1.
      iterations: Products with the Hessian, at least ``k``. Ends of the spectrum are found first:
        the residuals say whether these were enough.
      dense: Do leaves without a mask count (biases, scales)?

    Returns:
      :class:`HessianEigenvalues`, float32 or wider.

    Raises:
      ValueError: if ``k`` or ``iterations`` is out of range, or leaves or shapes do not fit.

    Example:
      >>> loss_fn = lambda params, batch: jnp.sum(batch * params["w"] ** 2) / 2  # H = diag(batch)
      >>> params, masks = {"w": jnp.ones(3)}, {"w": jnp.array([True, False, True])}
      >>> batches = jnp.array([[2.0, 9.0, 5.0]])
      >>> top = top_hessian_eigenvalues(jax.random.key(0), loss_fn, params, masks, batches, k=2)
      >>> top.values.round(3).tolist()  # without the 9 of the absent weight
      [5.0, 2.0]

    References:
      Ghorbani, Krishnan, Xiao, `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, ICML 2019, algorithm 1; Parlett,
      `The Symmetric Eigenvalue Problem <https://doi.org/10.1137/1.9781611971163>`_, SIAM 1998,
      chapter 13.
    """
    _check("k", k)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if not k <= min(iterations, size):
        raise ValueError(
            f"k is {k} for {iterations} iterations and {size} weights; it must be at most either"
        )
    seen = jax.tree.map(wide, apply_masks(params, masks))
    inside = lambda tree: only_kept(tree, masks, dense)
    counted = jax.tree.leaves(inside(jax.tree.map(jnp.ones_like, seen)))
    dimension = jnp.stack([jnp.sum(leaf > 0, dtype=jnp.int32) for leaf in counted]).sum()

    def product(vector: Params) -> Params:
        of_batch = lambda p, batch: jax.jvp(lambda q: jax.grad(loss_fn)(q, batch), (p,), (vector,))[
            1
        ]
        return inside(mean_over(of_batch, seen, batches))

    draw = lambda key: inside(optax.tree.random_like(key, seen, jax.random.normal))
    found = lanczos(product, draw, key, dimension, min(iterations, size), k)
    return HessianEigenvalues(*found)


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
