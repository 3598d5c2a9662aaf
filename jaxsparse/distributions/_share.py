"""From densities, or what they are in proportion to, to the kept counts of a tree."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from jaxsparse.base import Params, Where
from jaxsparse.distributions.counting import apportion, keep_count
from jaxsparse.layers import Layer, sparse_layers
from jaxsparse.schedules import check_sparsity


def share(
    params: Params, sparsity: float, where: Where, exact: bool, densities: Any, name: str
) -> PyTree:
    """Run ``densities(layers) -> floats`` over the sparse layers and round to counts."""
    check_sparsity(sparsity)
    found, structure = sparse_layers(params, where)
    layers = [layer for layer in found if layer is not None]
    if not layers:
        if found:
            return jax.tree.unflatten(structure, [optax.MaskedNode()] * len(found))
        raise ValueError(f"{name} needs a tree with at least one array; it got an empty one")
    sizes = [layer.size for layer in layers]
    wanted = densities(layers)
    if exact:
        ideal = [density * size for density, size in zip(wanted, sizes, strict=True)]
        counts = apportion(ideal, sizes, keep_count(sum(sizes), sparsity))
    else:
        # 12 digits: 1 - (1 - 0.1) is 0.09999999999999998, which would floor to one zero less.
        zeros = [round(min(max(1 - density, 0.0), 1.0), 12) for density in wanted]
        counts = [keep_count(n, share) for n, share in zip(sizes, zeros, strict=True)]
    left = iter(counts)
    return jax.tree.unflatten(
        structure, [optax.MaskedNode() if layer is None else next(left) for layer in found]
    )


def proportional(raw: Any, sparsity: float) -> Any:
    """Densities epsilon * raw, with epsilon solved so that the total is met and none passes 1."""

    def densities(layers: Sequence[Layer]) -> list[float]:
        probabilities = [raw(layer) or 1.0 for layer in layers]  # a scalar has no dimensions
        total = sum(layer.size for layer in layers)
        full: set[int] = set()
        while len(full) < len(layers):
            free = [i for i in range(len(layers)) if i not in full]
            left = (1 - sparsity) * total - sum(layers[i].size for i in full)
            epsilon = left / sum(probabilities[i] * layers[i].size for i in free)
            largest = max(probabilities[i] for i in free)
            if largest * epsilon <= 1:
                return [1.0 if i in full else epsilon * p for i, p in enumerate(probabilities)]
            full |= {i for i in free if probabilities[i] == largest}
        return [1.0] * len(layers)

    return densities
