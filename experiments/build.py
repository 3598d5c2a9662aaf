"""From a configuration to objects: the network, the optimizer, the methods."""

import dataclasses
import functools
import inspect
import math
from typing import Any

import flax.linen as nn
import optax

import jaxsparse
from jaxsparse.base import always

from . import models
from .config import Config
from .measures import Measures

_DISTRIBUTIONS = {"erk": jaxsparse.erk, "er": jaxsparse.er, "uniform": jaxsparse.uniform}


def build_model(config: Config, classes: int) -> nn.Module:
    """The network of a configuration.

    Args:
      config: The configuration.
      classes: Number of classes.

    Returns:
      A linen module with ``__call__(images, train)``.
    """
    model = config.model
    families = {
        "mlp": functools.partial(models.MLP, features=(*model.widths, classes)),
        "lenet-5": functools.partial(models.LeNet5, classes=classes),
        "plain-conv": functools.partial(
            models.PlainConv, depth=model.depth, width=model.width, classes=classes
        ),
        "cifar-resnet": functools.partial(
            models.CifarResNet, depth=model.depth, width=model.width, classes=classes
        ),
        "wide-resnet": functools.partial(
            models.WideResNet, depth=model.depth, width=model.width, classes=classes
        ),
        "vgg": functools.partial(models.VGG, depth=model.depth, classes=classes),
    }
    return families[model.name]()


def build_optimizer(config: Config, steps: int, steps_per_epoch: int, method: str = "") -> Any:
    """The inner optimizer with its learning-rate schedule.

    Args:
      config: The configuration.
      steps: Steps of the run.
      steps_per_epoch: Steps of an epoch.
      method: A key of ``jaxsparse.ALGORITHMS``; one that needs Adam gets it.

    Returns:
      An optax transformation.
    """
    choice = config.optimizer
    if method and jaxsparse.ALGORITHMS[method].adaptive and choice.name != "adam":
        choice = dataclasses.replace(choice, name="adam", learning_rate=1e-3)
    if choice.decay == "cosine":
        rate = optax.cosine_decay_schedule(choice.learning_rate, steps)
    else:
        falls = {round(epoch * steps_per_epoch): choice.factor for epoch in choice.boundaries}
        rate = optax.piecewise_constant_schedule(choice.learning_rate, falls)
    step = (
        optax.adam(rate)
        if choice.name == "adam"
        else optax.sgd(rate, momentum=choice.momentum, nesterov=True)
    )
    return optax.chain(optax.add_decayed_weights(choice.weight_decay), step)


def build_method(
    config: Config, method: str, sparsity: float, steps: int, measures: Measures | None = None
) -> jaxsparse.MaskAlgorithm:
    """A method of the registry, with its schedules stretched over the run.

    Every factory gets those of the run's settings that it has a parameter for. A drop fraction
    that the method's paper holds constant (SET's) stays as its factory has it, and so does an
    update at every step.

    Args:
      config: The configuration.
      method: A key of ``jaxsparse.ALGORITHMS``.
      sparsity: Fraction of zeros, in [0, 1).
      steps: Steps of the run.
      measures: What some methods need beside gradients.

    Returns:
      A ``MaskAlgorithm``.
    """
    pruning, entry = config.pruning, jaxsparse.ALGORITHMS[method]
    factory = entry.factory
    stop = max(int(pruning.stop * steps), 1)
    start = min(int(pruning.prune_start * steps), stop - 1)
    settings: dict[str, Any] = {
        "sparsity": sparsity,
        "distribution": _DISTRIBUTIONS[pruning.distribution],
        "update": jaxsparse.every(pruning.interval, start=min(pruning.interval, stop), stop=stop),
        "drop_fraction": optax.cosine_decay_schedule(pruning.drop_fraction, stop),
        "start": start,
        "stop": stop,
        "interval": pruning.interval,
        "step": int(pruning.one_shot * steps),
        "steps": range(start, stop, max((stop - start) // 10, 1)),
        # Where a penalty takes the place of a budget: no warm-up longer than the run, and
        # thresholds that decay from 5e-5 to 0.02 (log-odds of -10 to -4) over it.
        "kl_weight": optax.linear_schedule(0.0, 1.0, max(steps // 2, 1)),
        "initial_threshold": -10.0,
        "threshold_optimizer": optax.chain(
            optax.add_decayed_weights(math.log(10 / 4) / steps), optax.sgd(0.1, momentum=0.9)
        ),
    }
    if measures is not None:
        settings |= measures._asdict()
    known = inspect.signature(factory).parameters
    default = {name: parameter.default for name, parameter in known.items()}
    if "drop_fraction" in known and not callable(default["drop_fraction"]):
        del settings["drop_fraction"]
    if not callable(default.get("update")) or default["update"] is always:
        del settings["update"]
    elif default.get("soft_bound"):  # which is met at the end of the schedule
        every = jaxsparse.every(pruning.interval, pruning.interval, stop, inclusive=True)
        settings["update"] = jaxsparse.any_of(every, jaxsparse.at(stop))
    if not entry.trained_first:
        del settings["step"]
    elif "stop" in known:  # from the one to the other, be the run ever so short
        settings["step"] = min(settings["step"], stop - 1)
    if default.get("interval") == 1:
        del settings["interval"]
    return factory(**{name: value for name, value in settings.items() if name in known})
