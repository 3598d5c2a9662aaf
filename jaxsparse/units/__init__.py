"""Neurons, filters, channels: which belong together, pruned together, and really removed."""

from jaxsparse.units.compaction import Compacted, CompactLayer, Left, compact
from jaxsparse.units.groups import Member, UnitGroup, UnitGroups, unit_groups
from jaxsparse.units.paths import EffectiveLayer, EffectivePaths, effective_paths
from jaxsparse.units.pruning import kept_units, prune_units, unit_masks
from jaxsparse.units.scores import UnitScores, unit_norm, unit_scale, unit_taylor

__all__ = [
    "CompactLayer",
    "Compacted",
    "EffectiveLayer",
    "EffectivePaths",
    "Left",
    "Member",
    "UnitGroup",
    "UnitGroups",
    "UnitScores",
    "compact",
    "effective_paths",
    "kept_units",
    "prune_units",
    "unit_groups",
    "unit_masks",
    "unit_norm",
    "unit_scale",
    "unit_taylor",
]
