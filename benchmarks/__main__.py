"""Selection against a full argsort, and a training step against the bare optimizer.

``python -m benchmarks [--out FOLDER]`` prints one table and writes it as Markdown and JSON.
"""

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxsparse

from .baseline import argsort_mask


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure and where to write it."""

    sizes: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Scores ranked at once."""
    repeats: int = 5
    """Runs of each, of which the median counts."""
    out: pathlib.Path = pathlib.Path(__file__).parent / "results"
    """Folder of the table."""


def median_seconds(functions: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median time of each function, taken in turns so that all see the same machine.

    Args:
      functions: Each returns JAX arrays.
      repeats: Runs of each.

    Returns:
      Seconds, one a function.
    """
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        jax.block_until_ready(function())
    for _ in range(repeats):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def selection_rows(sizes: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Exact top-k masks of 10 % against argsort and ``numpy.partition``.

    Args:
      sizes: Numbers of scores.
      repeats: Runs of each.

    Returns:
      One row a size.
    """
    rows = []
    ours = jax.jit(lambda x: jaxsparse.top_k_mask(x, x.size // 10))
    theirs = jax.jit(lambda x: argsort_mask(x, 0.1))
    for size in sizes:
        scores = jnp.abs(jax.random.normal(jax.random.key(0), (size,)))
        host = np.asarray(scores)
        cut = size - size // 10
        functions = [
            lambda x=scores: ours(x),
            lambda x=scores: theirs(x),
            lambda x=host, k=cut: np.partition(x, k),
        ]
        fast, slow, partition = median_seconds(functions, repeats)
        rows.append(
            {
                "what": f"top_k_mask, {size:,} float32",
                "jaxsparse": fast,
                "baseline": slow,
                "ratio": slow / fast,
                "note": f"{fast / partition:.1f}x the time of numpy.partition",
            }
        )
    return rows


def step_row(repeats: int) -> dict[str, Any]:
    """A step between updates against the same step with the bare optimizer (LeNet-300-100).

    Args:
      repeats: Runs of each.

    Returns:
      A row whose ratio is the overhead.
    """
    sizes = (784, 300, 100, 10)
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [
        {"kernel": jax.random.normal(k, (a, b)) / a**0.5, "bias": jnp.zeros((1, b))}
        for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
    ]
    images, labels = jax.random.normal(keys[-1], (128, 784)), jnp.arange(128) % 10

    def loss_fn(params: Any) -> jax.Array:
        x = images
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def many(tx: optax.GradientTransformation) -> Callable[[], Any]:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=90)[0])
        carry = (params, tx.init(params))
        return lambda: run(carry)

    # Ninety steps from step 0 on: the first update would come at step 100.
    sparse = jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.rigl(0.9))
    ours, bare = median_seconds([many(sparse), many(optax.adam(1e-3))], repeats)
    return {
        "what": "LeNet-300-100 step between RigL updates, adam, batch 128",
        "jaxsparse": ours / 90,
        "baseline": bare / 90,
        "ratio": ours / bare,
        "note": "overhead: 1 is none",
    }


def main(arguments: Arguments) -> None:
    """Measure, print, write.

    Args:
      arguments: The command line.
    """
    rows = [*selection_rows(arguments.sizes, arguments.repeats), step_row(arguments.repeats)]
    cells = [("what", "jaxsparse", "baseline", "ratio", "")]
    cells += [
        (
            row["what"],
            f"{1e3 * row['jaxsparse']:.2f} ms",
            f"{1e3 * row['baseline']:.2f} ms",
            f"{row['ratio']:.2f}",
            row["note"],
        )
        for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    device = jax.devices()[0]
    name = platform.machine() if device.platform == "cpu" else device.device_kind
    machine = f"{device.platform}-{name}-{os.cpu_count()}cores".replace(" ", "-").lower()
    head = f"# {machine}\n\n`python -m benchmarks`, jax {jax.__version__}, medians of "
    page = f"{head}{arguments.repeats}.\n\n" + "\n".join(lines) + "\n"
    print(page)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{machine}.md").write_text(page)
    (arguments.out / f"{machine}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
