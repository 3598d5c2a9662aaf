"""jaxsparse: functional sparse training for JAX and Flax.

Masks simulate sparsity: accuracy, FLOPs and size are those of the sparse network, time is not.
"""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from jaxsparse import accounting, distributions, schedules, scores, structures
from jaxsparse.accounting import flops, size_bytes
from jaxsparse.algorithms import (
    ALGORITHMS,
    algorithm,
    dense,
    gradual_magnitude,
    magnitude,
    rigl,
    snip,
    sparse_evolutionary,
    static,
)
from jaxsparse.base import (
    Distribution,
    MaskAlgorithm,
    Masks,
    Regrowth,
    Schedule,
    Score,
    Structure,
    UpdateInfo,
    never,
)
from jaxsparse.combine import partition
from jaxsparse.distributions import by_path, er, erk, erk_plus, uniform, uniform_plus
from jaxsparse.engine import drop_grow
from jaxsparse.forward import forward_params, initial_params
from jaxsparse.layers import default_where
from jaxsparse.masks import (
    apply_masks,
    density,
    masks_of,
    overlap,
    sparse_paths,
    sparsity_states,
    summary,
)
from jaxsparse.schedules import (
    any_of,
    at,
    every,
    inverse_power,
    one_shot,
    polynomial_sparsity,
    within,
)
from jaxsparse.selection import top_k_mask, tree_top_k_masks
from jaxsparse.structures import block, channel, fan_in, n_m, unstructured
from jaxsparse.transform import SparsityState, sparsify, vmap_axes

if TYPE_CHECKING:
    from jaxsparse.train_state import TrainState

__version__ = importlib.metadata.version("jaxsparse")

__all__ = [
    "ALGORITHMS", "Distribution", "MaskAlgorithm", "Masks", "Regrowth", "Schedule", "Score",
    "SparsityState", "Structure", "TrainState", "UpdateInfo", "accounting", "algorithm",
    "any_of", "apply_masks", "at", "block", "by_path", "channel", "default_where", "dense",
    "density", "distributions", "drop_grow", "er", "erk", "erk_plus", "every", "fan_in",
    "flops", "forward_params", "gradual_magnitude", "initial_params", "inverse_power", "magnitude",
    "masks_of",
    "n_m", "never", "one_shot", "overlap", "partition", "polynomial_sparsity", "rigl",
    "schedules", "scores", "size_bytes", "snip", "sparse_evolutionary", "sparse_paths", "sparsify",
    "sparsity_states", "static", "structures", "summary", "top_k_mask", "tree_top_k_masks",
    "uniform", "uniform_plus", "unstructured", "vmap_axes", "within",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # flax only where it is used: plain optax, Equinox and Haiku need none of it.
    if name == "TrainState":
        from jaxsparse.train_state import TrainState

        return TrainState
    raise AttributeError(f"module 'jaxsparse' has no attribute {name!r}")
