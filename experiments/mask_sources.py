"""Where the masks of a study come from: saliencies, distributions, chance. All have a seed axis."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax

import jaxsparse
from jaxsparse import saliency, scores
from jaxsparse.pruning import random_masks_like
from jaxsparse.saliency import Saliency

from .measures import Measures


def saliencies(measures: Measures) -> dict[str, tuple[Saliency, int]]:
    """What weights are worth, and in how many rounds they are pruned by it.

    Args:
      measures: Of the network; gradients are those of ten training images of each class.

    Returns:
      Name of the method -> saliency and rounds, as in its paper.
    """
    loss = saliency.cross_entropy(measures.model_fn, 200.0)  # GraSP's temperature
    return {
        "snip": (saliency.connection_sensitivity(measures.loss_fn, measures.batches), 1),
        "grasp": (saliency.gradient_flow(loss, measures.batches), 1),
        "synflow": (saliency.synaptic_flow(measures.model_fn, measures.inputs), 100),
        "magnitude": (saliency.by_score(scores.magnitude), 1),
    }


def best_masks(of: tuple[Saliency, int], params: Any, sparsity: float) -> Any:
    """The weights that a method keeps, layers competing.

    Args:
      of: An entry of ``saliencies``.
      params: The weights it looks at, with a seed axis.
      sparsity: Fraction of zeros, in [0, 1).

    Returns:
      Masks, host arrays with a seed axis.
    """
    prune = functools.partial(
        saliency.prune_in_rounds, of[0], sparsity=sparsity, rounds=of[1], scope="global"
    )
    return jax.device_get(jax.jit(jax.vmap(prune))(params))


def drawn(name: str, seeds: int, draw: Callable[[jax.Array, Any], Any], given: Any) -> Any:
    """Something random for each seed.

    Args:
      name: Of the cell that it is for: another name, other draws.
      seeds: Number of seeds.
      draw: ``(key, given) -> result``.
      given: With a seed axis.

    Returns:
      The results, host arrays with a seed axis.
    """
    keys = jax.random.split(jax.random.key(zlib.crc32(name.encode())), seeds)
    return jax.device_get(jax.jit(jax.vmap(draw))(keys, given))


def random_masks(name: str, distribution: Any, params: Any, sparsity: float) -> Any:
    """Random masks for each seed, with the layer-wise sparsities of a distribution.

    Args:
      name: Of the cell.
      distribution: ``(params, sparsity, *, where) -> kept counts``.
      params: With a seed axis.
      sparsity: Fraction of zeros, in [0, 1).

    Returns:
      Masks, host arrays with a seed axis.
    """
    init = jaxsparse.static(sparsity, distribution=distribution).init
    return drawn(name, len(jax.tree.leaves(params)[0]), init, params)


def shuffled(name: str, masks: Any) -> Any:
    """As many weights in each layer, drawn anew for each seed.

    Args:
      name: Of the cell.
      masks: With a seed axis.

    Returns:
      Masks like them.
    """
    return drawn(name, len(jax.tree.leaves(masks)[0]), random_masks_like, masks)
