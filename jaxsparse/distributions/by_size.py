"""Sparsities of layers that follow from their shapes alone."""

import math

from jaxtyping import PyTree

from jaxsparse.base import Params, Where
from jaxsparse.distributions._share import proportional, share
from jaxsparse.layers import default_where


def uniform(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """The same sparsity in every layer.

    To keep the first layer dense, as RigL's uniform does, leave it out with ``where``.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: ``floor(sparsity * size)`` zeros in each layer,
        as google-research/rigl has it.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.zeros((10, 7)), "b": jnp.zeros((7, 3)), "bias": jnp.zeros(3)}
      >>> uniform(params, 0.9)
      {'a': 7, 'b': 3, 'bias': MaskedNode()}
    """
    density = 1 - sparsity
    return share(params, sparsity, where, exact, lambda layers: [density] * len(layers), "uniform")


def er(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """Erdos-Renyi: density in proportion to (n_in + n_out) / (n_in n_out); Mocanu et al., 2018.

    Kernels of convolutions count by their last two dimensions only. Layers whose density would
    pass 1 are kept whole and the rest is shared out again (Evci et al., 2020).

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> er({"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}, 0.9)
      {'a': 393, 'b': 157}
    """
    raw = lambda layer: sum(layer.shape[-2:]) / math.prod(layer.shape[-2:])
    return share(params, sparsity, where, exact, proportional(raw, sparsity), "er")


def erk(
    params: Params,
    sparsity: float,
    *,
    where: Where = default_where,
    power: float = 1.0,
    exact: bool = True,
) -> PyTree:
    """Erdos-Renyi kernel: density in proportion to sum(shape) / prod(shape); Evci et al., 2020.

    Layers whose density would pass 1 are kept whole and the rest is shared out again.

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      power: Exponent of the raw densities, ``erk_power_scale``: 0 is uniform, 1 is ERK.
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> erk({"a": jnp.zeros((3, 3, 16, 16)), "b": jnp.zeros((16, 10))}, 0.5)
      {'a': 1072, 'b': 160}
    """
    raw = lambda layer: (sum(layer.shape) / layer.size) ** power
    return share(params, sparsity, where, exact, proportional(raw, sparsity), "erk")


def equal_per_layer(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """The same number of weights in every layer ("EPL"); Price & Tanner, 2021.

    Layers that have fewer are kept whole, and the rest is shared out again among the others (in the
    paper's code the last layer gets it).

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> equal_per_layer({"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}, 0.9)
      {'a': 275, 'b': 275}
    """
    raw = lambda layer: 1 / layer.size
    return share(params, sparsity, where, exact, proportional(raw, sparsity), "equal_per_layer")


def equal_per_filter(
    params: Params, sparsity: float, *, where: Where = default_where, exact: bool = True
) -> PyTree:
    """The same number of weights in every filter, or output unit ("EPF"); Price & Tanner, 2021.

    Layers whose filters have fewer are kept whole, and the rest is shared out again among the
    others (in the paper's code it is lost: the network is sparser than asked for).

    Args:
      params: Pytree of arrays or ``ShapeDtypeStruct`` leaves; filters lie along the last dimension.
      sparsity: Fraction of zeros over all sparse layers, in [0, 1).
      where: ``(path, leaf) -> bool``: may the leaf be sparse?
      exact: Sum to the global budget; ``False``: zeros rounded down in each layer.

    Returns:
      Pytree of Python ints like ``params``, ``optax.MaskedNode()`` where dense.

    Raises:
      ValueError: if ``sparsity`` is out of range, or no leaf may be sparse.

    Example:
      >>> import jax.numpy as jnp
      >>> equal_per_filter({"a": jnp.zeros((100, 50)), "b": jnp.zeros((50, 10))}, 0.88)
      {'a': 550, 'b': 110}
    """
    raw = lambda layer: (layer.shape[-1] if layer.shape else 1) / layer.size
    return share(params, sparsity, where, exact, proportional(raw, sparsity), "equal_per_filter")
