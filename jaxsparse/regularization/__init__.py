"""Penalties that end in exact zeros: L1 and group lasso, as a proximal step around an optimizer."""

from jaxsparse.regularization.proximal_step import ProximalState, masks_from_zeros, proximal
from jaxsparse.regularization.regularizers import (
    Group,
    Regularizer,
    group_lasso,
    kept_groups,
    l1,
)

__all__ = [
    "Group",
    "ProximalState",
    "Regularizer",
    "group_lasso",
    "kept_groups",
    "l1",
    "masks_from_zeros",
    "proximal",
]
