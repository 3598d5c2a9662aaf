"""One paper, one file; and the registry that tests, docs and the command line read."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsparse import scores
from jaxsparse._tree import check_known
from jaxsparse.algorithms.ac_dc import ac_dc
from jaxsparse.algorithms.before_training import before_training as before_training
from jaxsparse.algorithms.cht import cht
from jaxsparse.algorithms.deep_r import deep_r
from jaxsparse.algorithms.dense import dense
from jaxsparse.algorithms.dnw import dnw
from jaxsparse.algorithms.dsr import dsr
from jaxsparse.algorithms.facts import FACTS, Facts
from jaxsparse.algorithms.force import force
from jaxsparse.algorithms.gradual_magnitude import gradual_magnitude
from jaxsparse.algorithms.granet import granet
from jaxsparse.algorithms.grasp import grasp
from jaxsparse.algorithms.iterative_magnitude import iterative_magnitude
from jaxsparse.algorithms.l0 import l0
from jaxsparse.algorithms.lookahead import lookahead
from jaxsparse.algorithms.magnitude import magnitude
from jaxsparse.algorithms.mest import mest
from jaxsparse.algorithms.movement import movement
from jaxsparse.algorithms.obd import obd
from jaxsparse.algorithms.powerpropagation import powerpropagation
from jaxsparse.algorithms.rigl import rigl
from jaxsparse.algorithms.sensitivity import sensitivity
from jaxsparse.algorithms.snfs import snfs
from jaxsparse.algorithms.snip import snip
from jaxsparse.algorithms.soft_deep_r import soft_deep_r
from jaxsparse.algorithms.soft_threshold import soft_threshold
from jaxsparse.algorithms.sparse_evolutionary import sparse_evolutionary
from jaxsparse.algorithms.sr_ste import sr_ste
from jaxsparse.algorithms.srigl import srigl
from jaxsparse.algorithms.static import static
from jaxsparse.algorithms.ste import ste
from jaxsparse.algorithms.synflow import synflow
from jaxsparse.algorithms.top_kast import top_kast
from jaxsparse.algorithms.variational_dropout import variational_dropout
from jaxsparse.algorithms.wanda import wanda
from jaxsparse.base import MaskAlgorithm, Params
from jaxsparse.distributions import erk
from jaxsparse.masks import sparse_paths
from jaxsparse.schedules import every


class Entry(NamedTuple):
    """A row of the registry.

    Attributes:
      factory: Makes the ``MaskAlgorithm``.
      small: Keyword arguments for tests.
      facts: For the table of methods.
      gathers: Does an update read masks or gates of whole leaves on every device? All other
        methods exchange a few numbers.
      trained_first: Does its one update expect weights that have been trained?
      adaptive: Does it need an optimizer that adapts its step to each weight, such as Adam?
    """

    factory: Callable[..., MaskAlgorithm]
    small: Mapping[str, Any]
    facts: Facts
    gathers: bool = False
    trained_first: bool = False
    adaptive: bool = False


def _some_curvature(params: Params) -> Params:
    """For tests: what ``obd`` ranks by is the user's to compute."""
    return jax.tree.map(jnp.abs, params)


def _some_norms(params: Params) -> Params:
    """For tests: a number for each input of a kernel (in, out)."""
    return jax.tree.map(lambda w: jnp.abs(w).sum((*range(w.ndim - 2), w.ndim - 1)), params)


