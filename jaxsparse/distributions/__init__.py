"""How a sparsity is shared out over layers: paths and shapes in, integer kept counts out.

With ``exact=True`` (the default) the counts sum to the global budget
``total - floor(sparsity * total)`` to the weight, by largest remainders, and no layer is left
without a weight. ``exact=False`` rounds as the papers' own code does, layer by layer.
"""

from jaxsparse.distributions.by_size import equal_per_filter, equal_per_layer, er, erk, uniform
from jaxsparse.distributions.counting import apportion, keep_count
from jaxsparse.distributions.explicit import by_path, from_masks
from jaxsparse.distributions.plus import erk_plus, uniform_plus

__all__ = [
    "apportion",
    "by_path",
    "equal_per_filter",
    "equal_per_layer",
    "er",
    "erk",
    "erk_plus",
    "from_masks",
    "keep_count",
    "uniform",
    "uniform_plus",
]
