"""What some methods need beside gradients, from a network and its training data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxsparse.algorithms.wanda import input_norms
from jaxsparse.curvature import gauss_newton_diagonal
from jaxsparse.saliency import cross_entropy

from .augment import normalize
from .data import Dataset

# Images of the training set that curvature and activations are taken of.
_EXAMPLES = 256
# Images of a class that networks are pruned with before training (Wang et al., 2020).
_EACH = 10


class Measures(NamedTuple):
    """Arguments of methods, by the names that the factories have for them.

    Attributes:
      curvature: ``params -> pytree``: the Gauss-Newton diagonal of the mean cross-entropy.
      activation_norms: ``params -> pytree``: the L2 norm of each input feature of each kernel.
      chain: Paths of the kernels, from input to output.
      examples: Size of the training set.
      model_fn: ``(params, images) -> logits``, images normalized, in evaluation mode.
      loss_fn: ``(params, (images, labels)) -> mean cross-entropy``.
      batches: Images and labels, ten of each class where there are as many, in one batch.
      inputs: The shape of one example.
    """

    curvature: Callable[[Any], Any]
    activation_norms: Callable[[Any], Any]
    chain: tuple[str, ...]
    examples: int
    model_fn: Callable[..., Any]
    loss_fn: Callable[..., Any]
    batches: tuple[Any, Any]
    inputs: Any


def measures_of(
    model: nn.Module, dataset: Dataset, laid_out: Callable[[Any], Any] = lambda f: f
) -> Measures:
    """Measures of a network on a few training images; batch statistics as they are at first.

    Args:
      model: A linen module with ``__call__(images, train)``.
      dataset: The data.
      laid_out: What makes a function of the network one that a step can call.

    Returns:
      What ``build_method`` hands on; no gradient is taken before a method asks.
    """
    mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
    images = normalize(jnp.asarray(dataset.train_images[:_EXAMPLES]), mean, std)
    init = lambda: dict(model.init(jax.random.key(0), images[:1], train=False))
    kernels: list[tuple[str, ...]] = []

    def rest() -> dict[str, Any]:
        return {name: tree for name, tree in init().items() if name != "params"}

    def look_at_paths() -> None:
        kernels.extend(_inputs(model, init()["params"], rest(), images[:1]))

    jax.eval_shape(look_at_paths)

    def logits(params: Any, inputs: jax.Array) -> Any:
        return model.apply({"params": params, **rest()}, inputs, train=False)

    def activation_norms(params: Any) -> Any:
        found = _inputs(model, params, rest(), images)
        flat = traverse_util.flatten_dict(params)
        norms = {path: jnp.zeros(()) for path in flat} | {
            p: input_norms(x) for p, x in found.items()
        }
        return traverse_util.unflatten_dict(norms)

    return Measures(
        curvature=laid_out(lambda params: gauss_newton_diagonal(logits, params, images)),
        activation_norms=laid_out(activation_norms),
        chain=tuple("/".join(path) for path in kernels),
        examples=len(dataset.train_images),
        model_fn=laid_out(logits),
        loss_fn=laid_out(cross_entropy(logits)),
        batches=_of_each_class(dataset, mean, std),
        inputs=jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32),
    )


def _of_each_class(dataset: Dataset, mean: Any, std: Any) -> tuple[Any, Any]:
    """The first images of each class, as many of each, in one batch."""
    of_class = [np.flatnonzero(dataset.train_labels == c) for c in range(dataset.num_classes)]
    each = min(_EACH, *map(len, of_class)) or 1
    chosen = np.concatenate([rows[:each] for rows in of_class])
    images = normalize(jnp.asarray(dataset.train_images[chosen]), mean, std)
    return images[None], jnp.asarray(dataset.train_labels[chosen])[None]


def _inputs(model: nn.Module, params: Any, rest: Any, images: Any) -> dict[tuple[str, ...], Any]:
    """The input of every layer that has a kernel, by the kernel's path, in the order of calls."""
    found: dict[tuple[str, ...], Any] = {}

    def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        has_kernel = "kernel" in context.module.variables.get("params", {})
        if has_kernel and context.method_name == "__call__":
            found[(*context.module.path, "kernel")] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        model.apply({"params": params, **rest}, images, train=False)
    return found
