"""The networks that are timed, their data and their training steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments import models

BATCH = 128


class Problem(NamedTuple):
    """A network with a batch for it.

    Attributes:
      name: For the table.
      model: A flax module that is called ``apply(variables, x, train, mutable=...)``.
      x: Images, or their abstract shape.
      labels: Integers, or their abstract shape.
      chunk: Steps that are timed at once.
    """

    name: str
    model: nn.Module
    x: Any
    labels: Any
    chunk: int

    def variables(self) -> Any:
        """Parameters and the like: arrays, abstract ones where ``x`` is abstract."""
        init = lambda key, x: self.model.init(key, x, False)
        abstract = isinstance(self.x, jax.ShapeDtypeStruct)
        make = jax.eval_shape if abstract else lambda f, *args: jax.jit(f)(*args)
        return make(init, jax.random.key(0), self.x)


def small_problems() -> list[Problem]:
    """LeNet-300-100, a large MLP and a small CNN, on random images at batch 128.

    Returns:
      Three problems.
    """
    labels = jnp.arange(BATCH) % 10
    flat = jax.random.normal(jax.random.key(1), (BATCH, 784))
    square = flat.reshape(BATCH, 28, 28, 1)
    return [
        Problem("LeNet-300-100", models.LeNet300100(), flat, labels, 100),
        Problem("MLP 784-2048-2048-10", models.MLP((2048, 2048, 10)), flat, labels, 20),
        Problem("CNN (LeNet-5)", models.LeNet5(), square, labels, 10),
    ]


def resnet50(batch: int = 8) -> Problem:
    """ResNet-50 on abstract 224x224 images.

    Args:
      batch: Images.

    Returns:
      The problem.
    """
    images = jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return Problem(f"ResNet-50, batch {batch}", models.ResNet50(), images, labels, 1)


def training_step(problem: Problem, tx: optax.GradientTransformation) -> Callable[..., Any]:
    """One step of training.

    Args:
      problem: The network.
      tx: The optimizer.

    Returns:
      ``(variables, optimizer state, x, labels) -> (variables, optimizer state)``.
    """

    def step(variables: Any, state: Any, x: Any, labels: Any) -> tuple[Any, Any]:
        others = {name: tree for name, tree in variables.items() if name != "params"}

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, new = problem.model.apply(
                {"params": params, **others}, x, True, mutable=list(others)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

        params = variables["params"]
        grads, new = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = tx.update(grads, state, params)
        return {"params": optax.apply_updates(params, updates), **new}, state

    return step


def compiled_step(problem: Problem, tx: optax.GradientTransformation) -> tuple[Any, Any, Any]:
    """The step compiled, with variables and optimizer state donated.

    Args:
      problem: The network.
      tx: The optimizer.

    Returns:
      The compiled step, variables and optimizer state (abstract where the problem is).
    """
    variables = problem.variables()
    abstract = isinstance(problem.x, jax.ShapeDtypeStruct)
    make = jax.eval_shape if abstract else lambda f, *args: jax.jit(f)(*args)
    state = make(tx.init, variables["params"])
    step = jax.jit(training_step(problem, tx), donate_argnums=(0, 1))
    return step.lower(variables, state, problem.x, problem.labels).compile(), variables, state
