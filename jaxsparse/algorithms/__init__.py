"""One paper, one file; and the registry that tests, docs and the command line read."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import optax

from jaxsparse._tree import check_known
from jaxsparse.algorithms.dense import dense
from jaxsparse.algorithms.gradual_magnitude import gradual_magnitude
from jaxsparse.algorithms.magnitude import magnitude
from jaxsparse.algorithms.rigl import rigl
from jaxsparse.algorithms.snip import snip
from jaxsparse.algorithms.sparse_evolutionary import sparse_evolutionary
from jaxsparse.algorithms.static import static
from jaxsparse.base import MaskAlgorithm
from jaxsparse.schedules import every


class Entry(NamedTuple):
    """A row of the registry: the factory, and small keyword arguments that tests build it with."""

    factory: Callable[..., MaskAlgorithm]
    small: Mapping[str, Any]


_SWAPS = {"update": every(3, start=1), "drop_fraction": optax.cosine_decay_schedule(0.5, 30)}

ALGORITHMS: Mapping[str, Entry] = MappingProxyType(
    {
        "dense": Entry(dense, {}),
        "static": Entry(static, {"sparsity": 0.75}),
        "set": Entry(sparse_evolutionary, {"sparsity": 0.75, **_SWAPS}),
        "rigl": Entry(rigl, {"sparsity": 0.75, **_SWAPS}),
        "gradual_magnitude": Entry(
            gradual_magnitude, {"sparsity": 0.75, "start": 1, "stop": 8, "interval": 2}
        ),
        "magnitude": Entry(magnitude, {"sparsity": 0.75, "step": 2}),
        "snip": Entry(snip, {"sparsity": 0.75}),
    }
)
"""Command-line name -> (factory, small keyword arguments for tests)."""


def algorithm(name: str, **kwargs: Any) -> MaskAlgorithm:
    """Build an algorithm by its command-line name.

    Args:
      name: A key of ``ALGORITHMS``.
      **kwargs: Arguments of its factory.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if there is no such name; the message holds the nearest ones.

    Example:
      >>> algorithm("rigel", sparsity=0.9)
      Traceback (most recent call last):
      ValueError: unknown method 'rigel'; did you mean rigl? All: dense, static, set, rigl, ...
    """
    check_known("method", name, ALGORITHMS)
    return ALGORITHMS[name].factory(**kwargs)
