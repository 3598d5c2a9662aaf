"""Ten thousand drop/grow updates under adversarial gradients: ``python -m benchmarks.soak``.

Every method of the registry that moves its masks does so at every step, in compiled calls of many
steps. Gradients are zeros, equal, huge, tiny, alternating, -0.0, or hold a NaN or an infinity.
Each step is checked inside the compiled call; a run of harmless gradients says what the counts must
be. The exit code is 1 if an invariant was broken.
"""

import dataclasses
import inspect
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro

import jaxsparse
from experiments.tables import aligned_markdown
from experiments.train import environment
from jaxsparse import ALGORITHMS, MaskAlgorithm

HARMLESS = 0
KINDS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "random": lambda key, w, sign: jax.random.normal(key, w.shape),
    "zeros": lambda key, w, sign: jnp.zeros_like(w),
    "minus zeros": lambda key, w, sign: jnp.full_like(w, -0.0),
    "equal": lambda key, w, sign: jnp.ones_like(w),
    "huge": lambda key, w, sign: jnp.full_like(w, 1e38) * sign,
    "tiny": lambda key, w, sign: jnp.full_like(w, 1e-45),
    "alternating": lambda key, w, sign: jnp.where(w == 0, sign, -sign),
    "huge and mixed": lambda key, w, sign: 1e37 * jax.random.normal(key, w.shape),
    "one NaN": lambda key, w, sign: _with_one(jnp.nan, w),
    "one infinity": lambda key, w, sign: _with_one(jnp.inf, w) * sign,
}
"""Name -> ``(key, weight, sign) -> gradient``; the sign is that of the step."""
BAD = tuple(i for i, kind in enumerate(KINDS) if kind in ("one NaN", "one infinity"))


