"""Every method of the registry in training: what all files of the contract share, compiled once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import ALGORITHMS, MaskAlgorithm, SparsityState

STEPS = 40
RATE = 0.125


def build(name: str) -> MaskAlgorithm:
    factory, small, *_ = ALGORITHMS[name]
    return factory(**small)


def random_tree(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    """645 weights in three sparse layers, 32 in two dense leaves."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return {
        "Conv_0": {"bias": draw(16), "kernel": draw(3, 3, 4, 8)},
        "Dense_0": {"kernel": draw(12, 16)},
        "Dense_1": {"kernel": draw(15, 11)},
        "LayerNorm_0": {"scale": draw(16)},
    }


@functools.cache
def gradients(stream: int = 0) -> list[dict[str, Any]]:
    return [random_tree(1000 * (stream + 1) + step) for step in range(STEPS)]


def clipped() -> optax.GradientTransformation:
    """All that may meet in a chain: one that skips bad steps, and slots that do not start at 0."""
    inner = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_rss(initial_accumulator_value=0.1),
        optax.adamw(1e-2, weight_decay=1e-2),
    )
    return optax.apply_if_finite(inner, 5)


class Step:
    """A compiled training step that counts how often it was traced."""

    def __init__(self, inner: optax.GradientTransformation, method: MaskAlgorithm) -> None:
        self.tx, self.traces = jaxsparse.sparsify(inner, method), 0
        tx = self.tx

        def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            self.traces += 1
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        def init(params: Any, seed: Any) -> SparsityState:
            return jaxsparse.sparsify(inner, method, seed=seed).init(params)

        self.plain, self.compiled, self.init = step, jax.jit(step), jax.jit(init)


@functools.cache
def stepper(name: str) -> Step:
    return Step(clipped(), build(name))


@functools.cache
def plain(name: str) -> Step:
    """Plain SGD. The rate is a power of two: its products are exact, fused with a sum or not."""
    return Step(optax.sgd(RATE), build(name))


class Run(NamedTuple):
    params: list[Any]
    states: list[SparsityState]


@functools.cache
def run(name: str, seed: int = 0, stream: int = 0) -> Run:
    """Parameters and states before the first step and after each of the 40."""
    params = random_tree(stream)
    state = stepper(name).init(params, seed)
    result = Run([params], [state])
    for grads in gradients(stream):
        params, state = stepper(name).compiled(params, state, grads)
        result.params.append(params)
        result.states.append(state)
    return result


@functools.cache
def due_steps(name: str) -> list[int]:
    due = build(name).due
    return [] if due is None else [step for step in range(STEPS) if due(step)]


@functools.cache
def pure(name: str) -> tuple[Any, Any]:
    """The algorithm's own functions, compiled; no optimizer anywhere."""
    return jax.jit(build(name).init), jax.jit(build(name).update)


def leaves(masks: Any, *trees: Any) -> list[tuple[Any, ...]]:
    """The leaves that have a mask, as NumPy arrays."""
    marks, structure = jax.tree.flatten(
        masks, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    rows = zip(marks, *[structure.flatten_up_to(tree) for tree in trees], strict=True)
    return [tuple(map(np.asarray, row)) for row in rows if not isinstance(row[0], optax.MaskedNode)]


def kept(masks: Any) -> int:
    """Kept weights of the layers that may be sparse; one without a mask keeps all."""
    chosen = jax.tree_util.tree_map_with_path(
        lambda path, leaf, mask: (
            0
            if not jaxsparse.default_where(jax.tree_util.keystr(path), leaf)
            else leaf.size
            if isinstance(mask, optax.MaskedNode)
            else int(np.sum(mask))
        ),
        random_tree(0),
        masks,
    )
    return sum(jax.tree.leaves(chosen))


def off_mask(params: Any, state: Any) -> int:
    """Weights of the network, as it is used later, that are not zero off the mask."""
    weights = jaxsparse.forward_params(params, state, training=False)
    masks = jaxsparse.masks_of(state)
    return sum(int(np.sum((weight != 0) & ~mask)) for mask, weight in leaves(masks, weights))


def planned(name: str) -> bool:
    """Do counts follow from shapes and the step alone?"""
    return not build(name).learned


def same(first: Any, second: Any) -> bool:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def signature(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)


def forget() -> None:
    """Let all programs go."""
    for cached in (stepper, plain, run, due_steps, pure):
        cached.cache_clear()
    jax.clear_caches()
