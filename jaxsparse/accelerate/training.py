"""Drop and grow on packed parameters: the same algorithms, the same masks, a tenth of the state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from jaxsparse._held import held_update
from jaxsparse._tree import flatten_with_paths, is_dense
from jaxsparse.accelerate.packing import (
    complete,
    is_leaf,
    map_packed,
    masks_of_topology,
    no_topology,
    pack_like,
    unpack,
)
from jaxsparse.accelerate.topology import (
    Topology,
    fullest,
    moved,
    over_values,
    reordered,
    taken,
    topology_of,
)
from jaxsparse.base import (
    MaskAlgorithm,
    Masks,
    Params,
    Schedule,
    UpdateInfo,
    never,
    remember_nothing,
    start_nothing,
)
from jaxsparse.forward import step_key
from jaxsparse.slots import reset_slots


class PackedState(NamedTuple):
    """What packed training carries, beside the values.

    Attributes:
      sparse_step: int32 scalar, steps so far.
      seed: uint32 scalar; randomness is that of ``sparsify`` with this seed.
      topology: Where the values belong: a ``Topology`` a packed leaf.
      info: The latest ``UpdateInfo``; ``updates`` and ``skipped`` are sums since the start.
      inner_state: State of the inner optimizer: its slots are shaped like the values.
    """

    sparse_step: Int[Array, ""]
    seed: Int[Array, ""]
    topology: PyTree
    info: UpdateInfo
    inner_state: optax.OptState

    @property
    def masks(self) -> Masks:
        """The masks, like dense parameters: what ``masks_of`` finds in any state."""
        return masks_of_topology(self.topology)

    @property
    def memory(self) -> tuple[()]:
        """None: ``forward_params`` of packed parameters is the identity."""
        return ()


class PackedOptimizer(NamedTuple):
    """An optimizer of packed parameters: a small tuple of pure functions.

    Attributes:
      init: ``(packed, topology) -> PackedState``.
      update: ``(grads, state, packed) -> (updates, state)``: a step between updates, from the
        gradients of the packed values.
      move: ``(dense_grads, state, packed) -> (updates, state)``: a step at which ``due`` holds,
        from the gradients of the dense weights (``unpack(packed, state.topology)``): drop, grow,
        hand the slots over, and train, unless the algorithm pauses then.
      shrink: ``(packed, state) -> (packed, state)``, outside of jit: without the slots that no
        column needs any more, so that gradual pruning pays while it prunes. The steps are compiled
        anew for the new shapes: call it a few times over a training.
      due: ``step -> bool``; ``None``: the masks never move.
    """

    init: Callable[[Params, PyTree], PackedState]
    update: Callable[..., tuple[Params, PackedState]]
    move: Callable[..., tuple[Params, PackedState]]
    shrink: Callable[[Params, PackedState], tuple[Params, PackedState]]
    due: Schedule | None


def packed_optimizer(
    inner: optax.GradientTransformation, algorithm: MaskAlgorithm, *, seed: int = 0
) -> PackedOptimizer:
    """Train packed parameters: ``sparsify(inner, algorithm, seed=seed)`` on kept values alone.

    Between updates nothing has the size of the dense weights. At an update one dense copy of the
    weights, their dense gradient and masks are made for the algorithm and thrown away again; a
    dropped slot is handed to a grown unit, its value and its optimizer slots reset. Topology and
    loss are those of masked training, up to the rounding of sums.

    Args:
      inner: An elementwise optax optimizer, as it is (``adam``, ``sgd``, ``chain`` with clipping).
      algorithm: A method that reads weights, gradients and masks alone, with a budget: ``rigl``,
        ``sparse_evolutionary``, ``gradual_magnitude``, ``static``, ...; its structure must be
        that of the topology.
      seed: Whole number in [0, 2^32).

    Returns:
      A ``PackedOptimizer``.

    Raises:
      ValueError: if the algorithm needs dense weights or a memory, or ``seed`` is out of range.

    Example:
      >>> method = jaxsparse.rigl(0.5, structure=jaxsparse.block(2, 2, balanced=True))
      >>> params = {"kernel": jnp.ones((8, 8))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> packed, topology = jaxsparse.accelerate.pack(params, masks, block=(2, 2))
      >>> optimizer = packed_optimizer(optax.adam(1e-3), method)
      >>> state = optimizer.init(packed, topology)
      >>> updates, state = optimizer.update(packed, state, packed)
      >>> updates["kernel"].shape
      (4, 2, 2, 2)
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; give a whole number in [0, 2**32)")
    _check(algorithm)
    inner = optax.with_extra_args_support(inner)

    def init(packed: Params, topology: PyTree) -> PackedState:
        topology = complete(packed, topology)
        _check_budgets(algorithm, packed, topology)
        zero = lambda: jnp.zeros((), jnp.int32)
        kept = [_kept(leaf) for leaf in _topologies(topology)]
        info = UpdateInfo(
            jnp.stack(kept) if kept else jnp.zeros(1, jnp.int32), zero(), zero(), zero(), zero()
        )
        return PackedState(zero(), jnp.uint32(seed), topology, info, inner.init(packed))

    def after(state: PackedState, **changes: Any) -> PackedState:
        return state._replace(sparse_step=optax.safe_increment(state.sparse_step), **changes)

    def update(
        grads: Params, state: PackedState, packed: Params, **extra: Any
    ) -> tuple[Params, PackedState]:
        updates, inner_state = inner.update(grads, state.inner_state, packed, **extra)
        # An empty slot stays zero, whatever the optimizer adds.
        held = lambda t, u: jnp.where(over_values(t, t.present), u, 0)
        updates = map_packed(held, state.topology, updates)
        return updates, after(state, inner_state=inner_state)

    def move(
        dense_grads: Params, state: PackedState, packed: Params, **extra: Any
    ) -> tuple[Params, PackedState]:
        step, before = state.sparse_step, state.topology
        masks, dense = masks_of_topology(before), unpack(packed, before)
        key = step_key(state.seed, step)
        masks, latest = algorithm.update(key, masks, dense, dense_grads, step)
        marks, tree = jax.tree.flatten(before, is_leaf=is_leaf)
        rows = zip(marks, jax.tree.leaves(masks, is_leaf=is_dense), strict=True)
        pairs = [(t, t) if is_dense(t) else moved(t, mask) for t, mask in rows]
        topology = jax.tree.unflatten(tree, [new for new, _ in pairs])
        same = jax.tree.unflatten(tree, [stays for _, stays in pairs])

        # What stays is trained; what has grown starts from zero, with the slots of a new weight.
        by_value = lambda t, stays: jnp.broadcast_to(over_values(t, stays), t.values_shape)
        stays = _map_topology(by_value, topology, same)
        grads = pack_like(dense_grads, topology)
        grads = map_packed(lambda t, g, s: jnp.where(s, g, 0), topology, grads, stays)
        train = lambda inner_state: inner.update(grads, inner_state, packed, **extra)
        moves = latest.updates > 0
        if algorithm.pauses is never:
            updates, inner_state = train(state.inner_state)
        else:
            paused = algorithm.pauses(step) & moves
            updates, inner_state = held_update(train, state.inner_state, paused)
        updates = map_packed(
            lambda t, u, s, p: jnp.where(s, u, -p.astype(u.dtype)), topology, updates, stays, packed
        )
        zeros = _map_topology(lambda t, x: 0.0, topology, packed)
        inner_state = reset_slots(inner, inner_state, packed, stays, zeros)
        info = jax.tree.map(lambda new, old: jnp.where(moves, new, old), latest, state.info)
        info = info._replace(
            updates=state.info.updates + latest.updates,
            skipped=state.info.skipped + latest.skipped,
        )
        return updates, after(state, topology=topology, info=info, inner_state=inner_state)

    def shrink(packed: Params, state: PackedState) -> tuple[Params, PackedState]:
        each = lambda f, *trees: jax.tree.map(
            lambda t, *rest: t if is_dense(t) else f(t, *rest), *trees, is_leaf=is_leaf
        )
        order = each(fullest, state.topology)
        topology = each(reordered, state.topology, order)
        take = lambda t, x, o: taken(x, o)
        slots = optax.tree_map_params(
            inner,
            lambda slot, o: slot if is_dense(o) else taken(slot, o),
            state.inner_state,
            order,
            is_leaf=is_dense,
        )
        packed = map_packed(take, state.topology, packed, order)
        return packed, state._replace(topology=topology, inner_state=slots)

    return PackedOptimizer(init, update, move, shrink, algorithm.due)


def train_step(
    loss_fn: Callable[..., Any], optimizer: PackedOptimizer, *, has_aux: bool = False
) -> Callable[..., tuple[Params, PackedState, Any]]:
    """A training step, to be jitted, that takes dense gradients only where masks move.

    Args:
      loss_fn: ``(params, topology, *batch) -> loss``, for packed parameters and their topology,
        and for dense ones with ``optax.MaskedNode()`` everywhere: what ``accelerate.matmul`` and
        the layers take. For a model that knows of neither: ``unpack(params, topology)`` is dense.
      optimizer: From ``packed_optimizer``.
      has_aux: Does the loss come with something else, ``(loss, aux)``?

    Returns:
      ``(packed, state, *batch, moves=None) -> (packed, state, loss)``; the loss is what ``loss_fn``
      returned. ``moves`` says, as a static argument, whether this is a step at which masks move
      (``optimizer.due(step)``): two programs, of which only one ever holds dense gradients.
      ``None`` is one program with both in it.

    Example:
      >>> method = jaxsparse.static(0.5, structure=jaxsparse.block(2, 2, balanced=True))
      >>> params = {"kernel": jnp.ones((4, 4))}
      >>> masks = method.init(jax.random.key(0), params)
      >>> params, topology = jaxsparse.accelerate.pack(params, masks, block=(2, 2))
      >>> optimizer = packed_optimizer(optax.sgd(0.1), method)
      >>> loss = lambda params, topology, x: (unpack(params, topology)["kernel"] * x).sum()
      >>> step = jax.jit(train_step(loss, optimizer))
      >>> params, state, value = step(params, optimizer.init(params, topology), 1.0)
      >>> float(value)
      8.0
    """
    evaluate = jax.value_and_grad(loss_fn, has_aux=has_aux)

    def between(params: Params, state: PackedState, *batch: Any) -> tuple[Params, PackedState, Any]:
        value, grads = evaluate(params, state.topology, *batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def moving(params: Params, state: PackedState, *batch: Any) -> tuple[Params, PackedState, Any]:
        dense = unpack(params, state.topology)
        value, grads = evaluate(dense, no_topology(state.topology), *batch)
        updates, state = optimizer.move(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def step(
        params: Params, state: PackedState, *batch: Any, moves: bool | None = None
    ) -> tuple[Params, PackedState, Any]:
        if optimizer.due is None or moves is False:
            return between(params, state, *batch)
        if moves:
            return moving(params, state, *batch)
        due = optimizer.due(state.sparse_step)
        return jax.lax.cond(due, moving, between, params, state, *batch)

    return step


def _check(algorithm: MaskAlgorithm) -> None:
    """Raise unless weights, gradients and masks are all that an algorithm reads."""
    needs = {
        "dense weights behind a sparse forward pass": algorithm.dense_weights,
        "gradients of its own": algorithm.backward is not None,
        "a memory of dense arrays": algorithm.remember is not remember_nothing
        or algorithm.start is not start_nothing,
        "values of its own for grown weights": algorithm.regrow is not None,
        "masks of any size": algorithm.learned,
    }
    for what, is_so in needs.items():
        if is_so:
            raise ValueError(
                f"the algorithm needs {what}, which packed parameters do not have; train it with "
                "sparsify, and pack its masks afterwards"
            )


def _check_budgets(algorithm: MaskAlgorithm, packed: Params, topology: PyTree) -> None:
    """Raise unless there are slots for all that the algorithm keeps, in its units."""
    shapes = map_packed(lambda t, x: jax.ShapeDtypeStruct(t.shape, x.dtype), topology, packed)
    masks = algorithm.init(jax.random.key(0), shapes)
    leaves, _ = flatten_with_paths(packed)
    rows = zip(leaves, _leaves(topology), jax.tree.leaves(masks, is_leaf=is_dense), strict=True)
    for (path, _), own, mask in rows:
        if is_dense(own) != is_dense(mask):
            how = ("dense", "masked by") if is_dense(own) else ("packed", "dense under")
            raise ValueError(
                f"{path} is {how[0]}, but {how[1]} the algorithm; pack the masks that its init "
                "makes, or choose its leaves with where="
            )
        if not is_dense(own) and not isinstance(mask, Tracer):
            topology_of(path, mask, own.block, own.balanced, own.indices.shape[-1])


def _leaves(topology: PyTree) -> list[Any]:
    return jax.tree.leaves(topology, is_leaf=is_leaf)


def _topologies(tree: PyTree) -> list[Topology]:
    return [leaf for leaf in _leaves(tree) if not is_dense(leaf)]


def _kept(topology: Topology) -> Array:
    height, width = topology.block
    return jnp.sum(topology.present, dtype=jnp.int32) * (height * width)


def _map_topology(f: Callable[..., Any], topology: PyTree, *trees: PyTree) -> PyTree:
    """Map over packed leaves, as they lie in the first tree; a mark for the others."""
    packed = map_packed(f, topology, *trees)
    leaves, tree = jax.tree.flatten(packed, is_leaf=is_dense)
    marks = _leaves(topology)
    chosen = [mark if is_dense(mark) else x for mark, x in zip(marks, leaves, strict=True)]
    return jax.tree.unflatten(tree, chosen)
