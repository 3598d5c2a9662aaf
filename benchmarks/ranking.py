"""Selection and drop/grow against a full argsort; structures against one pass over the weights."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import structures

from . import baseline
from .measure import Row, costs, faster, medians
from .problems import resnet50

# Largest array that the baseline sorts: beyond, it takes minutes.
_SORTED = 20_000_000
_AT_LEAST = {100_000: 15, 1_000_000: 30, 10_000_000: 40}


def _scores(size: int, dtype: Any) -> dict[str, jax.Array]:
    normal = jnp.abs(jax.random.normal(jax.random.key(0), (size,), dtype))
    chosen = jax.random.uniform(jax.random.key(1), (size,)) < 0.05
    return {
        "": normal,
        ", two values": chosen.astype(dtype),
        ", 95 % zeros": jnp.where(chosen, normal, jnp.zeros_like(normal)),
        ", all equal": jnp.ones_like(normal),
    }


def selection_rows(sizes: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Exact top-k masks of 10 % on a CPU: against argsort, and against ``numpy.partition``.

    Args:
      sizes: Numbers of scores.
      repeats: Runs of each.

    Yields:
      Rows.
    """
    ours = jax.jit(lambda x: jaxsparse.top_k_mask(x, x.size // 10))
    theirs = jax.jit(lambda x: baseline.argsort_mask(x, 0.1))
    for size in sizes:
        for kind, scores in _scores(size, jnp.float32).items():
            host, cut = np.asarray(scores), size - size // 10
            what = f"top_k_mask, {size:,} float32{kind}"
            runs = [lambda x=scores: ours(x), lambda x=host, k=cut: np.partition(x, k)]
            runs += [lambda x=scores: theirs(x)] if size <= _SORTED else []
            fast, partition, *slow = medians(runs, repeats)
            if slow:
                bound = f"at least {_AT_LEAST[size]}" if size in _AT_LEAST and not kind else ""
                yield faster(what, (fast, slow[0]), bound, "argsort")
            if not kind:
                yield costs(what, (fast, partition), "at most 4", "numpy.partition")


def device_selection_rows(sizes: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Exact top-k masks of 10 % on an accelerator: against copying the scores once.

    Args:
      sizes: Numbers of scores.
      repeats: Runs of each.

    Yields:
      Rows; the note has the bandwidth of the copy, bytes read and written.
    """
    ours = jax.jit(lambda x: jaxsparse.top_k_mask(x, x.size // 10))
    copy = jax.jit(lambda x: x + jnp.ones((), x.dtype))
    for dtype in (jnp.float32, jnp.bfloat16):
        for size in sizes:
            scores = _scores(size, dtype)[""]
            fast, once = medians([lambda x=scores: ours(x), lambda x=scores: copy(x)], repeats)
            note = f"a copy at {2 * scores.nbytes / once / 1e9:,.0f} GB/s"
            name = jnp.dtype(dtype).name
            yield costs(f"top_k_mask, {size:,} {name}", (fast, once), "at most 10", note)


def drop_grow_rows(repeats: int) -> Iterator[Row]:
    """One RigL update of all leaves of ResNet-50.

    Args:
      repeats: Runs of each.

    Yields:
      One row.
    """
    shapes = resnet50().variables()["params"]
    keys = jax.tree.unflatten(
        jax.tree.structure(shapes),
        list(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes)))),
    )
    draw = lambda key, p: jax.random.normal(key, p.shape) if p.ndim > 1 else jnp.ones(p.shape)
    # Shapes repeat, and with them the compiled programs.
    params = jax.tree.map(jax.jit(draw, static_argnums=1), keys, shapes)
    grads = jax.tree.map(lambda p: p[::-1], params)
    method = jaxsparse.rigl(0.9)
    masks = jax.jit(method.init)(jax.random.key(0), params)
    step, key = jnp.int32(100), jax.random.key(1)
    ours = jax.jit(lambda m, p, g: method.update(key, m, p, g, step)[0])
    one = jax.jit(baseline.drop_grow)
    is_dense = lambda leaf: isinstance(leaf, optax.MaskedNode)
    marks = jax.tree.leaves(masks, is_leaf=is_dense)
    leaves = zip(marks, jax.tree.leaves(params), jax.tree.leaves(grads), strict=True)
    rows = [(m.astype(p.dtype), p, g) for m, p, g in leaves if not is_dense(m)]
    theirs = lambda: [one(m, p, g, jnp.float32(0.3)) for m, p, g in rows]
    weights = sum(m.size for m, _, _ in rows)
    times = medians([lambda: ours(masks, params, grads), theirs], min(repeats, 3))
    what = f"RigL drop/grow, ResNet-50, {weights:,} weights"
    yield faster(what, times, "at least 20", "two argsorts a layer")


def structure_rows(repeats: int) -> Iterator[Row]:
    """N:M against one pass over the weights times M; the others against an argsort of weights.

    Args:
      repeats: Runs of each.

    Yields:
      Rows.
    """
    weight = jax.random.normal(jax.random.key(0), (2048, 4096))
    one_pass = jax.jit(lambda w: jnp.abs(w) > 1.0)
    for keep, of in ((2, 4), (4, 8), (8, 16)):
        shape = structures.n_m(keep=keep, of=of)
        mask = jax.jit(lambda w, s=shape, k=keep: _mask(s, w, k))
        ours, once = medians([lambda f=mask: f(weight), lambda: one_pass(weight)], repeats)
        what = f"n_m(keep={keep}, of={of}), {weight.size:,} float32"
        yield costs(what, (ours, of * once), "at most 2", f"{of} passes over the weights")
    theirs = jax.jit(lambda w: baseline.argsort_mask(jnp.abs(w), 0.25))
    for shape, k in (
        (structures.block(4, 4), weight.size // 16 // 4),
        (structures.channel(), weight.shape[-1] // 4),
        (structures.fan_in(), weight.shape[0] // 4),
    ):
        mask = jax.jit(lambda w, s=shape, k=k: _mask(s, w, k))
        times = medians([lambda f=mask: f(weight), lambda: theirs(weight)], min(repeats, 3))
        yield faster(f"{shape.name}, {weight.size:,} float32", times, "", "argsort of all weights")


def _mask(structure: jaxsparse.Structure, weight: jax.Array, k: int) -> jax.Array:
    units = structure.pool(jnp.abs(weight))
    axes = None if structure.group_axes is None else structure.group_axes(units.ndim)
    units = jaxsparse.top_k_mask(units, k, axis=axes)
    return structure.expand(units, weight.shape)
