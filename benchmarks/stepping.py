"""Training steps against the same steps with the bare optimizer: time, memory, compilation."""

import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxsparse

from . import baseline
from .measure import Row, costs, faster, medians, seconds
from .problems import Problem, compiled_step, resnet50, small_problems, training_step

_BETWEEN = {"LeNet-300-100": 1.05, "MLP 784-2048-2048-10": 1.10, "CNN (LeNet-5)": 1.03}
_AVERAGED = {"LeNet-300-100": 1.07, "MLP 784-2048-2048-10": 1.15, "CNN (LeNet-5)": 1.05}
_EVERY = 100


def _adam() -> optax.GradientTransformation:
    return optax.adam(1e-3)


def _rigl(start: int = _EVERY) -> optax.GradientTransformation:
    update = jaxsparse.every(_EVERY, start=start, stop=start + 75_000)
    return jaxsparse.sparsify(_adam(), jaxsparse.rigl(0.9, update=update))


class _Run:
    """A training run that goes on, a few steps at a call."""

    def __init__(self, problem: Problem, tx: optax.GradientTransformation) -> None:
        self.step, self.variables, self.state = compiled_step(problem, tx)
        self.problem = problem

    def go(self, steps: int) -> Any:
        for _ in range(steps):
            self.variables, self.state = self.step(
                self.variables, self.state, self.problem.x, self.problem.labels
            )
        return self.variables


def between_rows(repeats: int) -> Iterator[Row]:
    """A step between two updates, with adam at batch 128.

    Args:
      repeats: Chunks of steps timed.

    Yields:
      A row a network, against the bare optimizer and against the field's usual way.
    """
    for problem in small_problems():
        txs = [_rigl(start=10**6), _adam(), baseline.multiplied(_adam(), 10**6, 0.3)]
        runs = [_Run(problem, tx) for tx in txs]
        chunk = problem.chunk
        times = medians([lambda r=run, n=chunk: r.go(n) for run in runs], 4 * repeats + 1)
        ours, bare, usual = [t / chunk for t in times]
        what = f"step between RigL updates, {problem.name}"
        yield costs(what, (ours, bare), f"at most {_BETWEEN[problem.name]:.2f}", "bare adam")
        yield faster(what, (ours, usual), "", "masks multiplied in")


def averaged_rows(repeats: int) -> Iterator[Row]:
    """The mean over 1,000 steps with an update at every hundredth, with adam at batch 128.

    Args:
      repeats: Not used: the ten hundreds are the repeats.

    Yields:
      A row a network.
    """
    del repeats
    for problem in small_problems():
        runs = [_Run(problem, tx) for tx in (_rigl(), _adam())]
        for run in runs:
            run.go(_EVERY // 2)
        # Every hundred holds one update of the first run; in turns, for the machine changes.
        hundreds = []
        for _ in range(10):
            times = [[seconds(lambda r=r: r.go(_EVERY // 10)) for r in runs] for _ in range(10)]
            hundreds.append([sum(own) for own in zip(*times, strict=True)])
        ours, bare = [statistics.median(own) / _EVERY for own in zip(*hundreds, strict=True)]
        what = f"step on average over 1,000, {problem.name}"
        bound = f"at most {_AVERAGED[problem.name]:.2f}"
        yield costs(what, (ours, bare), bound, f"bare adam; an update every {_EVERY}")


def _peak(compiled: Any) -> int:
    """Bytes at the peak; raises where an output shares no memory with a donated input."""
    memory = compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes


def memory_rows(repeats: int) -> Iterator[Row]:
    """Peak memory of a compiled step: the dense one's and a byte a maskable weight.

    Args:
      repeats: Not used: it is computed.

    Yields:
      A row a network; the note has what is beyond, and how much of the state is updated in place.
    """
    del repeats
    for problem in small_problems():
        yield _memory(problem, *[compiled_step(problem, tx)[0] for tx in (_rigl(), _adam())])


def _memory(problem: Problem, ours: Any, bare: Any) -> Row:
    params = problem.variables()["params"]
    weights = sum(p.size for p in jax.tree.leaves(params) if p.ndim > 1)
    allowed, peak = _peak(bare) + weights, _peak(ours)
    memory = ours.memory_analysis()
    share = memory.alias_size_in_bytes / memory.output_size_in_bytes
    note = (
        f"bare adam + 1 B a weight; {(peak - allowed) / weights:+.2f} B a weight beyond; "
        f"{share:.1%} of the output in donated memory"
    )
    what = f"peak memory of a RigL step, {problem.name}"
    return Row(what, peak / 1e6, allowed / 1e6, "MB", peak / allowed, "at most 1", note)


def compilation_rows(repeats: int) -> Iterator[Row]:
    """Time to trace and compile a step of ResNet-50, and its peak memory.

    Args:
      repeats: Not used: a third run takes minutes.

    Yields:
      Two rows.
    """
    del repeats
    problem, programs = resnet50(), {}

    def build(name: str, tx: optax.GradientTransformation) -> None:
        programs[name] = compiled_step(problem, tx)[0]

    build("warm", optax.sgd(0.1, 0.9))
    pair = {"ours": _rigl(), "bare": _adam()}
    times = [[seconds(lambda n=n: build(n, pair[n])) for n in pair] for _ in range(2)]
    ours, bare = [statistics.median(own) for own in zip(*times, strict=True)]
    note = "bare adam, median of 2"
    what = "trace and compile a RigL step, ResNet-50"
    yield Row(what, ours, bare, "s", ours / bare, "at most 1.5", note)
    yield _memory(problem, programs["ours"], programs["bare"])


def seed_rows(repeats: int) -> Iterator[Row]:
    """Eight seeds in one program, against eight runs, fifty steps of LeNet-300-100.

    Args:
      repeats: Runs of each.

    Yields:
      A row for RigL, and one for the bare optimizer: what vmapping costs by itself.
    """
    (problem, *_), seeds, steps = small_problems(), 8, 50
    update = jaxsparse.every(25, start=25, stop=10**6)
    rigl = lambda seed: jaxsparse.sparsify(_adam(), jaxsparse.rigl(0.9, update=update), seed=seed)
    what = "8 seeds in one program, LeNet-300-100"
    times = _seeds(problem, rigl, seeds, steps, repeats)
    yield costs(what, times, "at most 1", "8 runs in turn")
    times = _seeds(problem, lambda seed: _adam(), seeds, steps, repeats)
    yield costs(f"{what}, bare adam", times, "", "8 runs in turn, bare adam")


def _seeds(problem: Problem, make: Any, seeds: int, steps: int, repeats: int) -> list[float]:
    variables = problem.variables()
    init = lambda seed: (variables, make(seed).init(variables["params"]))
    one = training_step(problem, make(0))
    axes = (0, jaxsparse.vmap_axes(jax.eval_shape(init, 0)[1]))
    many = jax.vmap(one, in_axes=(*axes, None, None), out_axes=axes)
    together, alone = (jax.jit(f, donate_argnums=(0, 1)) for f in (many, one))
    own = lambda tree: jax.tree.map(jnp.copy, tree)
    carries = [own(jax.vmap(init, out_axes=axes)(jnp.arange(seeds)))]
    single = [own(init(seed)) for seed in range(seeds)]

    def run(step: Any, carry: Any) -> Any:
        for _ in range(steps):
            carry = step(*carry, problem.x, problem.labels)
        return carry

    def all_of(step: Any, states: list[Any]) -> list[Any]:
        states[:] = [run(step, state) for state in states]
        return states

    runs = [lambda: all_of(together, carries), lambda: all_of(alone, single)]
    return medians(runs, repeats)
