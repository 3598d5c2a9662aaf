"""Pruning before training: what each weight is worth at initialization, and masks in rounds."""

from jaxsparse.saliency.flow import synaptic_flow
from jaxsparse.saliency.gradients import (
    LossFn,
    connection_sensitivity,
    cross_entropy,
    gradient_flow,
)
from jaxsparse.saliency.rounds import (
    Saliency,
    by_score,
    inverted,
    mean_over,
    of_weights,
    prune_in_rounds,
)

__all__ = [
    "LossFn",
    "Saliency",
    "by_score",
    "connection_sensitivity",
    "cross_entropy",
    "gradient_flow",
    "inverted",
    "mean_over",
    "of_weights",
    "prune_in_rounds",
    "synaptic_flow",
]
