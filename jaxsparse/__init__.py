"""jaxsparse: functional sparse training for JAX and Flax.

Masks simulate sparsity: accuracy, FLOPs and size are those of the sparse network, time is not.
"""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from jaxsparse import (
    accelerate,
    accounting,
    curvature,
    distributions,
    export,
    metrics,
    regularization,
    saliency,
    schedules,
    scores,
    structures,
    subspaces,
    units,
)
from jaxsparse.accounting import flops, size_bytes
from jaxsparse.algorithms import (
    ALGORITHMS,
    ac_dc,
    algorithm,
    before_training,
    cht,
    deep_r,
    dense,
    dnw,
    dsr,
    force,
    gradual_magnitude,
    granet,
    grasp,
    iterative_magnitude,
    l0,
    lookahead,
    magnitude,
    mest,
    movement,
    obd,
    powerpropagation,
    rigl,
    sensitivity,
    snfs,
    snip,
    soft_deep_r,
    soft_threshold,
    sparse_evolutionary,
    sr_ste,
    srigl,
    static,
    ste,
    synflow,
    top_kast,
    variational_dropout,
    wanda,
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
from jaxsparse.continuing import keep_largest
from jaxsparse.distributions import (
    by_path,
    equal_per_filter,
    equal_per_layer,
    er,
    erk,
    erk_plus,
    from_masks,
    uniform,
    uniform_plus,
)
from jaxsparse.engine import drop_grow
from jaxsparse.exploration import exploration_rate, explored
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
from jaxsparse.pruning import (
    Round,
    fixed,
    iterative_pruning,
    keep_all,
    prune_remaining,
    random_masks_like,
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
    "ALGORITHMS",
    "Distribution",
    "MaskAlgorithm",
    "Masks",
    "Regrowth",
    "Round",
    "Schedule",
    "Score",
    "SparsityState",
    "Structure",
    "TrainState",
    "UpdateInfo",
    "ac_dc",
    "accelerate",
    "accounting",
    "algorithm",
    "any_of",
    "apply_masks",
    "at",
    "before_training",
    "block",
    "by_path",
    "channel",
    "cht",
    "curvature",
    "deep_r",
    "default_where",
    "dense",
    "density",
    "distributions",
    "dnw",
    "drop_grow",
    "dsr",
    "equal_per_filter",
    "equal_per_layer",
    "er",
    "erk",
    "erk_plus",
    "every",
    "exploration_rate",
    "explored",
    "export",
    "fan_in",
    "fixed",
    "flops",
    "force",
    "forward_params",
    "from_masks",
    "gradual_magnitude",
    "granet",
    "grasp",
    "initial_params",
    "inverse_power",
    "iterative_magnitude",
    "iterative_pruning",
    "keep_all",
    "keep_largest",
    "l0",
    "lookahead",
    "magnitude",
    "masks_of",
    "mest",
    "metrics",
    "movement",
    "n_m",
    "never",
    "obd",
    "one_shot",
    "overlap",
    "partition",
    "polynomial_sparsity",
    "powerpropagation",
    "prune_remaining",
    "random_masks_like",
    "regularization",
    "rigl",
    "saliency",
    "schedules",
    "scores",
    "sensitivity",
    "size_bytes",
    "snfs",
    "snip",
    "soft_deep_r",
    "soft_threshold",
    "sparse_evolutionary",
    "sparse_paths",
    "sparsify",
    "sparsity_states",
    "sr_ste",
    "srigl",
    "static",
    "ste",
    "structures",
    "subspaces",
    "summary",
    "synflow",
    "top_k_mask",
    "top_kast",
    "tree_top_k_masks",
    "uniform",
    "uniform_plus",
    "units",
    "unstructured",
    "variational_dropout",
    "vmap_axes",
    "wanda",
    "within",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # flax only where it is used: plain optax, Equinox and Haiku need none of it.
    if name == "TrainState":
        from jaxsparse.train_state import TrainState

        return TrainState
    raise AttributeError(f"module 'jaxsparse' has no attribute {name!r}")
