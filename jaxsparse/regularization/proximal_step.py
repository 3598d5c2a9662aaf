"""``proximal``: an optimizer's step, then the proximal operator of a penalty."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxsparse._dtypes import wide
from jaxsparse.base import Masks, Params, ScalarOrSchedule, Where, evaluate
from jaxsparse.layers import default_where, sparse_layers
from jaxsparse.regularization.regularizers import Regularizer


class ProximalState(NamedTuple):
    """What ``proximal`` carries, beside the inner optimizer's state.

    Attributes:
      count: int32 scalar, steps so far: what schedules are asked with.
      inner_state: State of the inner optimizer.
    """

    count: Int[Array, ""]
    inner_state: optax.OptState


def proximal(
    inner: optax.GradientTransformation,
    *regularizers: Regularizer,
    learning_rate: ScalarOrSchedule | Array,
) -> optax.GradientTransformationExtraArgs:
    """Proximal gradient: ``w <- prox(w + u)`` with the inner optimizer's update u.

    After ``optax.apply_updates`` weights that the penalty outweighs are zero, exactly. They are
    not held there: a gradient that outweighs the penalty brings them back. Put it last in a chain,
    inside of ``optax.MultiSteps`` and of ``jaxsparse.sparsify``, whose zeros it leaves alone.

    What is minimized is ``loss + penalty`` if ``learning_rate`` is the distance that ``inner``
    goes for a unit of constant gradient:

    ============================================  ===========================================
    inner                                         learning_rate
    ============================================  ===========================================
    ``sgd(eta)``                                  eta
    ``sgd(eta, momentum=m)``, Nesterov or not     eta / (1 - m)
    ``adam(eta)``, whatever rescales gradients    none fits: eta is usual, the strength is then
                                                  in units of steps, not of the loss
    ============================================  ===========================================

    Keep weights in float32: what moves a bfloat16 weight by less than half of its last digit is
    lost, here as with any step.

    Args:
      inner: Any optax optimizer, with its own learning rate; without weight decay it is clear who
        shrinks what.
      *regularizers: Penalties, applied in this order. ``l1`` before ``group_lasso`` is the
        proximal operator of their sum, the other way round is not.
      learning_rate: Step size of the proximal operator, nonnegative: a number, or a schedule, the
        one ``inner`` has.

    Returns:
      ``optax.GradientTransformationExtraArgs`` with state ``ProximalState``. Extra arguments are
      passed on to ``inner``. Leaves that no regularizer takes move as ``inner`` says.

    Raises:
      ValueError: if ``learning_rate`` is negative, or there is no regularizer; in ``init``, if a
        regularizer does not fit the parameters; in ``update``, if ``params`` is missing.

    Example:
      >>> from jaxsparse.regularization import l1
      >>> tx = proximal(optax.sgd(0.5), l1(1.0), learning_rate=0.5)
      >>> params = {"kernel": jnp.array([[2.0, 0.25]])}
      >>> updates, state = tx.update({"kernel": jnp.ones((1, 2))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()  # 2 - 0.5 - 0.5, and 0
      [[1.0, 0.0]]

    Differences from the paper: ISTA has full gradients and a step size of at most 1/L; here both
    are what ``inner`` makes of them. For Adam, ProxGen (Yun et al., 2020) rescales the operator
    like the gradient; this one is the Euclidean one.

    References:
      Beck & Teboulle, `A Fast Iterative Shrinkage-Thresholding Algorithm
      <https://doi.org/10.1137/080716542>`_, SIAM J. Imaging Sciences 2009 (ISTA); Parikh &
      Boyd, `Proximal Algorithms <https://doi.org/10.1561/2400000003>`_, 2014, section 4.2; Yun et
      al., `A General Family of Stochastic Proximal Gradient Methods for Deep Learning
      <https://arxiv.org/abs/2007.07484>`_, 2020.
    """
    inner = optax.with_extra_args_support(inner)
    if not regularizers:
        raise ValueError("proximal has no regularizer; give at least one, such as l1(1e-4)")
    if isinstance(learning_rate, int | float) and not 0 <= learning_rate < float("inf"):
        raise ValueError(f"learning_rate is {learning_rate}; it must be a finite number, 0 or more")

    def shrunk(params: Params, step: Any) -> Params:
        step_size = evaluate(learning_rate, step)
        for regularizer in regularizers:
            params = regularizer.prox(params, step_size, step)
        return params

    def init(params: Params) -> ProximalState:
        jax.eval_shape(shrunk, params, 0)  # what does not fit is said here
        return ProximalState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, ProximalState]:
        if params is None:
            raise ValueError("proximal needs the parameters: call tx.update(grads, state, params)")
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        reached = jax.tree.map(_reached, params, updates)
        moved = jax.tree.map(_landing, params, updates, reached, shrunk(reached, state.count))
        count = jnp.asarray(optax.safe_increment(state.count))
        return moved, ProximalState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def masks_from_zeros(params: Params, *, where: Where = default_where) -> Masks:
    """Masks that keep what is not zero: from regularized weights to ``jaxsparse.fixed(masks)``.

    Only for weights whose zeros are meant. A weight that happens to be zero, such as one just
    grown by RigL or a layer initialized to zero, would be lost: use ``masks_of`` there. NaN is
    kept.

    Args:
      params: Pytree of arrays, after training with ``proximal``.
      where: ``(path, leaf) -> bool``: which leaves get a mask; those that were penalized.

    Returns:
      Like ``params``: bool arrays, True where not zero; ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``where`` takes no leaf, or one that cannot be sparse.

    Example:
      >>> masks_from_zeros({"bias": jnp.zeros(2), "kernel": jnp.array([[1.5, 0.0]])})
      {'bias': MaskedNode(), 'kernel': Array([[ True, False]], dtype=bool)}
    """
    layers, tree = sparse_layers(params, where)
    masks = [
        optax.MaskedNode() if layer is None else leaf != 0
        for layer, leaf in zip(layers, tree.flatten_up_to(params), strict=True)
    ]
    return jax.tree.unflatten(tree, masks)


def _reached(weight: Any, update: Any) -> Any:
    """Where the inner optimizer would go; what is no float is not regularized."""
    floating = jnp.issubdtype(jnp.result_type(weight), jnp.floating)
    return wide(jnp.asarray(weight)) + wide(jnp.asarray(update)) if floating else weight


def _landing(weight: Any, update: Any, reached: Any, target: Any) -> Any:
    """The update that ends at the target, and at zero exactly; the inner one if that is there."""
    if target is reached:
        return update
    # The inner update and what the operator adds: with strength 0 the former, to the last bit.
    moved = wide(update) + (target - reached)
    return jnp.where(target == 0, -wide(weight), moved).astype(
        jnp.promote_types(update.dtype, weight.dtype)
    )
