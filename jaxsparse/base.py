"""The vocabulary: what a mask, a score, a schedule, a distribution and an algorithm are."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

Params: TypeAlias = PyTree
"""Any pytree of arrays: nested dicts, linen or nnx states, Equinox modules, Haiku parameters."""

Masks: TypeAlias = PyTree
"""Like the parameters: bool arrays, True = kept; ``optax.MaskedNode()`` where a leaf is dense."""

Memory: TypeAlias = PyTree
"""What an algorithm carries from step to step besides its masks; ``()`` where it has nothing."""

Where: TypeAlias = Callable[[str, Any], bool]
"""``where(path, leaf)``: may this leaf be sparse? The path is ``"/"``-joined key names."""

Schedule: TypeAlias = Callable[[Any], Any]
"""``step -> value``; every optax schedule is one. A condition is a schedule of booleans."""

ScalarOrSchedule: TypeAlias = float | Schedule

Scope: TypeAlias = Literal["layer", "global"]
"""Does every leaf have its own budget, or do leaves compete for the sum?"""


@runtime_checkable
class Score(Protocol):
    """Rank the weights of one leaf: ``(key, weight, grad, mask, memory) -> score``, like weight.

    Larger is kept (when dropping) or taken (when growing). ``memory`` is this leaf's part of the
    algorithm's memory, ``None`` where it has none.
    """

    def __call__(self, key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Array:
        """Score one leaf; what a score does not read may be None."""
        ...


class Rows(NamedTuple):
    """What an update knows of each sparse leaf, after the drop.

    Attributes:
      weights: One array a leaf.
      grads: Dense gradients.
      masks: What is left of the masks, in units.
      memory: Each leaf's part of the memory; ``None`` where there is none.
      sizes: Units of each leaf (of each of its groups).
    """

    weights: list[Array]
    grads: list[Array]
    masks: list[Array]
    memory: list[Any]
    sizes: list[int]


Allocate: TypeAlias = Callable[[Any, Any, Rows], Any]
"""``(budgets, held, rows) -> budgets``: int32 vectors, a number a leaf. ``held`` are left after the
drop. With groups (``fan_in``): lists with an array of numbers a leaf, one a group; a group
that holds more than its new budget is cut to it."""


@runtime_checkable
class Forward(Protocol):
    """A memory that says what the loss is evaluated at: that of every method with dense weights.

    (A ``NamedTuple`` with this method: the state is data, and its type says what it means. It may
    have another one, ``initial(params, masks)``: of which parameters these are the weights.)
    """

    def forward(self, key: chex.PRNGKey, params: Params, masks: Masks, training: bool) -> Params:
        """Weights of the forward pass; ``key`` is that of the step, and read only in training."""
        ...


@runtime_checkable
class Distribution(Protocol):
    """Share a sparsity out over layers: ``(params, sparsity, *, where) -> kept counts``.

    The result is like ``params``: Python ints, ``optax.MaskedNode()`` where a leaf is dense.
    Only paths, shapes and dtypes are read, so ``params`` may hold ``ShapeDtypeStruct`` leaves.
    """

    def __call__(self, params: Params, sparsity: float, *, where: Where) -> PyTree:
        """Count what each leaf keeps."""
        ...


class UpdateInfo(NamedTuple):
    """What drop/grow did. An algorithm reports one update; ``sparsify`` carries the latest one.

    Attributes:
      kept: int32, the weights kept in each sparse leaf, in the order of ``sparse_paths(masks)``;
        a single 0 if there is none (orbax saves no empty arrays). (Not a pytree like the masks:
        boxed parameters would put a scalar into a matrix's box.)
      dropped: int32 scalar, weights that the latest update removed, over all leaves.
      grown: int32 scalar, weights that the latest update added, over all leaves.
      updates: int32 scalar, drop/grow updates done (1 or 0 in one report, the sum when carried).
      skipped: int32 scalar, updates skipped because a gradient, a weight or a score was not
        finite (1 or 0 in one report, the sum when carried).
    """

    kept: Int[Array, "... leaves"]
    dropped: Int[Array, "..."]
    grown: Int[Array, "..."]
    updates: Int[Array, "..."]
    skipped: Int[Array, "..."]


class Regrowth(NamedTuple):
    """What newly grown weights start from: two pytrees like the masks.

    Attributes:
      values: The value of a grown weight: an array like the weight, or a scalar.
      slots: What is added to the inner optimizer's own initial value in the optimizer slots of a
        grown weight: an array or a scalar; ``optax.MaskedNode()`` leaves the slots as they are.
    """

    values: PyTree
    slots: PyTree


def never(step: Any) -> Any:
    """A condition that never holds.

    Args:
      step: int32 step, an array of steps, or a Python int.

    Returns:
      False, shaped like ``step``.

    Example:
      >>> bool(never(100))
      False
    """
    return jnp.zeros(jnp.shape(step), bool)


def always(step: Any) -> Any:
    """A condition that always holds.

    Args:
      step: int32 step, an array of steps, or a Python int.

    Returns:
      True, shaped like ``step``.

    Example:
      >>> bool(always(100))
      True
    """
    return jnp.ones(jnp.shape(step), bool)


def remember_nothing(
    memory: Memory, masks: Masks, params: Params, grads: Params, step: Any
) -> Memory:
    """The memory of an algorithm that has none.

    Args:
      memory: ``()``.
      masks: Unused.
      params: Unused.
      grads: Unused.
      step: Unused.

    Returns:
      ``()``.

    Example:
      >>> remember_nothing((), {}, {}, {}, 0)
      ()
    """
    del masks, params, grads, step
    return memory


def start_nothing(masks: Masks, params: Params) -> Memory:
    """The initial memory of an algorithm that has none.

    Args:
      masks: Unused.
      params: Unused.

    Returns:
      ``()``.

    Example:
      >>> start_nothing({}, {})
      ()
    """
    del masks, params
    return ()


class MaskAlgorithm(NamedTuple):
    """A sparse-training method: a small tuple of pure functions over masks.

    ``init`` and ``update`` are all that is needed to use one by hand; ``sparsify`` reads the rest.

    Attributes:
      init: ``(key, params) -> masks``. Reads shapes only: abstract parameters will do.
      update: ``(key, masks, params, grads, step, memory=()) -> (masks, UpdateInfo)``: drop and
        grow now, whatever ``due`` says. Masks stay as they are where a number is not finite.
      due: ``step -> bool``: at which steps the masks change. ``None``: at none, ever.
      pauses: ``step -> bool``: at which of these the inner optimizer stands still.
      regrow: ``(key, masks, params, grads, memory=()) -> Regrowth``; ``None``: zeros and initial
        slots.
      start: ``(masks, params) -> memory``.
      remember: ``(memory, masks, params, grads, step) -> memory``, called at every step, before
        ``update``.
      dense_gradients: ``step -> bool``: at which steps gradients of absent weights are read: the
        quantity that training FLOPs depend on.
      backward: ``(key, masks, params, grads, step, memory) -> (grads, memory)``: what the inner
        optimizer gets, and what trains the memory; ``None``: the gradients as they are.
      dense_weights: Do the weights stay dense, behind a sparse forward pass? Then ``start``
        makes a ``Forward``, the masks move after training, by the weights that come out, and
        ``forward_params`` has the zeros.
      trains: ``(masks, params, memory) -> masks``: which dense weights may move at all, whatever
        the inner optimizer says of the others (momentum, weight decay); ``None``: all.
      reads: ``(masks, params, memory, step) -> masks``: of which weights a step reads gradients,
        where ``dense_gradients`` does not say it for all leaves alike (``gradients_read``).
      learned: Do the counts follow from what is trained, and not from a budget?
      choose: ``(key, params, score) -> masks``: the first masks as ``init`` makes them, by a score
        where that goes by chance; ``None``: nothing is left to chance. See ``keep_largest``.
    """

    init: Callable[[chex.PRNGKey, Params], Masks]
    update: Callable[..., tuple[Masks, UpdateInfo]]
    due: Schedule | None = None
    pauses: Schedule = never
    regrow: Callable[..., Regrowth] | None = None
    start: Callable[[Masks, Params], Memory] = start_nothing
    remember: Callable[[Memory, Masks, Params, Params, Any], Memory] = remember_nothing
    dense_gradients: Schedule = never
    backward: Callable[..., tuple[Params, Memory]] | None = None
    dense_weights: bool = False
    trains: Callable[[Masks, Params, Memory], Masks] | None = None
    reads: Callable[[Masks, Params, Memory, Any], Masks] | None = None
    learned: bool = False
    choose: Callable[..., Masks] | None = None


def gradients_read(
    algorithm: MaskAlgorithm, masks: Masks, params: Params, memory: Memory, step: Any
) -> Masks:
    """Of which weights a step reads the gradients: what its cost depends on.

    Args:
      algorithm: The method.
      masks: Those of the step's forward pass.
      params: Pytree of arrays.
      memory: The method's, as ``remember`` returned it at this step.
      step: int32 step or a Python int.

    Returns:
      Like ``masks``: all weights where gradients of absent ones are read, else those that train.

    Example:
      >>> import jax.numpy as jnp, jaxsparse
      >>> masks = {"w": jnp.array([True, False])}
      >>> read = lambda step: gradients_read(jaxsparse.rigl(0.5), masks, masks, (), step)["w"]
      >>> read(100).tolist(), read(101).tolist()
      ([True, True], [True, False])
    """
    if algorithm.reads is not None:
        return algorithm.reads(masks, params, memory, step)
    trained = algorithm.trains(masks, params, memory) if algorithm.trains else masks
    everything = algorithm.dense_gradients(step)
    return jax.tree.map(lambda mask: mask | everything, trained)


class Structure(NamedTuple):
    """A granularity: how weights are pooled into the units that are kept or dropped together.

    Attributes:
      name: For messages.
      check: ``(path, shape) -> None``; raises ``ValueError`` where it does not fit.
      unit: ``shape -> int``, the weights in one unit.
      pool: ``score -> unit scores``, the sum over each unit.
      expand: ``(unit mask, shape) -> mask`` of that shape.
      group_axes: ``ndim -> axes`` of the pooled array along which every group keeps the same
        number of units; ``None``: the leaf is one group.
      density: Fraction of weights that the structure itself prescribes; ``None``: any.
      local: Is no group ever spread over devices?
    """

    name: str
    check: Callable[[str, tuple[int, ...]], None]
    unit: Callable[[tuple[int, ...]], int]
    pool: Callable[[Array], Array]
    expand: Callable[[Bool[Array, "..."], tuple[int, ...]], Bool[Array, "..."]]
    group_axes: Callable[[int], tuple[int, ...]] | None = None
    density: float | None = None
    local: bool = False


def evaluate(value: ScalarOrSchedule | Array, step: Any) -> jax.Array:
    """The value of a scalar or a schedule at a step.

    Args:
      value: A number, also a traced one, or ``step -> number``.
      step: int32 step or a Python int.

    Returns:
      float32 scalar.

    Example:
      >>> float(evaluate(lambda step: step / 4, 1))
      0.25
    """
    return jnp.asarray(value(step) if callable(value) else value, jnp.float32)
