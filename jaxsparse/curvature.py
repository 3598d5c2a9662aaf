"""The diagonal of the curvature of a loss: exact, estimated, and the part that is never negative.

Functions of the parameters: ``functools.partial(exact_hessian_diagonal, loss_fn)`` is what
``jaxsparse.obd`` takes as its ``curvature``.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsparse._dtypes import wide, wide_dtype
from jaxsparse.base import Params


def exact_hessian_diagonal(
    loss_fn: Callable[[Params], Array], params: Params, *, chunk: int = 32
) -> Params:
    """The second derivative of the loss by each parameter, exactly.

    One Hessian-vector product a parameter: for networks of up to some ten thousand parameters.

    Args:
      loss_fn: ``params -> scalar``, over all the data that is to count.
      params: Pytree of float arrays.
      chunk: Products at a time, at least 1: memory grows with it.

    Returns:
      Like ``params``.

    Raises:
      ValueError: if ``chunk`` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss_fn = lambda params: jnp.sum(params["w"] ** 3) + params["w"][0] * params["w"][1]
      >>> exact_hessian_diagonal(loss_fn, {"w": jnp.array([1.0, -2.0])})["w"].tolist()
      [6.0, -12.0]
    """
    _check("chunk", chunk)
    _, product = jax.linearize(jax.grad(loss_fn), params)
    leaves, tree = jax.tree.flatten(params)
    zeros = [jnp.zeros_like(leaf) for leaf in leaves]

    def diagonal(place: int) -> Array:
        leaf = leaves[place]

        def entry(i: Array) -> Array:
            chosen = jnp.arange(leaf.size) == i
            tangent = jnp.where(chosen, 1, 0).astype(leaf.dtype).reshape(leaf.shape)
            column = product(
                jax.tree.unflatten(tree, [*zeros[:place], tangent, *zeros[place + 1 :]])
            )
            return jnp.vdot(tangent, jax.tree.leaves(column)[place])

        return jax.lax.map(entry, jnp.arange(leaf.size), batch_size=chunk).reshape(leaf.shape)

    return jax.tree.unflatten(tree, [diagonal(place) for place in range(len(leaves))])


def hutchinson(
    loss_fn: Callable[[Params], Array], params: Params, *, key: chex.PRNGKey, samples: int = 32
) -> Params:
    """An unbiased estimate of the Hessian's diagonal: the mean of z * Hz over random signs z.

    Its variance, for each parameter, is the sum of the squares of the other entries in this row of
    the Hessian, divided by ``samples``. The result may be negative where the diagonal is not.

    Args:
      loss_fn: ``params -> scalar``.
      params: Pytree of float arrays.
      key: PRNG key.
      samples: Hessian-vector products, at least 1.

    Returns:
      Like ``params``, float32 or wider.

    Raises:
      ValueError: if ``samples`` is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss_fn = lambda params: jnp.sum(params["w"] ** 3)  # its Hessian is diagonal
      >>> hutchinson(loss_fn, {"w": jnp.array([1.0, -2.0])}, key=jax.random.key(0), samples=1)
      {'w': Array([  6., -12.], dtype=float32)}

    References:
      Bekas et al., `An estimator for the diagonal of a matrix
      <https://doi.org/10.1016/j.apnum.2007.01.003>`_, Applied Numerical Mathematics 57, 2007.
    """
    _check("samples", samples)
    _, product = jax.linearize(jax.grad(loss_fn), params)
    leaves, tree = jax.tree.flatten(params)

    def add(total: list[Array], sample: Array) -> tuple[list[Array], None]:
        keys = [jax.random.fold_in(jax.random.fold_in(key, sample), i) for i in range(len(leaves))]
        signs = [
            jax.random.rademacher(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        products = jax.tree.leaves(product(jax.tree.unflatten(tree, signs)))
        return [t + z * hz for t, z, hz in zip(total, signs, products, strict=True)], None

    total, _ = jax.lax.scan(add, [_zeros(leaf) for leaf in leaves], jnp.arange(samples))
    return jax.tree.unflatten(tree, [t / samples for t in total])


def gauss_newton_diagonal(
    model_fn: Callable[[Params, Any], Array], params: Params, inputs: Any
) -> Params:
    """The diagonal of the Gauss-Newton matrix of the mean cross-entropy, exactly.

    The mean over examples of J' (diag(p) - p p') J, with J the derivative of the logits and p their
    softmax. It is never negative, needs no labels, is the Fisher information of the model, and
    differs from the Hessian by what the network itself curves. One backward pass an example and
    class.

    Args:
      model_fn: ``(params, inputs) -> logits``, (examples, classes); each example by itself, as
        without batch statistics.
      params: Pytree of float arrays.
      inputs: Array, or pytree of arrays, with the examples in front.

    Returns:
      Like ``params``, float32 or wider.

    Raises:
      ValueError: if the logits are not one row an example.

    Example:
      >>> import jax.numpy as jnp
      >>> model_fn = lambda params, inputs: inputs @ params["w"]
      >>> params, inputs = {"w": jnp.zeros((1, 2))}, jnp.array([[2.0], [4.0]])
      >>> gauss_newton_diagonal(model_fn, params, inputs)["w"].round(4)  # mean of x^2 p (1 - p)
      Array([[2.5, 2.5]], dtype=float32)

    References:
      Schraudolph, `Fast curvature matrix-vector products for second-order gradient descent
      <https://doi.org/10.1162/08997660260028683>`_, Neural Computation 14, 2002.
    """
    examples = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf)}
    shape = jax.eval_shape(model_fn, params, inputs).shape
    if len(examples) != 1 or len(shape) != 2 or shape[0] not in examples:
        raise ValueError(
            f"logits of shape {shape} for {sorted(examples)} examples; model_fn gives one row of "
            "classes for each example"
        )

    def add(total: Params, example: Any) -> tuple[Params, None]:
        one = jax.tree.map(lambda x: x[None], example)
        logits, pull = jax.vjp(lambda params: model_fn(params, one)[0], params)
        p = jax.nn.softmax(logits)
        # diag(p) - p p' is the sum over classes c of r r' with r = sqrt(p_c) (e_c - p).
        roots = jnp.sqrt(p)[:, None] * (jnp.eye(p.size, dtype=p.dtype) - p[None, :])
        (rows,) = jax.vmap(pull)(roots)
        square = lambda row: jnp.sum(jnp.square(wide(row)), 0)
        return jax.tree.map(lambda t, row: t + square(row), total, rows), None

    total, _ = jax.lax.scan(add, jax.tree.map(_zeros, params), inputs)
    return jax.tree.map(lambda t: t / shape[0], total)


def _zeros(leaf: Any) -> Array:
    return jnp.zeros_like(leaf, wide_dtype(leaf))


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