def _some_model(params: Params, inputs: Any) -> Any:
    """For tests: two outputs, to which every weight adds something of its own."""
    total = sum(jnp.mean(jnp.sin(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(params))
    return inputs * jnp.stack([total, jnp.cos(total)])[None]


def _some_loss(params: Params, batch: Any) -> Any:
    """For tests: each weight's slope is its own."""
    total = [jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(params)]
    return jnp.mean(batch) * sum(total)


_SPARSE = {"sparsity": 0.75}
_SWAPS = {
    **_SPARSE,
    "update": every(3, start=1),
    "drop_fraction": optax.cosine_decay_schedule(0.5, 30),
}
_GRADUAL = {**_SPARSE, "start": 1, "stop": 8, "interval": 2}
_ONCE = {**_SPARSE, "step": 2}
_ROUNDS = {**_SPARSE, "loss_fn": _some_loss, "batches": np.ones((2, 3), np.float32), "rounds": 3}

_SMALL: Mapping[str, tuple[Callable[..., MaskAlgorithm], Mapping[str, Any]]] = {
    "dense": (dense, {}),
    "static": (static, _SPARSE),
    # Sparse from the start, and the masks move.
    "set": (sparse_evolutionary, _SWAPS),
    "set_by_sign": (
        functools.partial(sparse_evolutionary, by_sign=True),
        {**_SPARSE, "update": every(3, start=1)},
    ),
    "rigl": (rigl, _SWAPS),
    "snfs": (snfs, _SWAPS),
    "snfs_rigl": (functools.partial(snfs, redistribute=False, distribution=erk), _SWAPS),
    "dsr": (dsr, {**_SPARSE, "update": every(3, start=1), "threshold": 0.1}),
    "mest": (mest, _SWAPS),
    "mest_soft": (functools.partial(mest, soft_bound=True), _SWAPS),
    "deep_r": (deep_r, _SPARSE),
    "soft_deep_r": (soft_deep_r, _SPARSE),
    "srigl": (srigl, _SWAPS),
    "cht": (cht, {**_SPARSE, "update": every(3, start=1)}),
    "top_kast": (top_kast, {**_SPARSE, "update": every(3)}),
    # Dense weights behind a sparse forward pass; or dense now and then.
    "dnw": (dnw, _SPARSE),
    "ste": (ste, _SPARSE),
    "ste_random": (
        functools.partial(ste, score=scores.random, update=every(100)),
        {**_SPARSE, "update": every(3, start=1)},
    ),
    # (A power of two: its product is exact, so that the sum rounds alike wherever it is computed.)
    "sr_ste": (sr_ste, {**_SPARSE, "decay": 2**-12}),
    "ac_dc": (ac_dc, _GRADUAL),
    "str": (soft_threshold, {"initial_threshold": -2.0}),
    "powerpropagation": (powerpropagation, _GRADUAL),
    "l0": (l0, {"examples": 100}),
    "variational_dropout": (variational_dropout, {"examples": 100, "initial": -2.0}),
    # From dense to sparse.
    "granet": (granet, _GRADUAL),
    "gradual_magnitude": (gradual_magnitude, _GRADUAL),
    "magnitude": (magnitude, _ONCE),
    "iterative_magnitude": (iterative_magnitude, {**_SPARSE, "steps": (1, 3, 6)}),
    "movement": (movement, _GRADUAL),
    "movement_from_initial": (functools.partial(movement, from_initial=True), _GRADUAL),
    "sensitivity": (sensitivity, _ONCE),
    "lookahead": (lookahead, {**_ONCE, "chain": lambda masks: sparse_paths(masks)[-1:]}),
    "obd": (obd, {**_ONCE, "curvature": _some_curvature}),
    "wanda": (wanda, {**_ONCE, "activation_norms": _some_norms, "structure": None}),
    # Before training.
    "snip": (snip, _SPARSE),
    "iterative_snip": (functools.partial(force, regrow=False), _ROUNDS),
    "force": (force, _ROUNDS),
    "grasp": (
        grasp,
        {
            **_SPARSE,
            "model_fn": _some_model,
            "batches": (np.ones((2, 3, 1), np.float32), np.zeros((2, 3), np.int32)),
        },
    ),
    "synflow": (
        synflow,
        {
            **_SPARSE,
            "model_fn": _some_model,
            "inputs": jax.ShapeDtypeStruct((1, 1), jnp.float32),
            "rounds": 3,
        },
    ),
}
# A graph's paths run through all of a layer; a unit's gate is that of all its weights.
_GATHERING = ("cht", "l0")
_OF_TRAINED_WEIGHTS = ("magnitude", "sensitivity", "lookahead", "obd", "wanda")
# Rates of weights and of their noise are orders of magnitude apart.
_ADAPTIVE = ("variational_dropout",)
ALGORITHMS: Mapping[str, Entry] = MappingProxyType(
    {
        name: Entry(
            factory,
            small,
            FACTS[name],
            gathers=name in _GATHERING,
            trained_first=name in _OF_TRAINED_WEIGHTS,
            adaptive=name in _ADAPTIVE,
        )
        for name, (factory, small) in _SMALL.items()
    }
)
"""Command-line name -> its row."""


def algorithm(name: str, **kwargs: Any) -> MaskAlgorithm:
    """Build an algorithm by its command-line name.

    Args:
      name: A key of ``ALGORITHMS``.
      **kwargs: Arguments of its factory.

    Returns:
      A ``MaskAlgorithm``.

    Raises:
      ValueError: if there is no such name; the message holds the nearest ones.

    Example:
      >>> algorithm("rigel", sparsity=0.9)
      Traceback (most recent call last):
      ValueError: unknown method 'rigel'; did you mean rigl or ...
    """
    check_known("method", name, ALGORITHMS)
    return ALGORITHMS[name].factory(**kwargs)
