"""Lottery tickets and their controls: the procedures, over trainings by `experiments.rounds`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from jaxsparse import tree_top_k_masks
from jaxsparse._tree import map_masks
from jaxsparse.pruning import Round, iterative_pruning, prune_remaining, random_masks_like

from . import data, rounds
from .config import check_counts
from .rounds import Task, Trainer

Arm = Literal["reinit", "random", "one_shot", "continued"]
_RANDOM_STREAM = 0x71C4E7


@dataclasses.dataclass(frozen=True)
class Study(rounds.Training):
    """What is trained: all that the numbers depend on."""

    data: str = "mnist"
    """Data set of the study."""
    other: str = "fashion_mnist"
    """Data set that tickets are carried to, and from."""
    rounds: int = 16
    """How often to prune; after 16 rounds 2.9 % of the weights are left."""
    fraction: float = 0.2
    """Fraction of the weights left that a round prunes in each layer, in [0, 1)."""
    output_fraction: float = 0.1
    """The same in the output layer (scope layer only)."""
    scope: Literal["layer", "global"] = "layer"
    """Prune each layer by its fraction, as in the paper, or let layers compete."""
    rewind_steps: int = 0
    """Dense steps before everything: tickets are reset to the weights there (late rewinding)."""
    controls: tuple[Arm, ...] = ("reinit", "random", "one_shot", "continued")
    """Arms beside the tickets: other weights, random mask, pruned at once, not reset."""
    control_rounds: tuple[int, ...] = (1, 2, 3, 7, 9, 12, 15, 16)
    """Rounds that have controls; 80, 64, 51, 21, 13.5, 7, 3.6 and 2.9 % of the weights."""
    transfer_rounds: tuple[int, ...] = (7, 12)
    """Rounds whose tickets are carried to the other data set, and back; none: no transfer."""


def check(study: Study) -> None:
    """Refuse a study that cannot run, before anything is loaded or traced.

    Args:
      study: What to check.

    Raises:
      ValueError: one line with the value, the range and the remedy.
    """
    rounds.check(study)
    data.check_name(study.data)
    data.check_name(study.other)
    if study.data == study.other and study.transfer_rounds:
        raise ValueError(
            f"data and other are both {study.data!r}; name another set, or give no transfer_rounds"
        )
    check_counts(study, ("rounds",))
    for name in ("fraction", "output_fraction"):
        if not 0 < getattr(study, name) < 1:
            raise ValueError(f"{name} is {getattr(study, name)}; it must lie in (0, 1)")
    if study.rewind_steps < 0 or study.rewind_steps % study.evaluate_every:
        raise ValueError(
            f"rewind_steps is {study.rewind_steps}; give 0 or a multiple of evaluate_every "
            f"({study.evaluate_every})"
        )
    for name in ("control_rounds", "transfer_rounds"):
        if wrong := [r for r in getattr(study, name) if not r >= 1]:
            raise ValueError(f"{name} holds {wrong[0]}; rounds are counted from 1")


def tasks_of(study: Study) -> list[Task]:
    """Every training of a study, in the order in which they are reported.

    Args:
      study: The study.

    Returns:
      Its trainings: those of its data set, of the other one, and the tickets carried over.
    """
    carried = _within(study.transfer_rounds, study.rounds)
    found = _tasks(study, study.data, study.rounds, _within(study.control_rounds, study.rounds))
    if carried:
        found += _tasks(_random_only(study), study.other, max(carried), carried)
        found += [Task(d, "carried", r) for d in (study.other, study.data) for r in carried]
    return found


def _tasks(study: Study, name: str, last: int, at: Sequence[int]) -> list[Task]:
    warm = [Task(name, "warm_up", 0)] if study.rewind_steps else []
    found = [*warm, Task(name, "dense", 0)]
    found += [Task(name, "ticket", r) for r in range(1, last + 1)]
    for arm in study.controls:
        if arm == "continued":
            found += [Task(name, arm, r) for r in range(1, max(at, default=0) + 1)]
            continue
        if arm == "reinit" and study.rewind_steps:
            found += [Task(name, "reinit_warm_up", r) for r in at]
        found += [Task(name, arm, r) for r in at if arm != "one_shot" or r > 1]
    return found


def _within(chosen: Sequence[int], last: int) -> list[int]:
    return sorted({r for r in chosen if r <= last})


def _random_only(study: Study) -> Study:
    """On the other data set a carried ticket stands beside its own ticket and a random mask."""
    arms: tuple[Arm, ...] = ("random",) if "random" in study.controls else ()
    return dataclasses.replace(study, controls=arms)


class Lab(Protocol):
    """One training of the study, as the procedures ask for it."""

    def __call__(
        self, trainer: Trainer, task: Task, params: Any, masks: Any, steps: int | None = None
    ) -> Any:
        """Train from these weights under these masks; the trained weights."""
        ...


def run_procedures(study: Study, trainers: dict[str, Trainer], lab: Lab) -> None:
    """Every training of a study, each after those that it needs.

    Args:
      study: The study.
      trainers: Data set -> its compiled program; of both sets where tickets are carried.
      lab: Trains; what is finished it only reads.
    """
    carried, prune = _within(study.transfer_rounds, study.rounds), _pruning(study)
    at = _within(study.control_rounds, study.rounds)
    own = _procedure(study, trainers[study.data], study.data, study.rounds, at, prune, lab)
    if not carried:
        return
    less, other = _random_only(study), study.other
    theirs = _procedure(less, trainers[other], other, max(carried), carried, prune, lab)
    for name, tickets in ((study.other, own), (study.data, theirs)):
        for number in carried:
            ticket = tickets[number]
            lab(trainers[name], Task(name, "carried", number), ticket.start, ticket.masks)


def _pruning(study: Study) -> Callable[[Any, Any], Any]:
    """``(trained, masks) -> masks`` of a round, over seeds."""
    rules = {f"Dense_{len(study.widths)}/*": study.output_fraction}
    each = functools.partial(
        prune_remaining,
        fraction=study.fraction,
        scope=study.scope,
        rules=rules if study.scope == "layer" else None,
    )
    return jax.jit(jax.vmap(each))


def _procedure(
    study: Study,
    trainer: Trainer,
    name: str,
    last: int,
    at: Sequence[int],
    prune: Callable[[Any, Any], Any],
    lab: Lab,
) -> dict[int, Round]:
    """Tickets on one data set, each followed by its controls; then pruning without a reset."""

    def begin(draw: int, arm: str) -> tuple[Any, Any]:
        """First weights, trained densely for a while under late rewinding."""
        params, masks = trainer.initial(draw)
        if study.rewind_steps:
            params = lab(trainer, Task(name, arm, draw), params, masks, study.rewind_steps)
        return params, masks

    def train(arm: str) -> Callable[[Any, Any, int], Any]:
        return lambda start, masks, number: lab(
            trainer, Task(name, arm if number else "dense", number), start, masks
        )

    params, masks = begin(0, "warm_up")
    tickets: dict[int, Round] = {}
    rows = iterative_pruning(train("ticket"), params, rounds=last, prune=prune, masks=masks)
    for ticket in rows:
        tickets[ticket.number] = jax.device_get(ticket)
        number = ticket.number
        if number not in at:
            continue
        if "reinit" in study.controls:
            train("reinit")(begin(number, "reinit_warm_up")[0], ticket.masks, number)
        if "random" in study.controls:
            train("random")(params, random_control(study.seeds, number, ticket.masks), number)
        if "one_shot" in study.controls and number > 1:  # after one round it is the ticket
            train("one_shot")(params, at_once(study, tickets[0].trained, ticket.masks), number)
    if "continued" in study.controls and at:
        rows = iterative_pruning(
            train("continued"), params, rounds=max(at), prune=prune, rewind="none", done=tickets[0]
        )
        for _ in rows:
            pass
    return tickets


def random_control(seeds: int, number: int, masks: Any) -> Any:
    """Random masks with a ticket's counts, others for each seed and round.

    Args:
      seeds: Number of seeds.
      number: Of the round.
      masks: The ticket's, with a seed axis.

    Returns:
      Masks like them.
    """
    key = jax.random.fold_in(jax.random.key(_RANDOM_STREAM), number)
    return _random_masks(jax.random.split(key, seeds), masks)


_random_masks = jax.jit(jax.vmap(random_masks_like))


def at_once(study: Study, trained: Any, masks: Any) -> Any:
    """Masks with a ticket's counts, pruned from the dense network in one step.

    Args:
      study: The study, for its scope.
      trained: Trained dense weights, with a seed axis.
      masks: The ticket's, likewise.

    Returns:
      Masks like them.
    """

    return _at_once(trained, masks, study.scope == "layer")


@functools.partial(jax.jit, static_argnums=2)
def _at_once(trained: Any, masks: Any, by_layer: bool) -> Any:
    def one(params: Any, masks: Any) -> Any:
        counts = map_masks(lambda mask: mask.sum(dtype=jnp.int32), masks)
        counts = counts if by_layer else sum(jax.tree.leaves(counts))
        return tree_top_k_masks(map_masks(lambda mask, w: jnp.abs(w), masks, params), counts)

    return jax.vmap(one)(trained, masks)