class Checks(NamedTuple):
    """What each step says of itself.

    Attributes:
      off: Weights that are not zero off the mask, in the forward pass.
      odd: Numbers of weights and of the optimizer's state that are not finite.
      disturbed: Mask entries that changed although a gradient was not finite.
      miscounted: Leaves whose mask has another count than the report says.
      kept: Kept weights in all sparse leaves.
      info: ``UpdateInfo``.
    """

    off: Any
    odd: Any
    disturbed: Any
    miscounted: Any
    kept: Any
    info: Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one method did; all but the first seven are violations, 0 if all is well."""

    method: str
    steps: int
    updates: int
    skipped: int
    dropped: int
    grown: int
    seconds: float
    nonzero_off_mask: int
    not_finite: int
    disturbed_masks: int
    wrong_reports: int
    wrong_counts: int
    wrong_skips: int
    wrong_steps: int
    recompilations: int

    @property
    def violations(self) -> dict[str, int]:
        """Name of an invariant -> how often it was broken."""
        fields = list(dataclasses.asdict(self).items())
        return dict(fields[7:])


def moving(name: str, steps: int) -> MaskAlgorithm | None:
    """A method that updates its masks at every step.

    Args:
      name: A key of ``ALGORITHMS``.
      steps: Of the run.

    Returns:
      The method, or ``None`` where it updates no more than a few times by its nature.
    """
    entry = ALGORITHMS[name]
    known = inspect.signature(entry.factory).parameters
    scheduled = "update" in known and known["update"].default is not None
    always = {"update": jaxsparse.every(1)} if scheduled else {}
    stretched = {"start": 0, "stop": steps, "interval": 1, "steps": range(steps)}
    often = {key: value for key, value in stretched.items() if key in entry.small}
    swaps = (
        {"drop_fraction": optax.cosine_decay_schedule(0.3, steps)}
        if "drop_fraction" in entry.small
        else {}
    )
    method = entry.factory(**{**entry.small, **often, **always, **swaps})
    if method.due is None or int(jnp.sum(method.due(jnp.arange(steps)))) < steps // 2:
        return None
    return method


def soak(name: str, steps: int, chunk: int) -> Outcome | None:
    """Train one method through hostile gradients.

    Args:
      name: A key of ``ALGORITHMS``.
      steps: How many, a multiple of ``chunk``.
      chunk: Steps of one compiled call.

    Returns:
      What happened, or ``None`` where the method does not move its masks at every step.
    """
    method = moving(name, steps)
    if method is None:
        return None
    began, traces = time.monotonic(), 0
    careful = optax.chain(optax.clip(1.0), optax.sgd(0.125, momentum=0.5))
    tx = jaxsparse.sparsify(optax.apply_if_finite(careful, steps), method, seed=5)

    def body(carry: Any, kind: Any) -> tuple[Any, Checks]:
        nonlocal traces
        traces += 1
        params, state = carry
        grads = _gradients(kind, state.sparse_step, params)
        updates, after = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, after), _check(params, state, after, jnp.isin(kind, jnp.array(BAD)))

    run = jax.jit(lambda carry, kinds: jax.lax.scan(body, carry, kinds))

    def whole(kinds: np.ndarray) -> tuple[Any, Checks]:
        params = _weights()
        carry, parts = (params, jax.jit(tx.init)(params)), []
        for first in range(0, steps, chunk):
            carry, checks = run(carry, jnp.asarray(kinds[first : first + chunk]))
            parts.append(jax.device_get(checks))
        return carry, jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    _, harmless = whole(np.full(steps, HARMLESS))
    kinds = np.random.default_rng(0).integers(0, len(KINDS), steps)
    (_, state), found = whole(kinds)
    bad = np.isin(kinds, BAD)
    due = np.asarray(method.due(jnp.arange(steps))) if method.due else np.zeros(steps, bool)
    # Counts are those of the latest update that took place.
    last = np.maximum.accumulate(np.where(due & ~bad, np.arange(steps), -1))
    expected = harmless.kept[np.maximum(last, 0)]
    return Outcome(
        method=name,
        steps=steps,
        updates=int(state.info.updates),
        skipped=int(state.info.skipped),
        dropped=_moved(found.info.dropped, found.info.updates),
        grown=_moved(found.info.grown, found.info.updates),
        seconds=time.monotonic() - began,
        nonzero_off_mask=int(found.off.sum() + harmless.off.sum()),
        not_finite=int(found.odd.sum()),
        disturbed_masks=int(found.disturbed.sum()),
        wrong_reports=int(found.miscounted.sum()),
        wrong_counts=0 if method.learned else int(((found.kept != expected) & (last >= 0)).sum()),
        wrong_skips=int((np.cumsum(due & bad) != found.info.skipped).sum()),
        wrong_steps=int(state.sparse_step != steps),
        recompilations=traces - 1,
    )


def _weights() -> Any:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        "Conv_0": {"bias": draw(16), "kernel": draw(3, 3, 4, 8)},
        "Dense_0": {"kernel": draw(12, 16)},
        "Dense_1": {"kernel": draw(15, 11)},
        "LayerNorm_0": {"scale": draw(16)},
    }


def _with_one(number: float, weight: Any) -> Any:
    return jnp.ones_like(weight).reshape(-1).at[0].set(number).reshape(weight.shape)


def _gradients(kind: Any, step: Any, params: Any) -> Any:
    """Of one kind in all leaves."""
    sign = jnp.where(step % 2 == 0, 1.0, -1.0)
    key = jax.random.fold_in(jax.random.key(1), step)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    of_kind = [
        lambda f=f: [f(key, w, sign) for key, w in zip(keys, leaves, strict=True)]
        for f in KINDS.values()
    ]
    return jax.tree.unflatten(tree, jax.lax.switch(kind, of_kind))


def _check(params: Any, before: Any, after: Any, bad: Any) -> Checks:
    is_dense = lambda node: isinstance(node, optax.MaskedNode)
    forward = jaxsparse.forward_params(params, after, training=False)
    marks, tree = jax.tree.flatten(after.masks, is_leaf=is_dense)
    seen = tree.flatten_up_to(forward)
    rows = [(m, w) for m, w in zip(marks, seen, strict=True) if not is_dense(m)]
    if any(mask.dtype != bool or mask.shape != w.shape for mask, w in rows):
        raise AssertionError("a mask is not bool, or not shaped like its weight")
    moved = jax.tree.map(lambda old, new: jnp.sum(old != new), before.masks, after.masks)
    counts = jnp.stack([jnp.sum(mask) for mask, _ in rows])
    floats = [
        x
        for x in jax.tree.leaves((params, after.inner_state, after.memory))
        if jnp.issubdtype(jnp.result_type(x), jnp.floating)
    ]
    return Checks(
        off=sum(jnp.sum(~mask & (weight != 0)) for mask, weight in rows),
        odd=sum(jnp.sum(~jnp.isfinite(x)) for x in floats),
        disturbed=jnp.where(bad, sum(jax.tree.leaves(moved)), 0),
        miscounted=jnp.sum(counts != after.info.kept),
        kept=jnp.sum(counts),
        info=after.info,
    )


def _moved(numbers: np.ndarray, updates: np.ndarray) -> int:
    """The sum of what updates report, each once."""
    return int(numbers[np.diff(updates, prepend=0) > 0].sum())


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown.

    Args:
      outcomes: One a method.

    Returns:
      The lines of the table.
    """
    header = ("method", "updates", "skipped", "dropped", "grown", "seconds", "violations")
    said = lambda outcome: (
        ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in outcome.violations.items() if n)
        or "none"
    )
    rows = [
        (
            outcome.method,
            f"{outcome.updates:,}",
            f"{outcome.skipped:,}",
            f"{outcome.dropped:,}",
            f"{outcome.grown:,}",
            f"{outcome.seconds:.0f}",
            said(outcome),
        )
        for outcome in outcomes
    ]
    return aligned_markdown(header, rows)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How long, what, and where to write it."""

    steps: int = 13_000
    """Steps of each method, with an update at each; a fifth of them are skipped."""
    chunk: int = 1000
    """Steps of one compiled call."""
    methods: tuple[str, ...] = tuple(ALGORITHMS)
    """Methods; those that update only a few times by their nature are left out."""
    out: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder of the table."""


def main(arguments: Arguments) -> int:
    """Soak all methods, print and write the table.

    Args:
      arguments: The command line.

    Returns:
      Exit code: 1 if an invariant was broken, else 0.
    """
    if arguments.steps % arguments.chunk:
        print(f"error: {arguments.steps} steps are no multiple of {arguments.chunk}: give others")
        return 2
    outcomes: list[Outcome] = []
    for name in rich.progress.track(arguments.methods, "soaking"):
        if (outcome := soak(name, arguments.steps, arguments.chunk)) is not None:
            outcomes.append(outcome)
            print(f"{name}: {outcome.violations}", flush=True)
        jax.clear_caches()
    about = environment()
    page = (
        f"# {about['hardware']}\n\n`python -m benchmarks.soak`: {arguments.steps:,} steps under "
        f"gradients of {len(KINDS)} kinds drawn at random ({', '.join(KINDS)}); jax "
        f"{about['jax']}, Python {about['python']}, jaxsparse {about['commit']}, "
        f"{about['date']}.\n\n{table(outcomes)}"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = jax.devices()[0].platform
    (arguments.out / f"soak-{device}.md").write_text(page)
    print(page)
    return int(any(sum(outcome.violations.values()) for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
