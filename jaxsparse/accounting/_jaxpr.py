"""Count multiply-accumulates in a jaxpr, each product charged to the parameter leaf that feeds it.

Every value carries its origin: the parameter leaves it is made of, and whether data took part.
A product is charged to the leaves of its kernel; what comes out of a product is an activation.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from jax.extend import core as jex_core

from .._jaxprs import inner_jaxprs, is_call, opened

NO_LEAF = -1
"""The account of products without a parameter operand, such as attention scores."""

MACS, OUTPUTS = "multiply-accumulates", "outputs"

Costs: TypeAlias = Counter
"""By leaf position and ``MACS`` or ``OUTPUTS`` (sums that are made), in order of first use."""


class Origin(NamedTuple):
    """Where a value comes from: parameter leaves (none: constants or activations), and data."""

    leaves: tuple[int, ...] = ()
    data: bool = False


CONSTANT = Origin()
ACTIVATION = Origin(data=True)


class Counting(NamedTuple):
    """What stays the same throughout a count.

    ``padded_as_image`` are leaves whose convolutions are counted as if the padding were part of the
    image, and padded once more; ``depthwise_as_one``: is the output of a depthwise convolution one
    channel?
    """

    sizes: dict[int, int]
    while_steps: int | None
    padded_as_image: frozenset[int] = frozenset()
    depthwise_as_one: bool = False


def count(
    jaxpr: jex_core.Jaxpr, origins: Sequence[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    """Origins of the outputs, and the multiply-accumulates of one evaluation."""
    known = dict.fromkeys(jaxpr.constvars, CONSTANT) | dict(zip(jaxpr.invars, origins, strict=True))
    total: Costs = Counter()

    def read(atom: Any) -> Origin:
        return CONSTANT if isinstance(atom, jex_core.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        outputs, costs = _count_eqn(eqn, [read(atom) for atom in eqn.invars], counting)
        known.update(zip(eqn.outvars, outputs, strict=True))
        total.update(costs)
    return [read(atom) for atom in jaxpr.outvars], total


def _count_eqn(
    eqn: jex_core.JaxprEqn, inputs: list[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    """One equation: a product, control flow, a call, or an operation that costs nothing."""
    name = eqn.primitive.name
    if name in _PRODUCTS:
        leaves = _kernel(inputs[:2])
        costs = _charge(_PRODUCTS[name](eqn, leaves, counting), leaves, counting.sizes)
        return [ACTIVATION] * len(eqn.outvars), costs
    if name in _CONTROL:
        return _CONTROL[name](eqn, inputs, counting)
    inner = list(map(opened, inner_jaxprs(eqn)))
    if len(inner) == 1 and is_call(eqn, inner[0]):
        outputs, costs = count(inner[0], inputs, counting)
        return outputs, _scaled(costs, _shards(eqn))
    if any(map(_has_product, inner)):
        raise ValueError(f"cannot count the products inside primitive {name!r}")
    return [_origin(eqn, inputs, counting.sizes)] * len(eqn.outvars), Counter()


def _origin(eqn: jex_core.JaxprEqn, inputs: list[Origin], sizes: dict[int, int]) -> Origin:
    """The origin of a result that is not a product."""
    name = eqn.primitive.name
    if name == "concatenate" and not any(origin.data for origin in inputs):
        # Kernels fused into one product (an LSTM's gates): the product is charged to all of them.
        return Origin(tuple(dict.fromkeys(leaf for origin in inputs for leaf in origin.leaves)))
    if name in _FILL_ZEROS and len({origin.leaves for origin in inputs if origin.leaves}) > 1:
        return ACTIVATION
    if not any(origin.data for origin in inputs):
        return Origin(_largest(inputs, sizes))
    if name not in _KEEP_ZEROS:
        return ACTIVATION
    leaves = _largest(inputs[_KEEP_ZEROS[name]], sizes)
    # A scale broadcast over activations makes activations; a weight times a mask stays a weight.
    if math.prod(_shape(eqn.outvars[0])) > sum(sizes[leaf] for leaf in leaves):
        return ACTIVATION
    return Origin(leaves, data=True)


# Operations that put one leaf's weights where another one has zeros: what a mask of either leaves
# out is there all the same.
_FILL_ZEROS = {"add", "add_any", "select_n", "sub"}

# Operations whose result is still that leaf, zeros where it has zeros, even when other operands
# (a mask, an expert's index) are data; and the operands among which the leaf is looked for.
_KEEP_ZEROS = {
    "broadcast_in_dim": slice(1),
    "convert_element_type": slice(1),
    "copy": slice(1),
    "copy_p": slice(1),
    "div": slice(1),
    "dynamic_slice": slice(1),
    "gather": slice(1),
    "mul": slice(2),
    "neg": slice(1),
    "pad": slice(1),
    "reduce_precision": slice(1),
    "reshape": slice(1),
    "reshard": slice(1),
    "rev": slice(1),
    "select_n": slice(1, None),
    "sharding_constraint": slice(1),
    "slice": slice(1),
    "split": slice(1),
    "squeeze": slice(1),
    "transpose": slice(1),
}


def _largest(origins: Sequence[Origin], sizes: dict[int, int]) -> tuple[int, ...]:
    """The leaves of the operand with the most weights: the kernel, not its scale or its gate."""
    return max(
        (origin.leaves for origin in origins),
        key=lambda leaves: sum(sizes[leaf] for leaf in leaves),
        default=(),
    )


def _kernel(operands: Sequence[Origin]) -> tuple[int, ...]:
    """The leaves of a product's kernel: pure parameters before mixed ones, the right one first."""
    fed = sorted((o for o in reversed(operands) if o.leaves), key=lambda origin: origin.data)
    return fed[0].leaves if fed else ()


def _charge(product: Costs, leaves: tuple[int, ...], sizes: dict[int, int]) -> Costs:
    """Charge a product to its kernel's leaves, by their sizes."""
    if not leaves:
        return Counter({(NO_LEAF, what): number for what, number in product.items()})
    whole = sum(sizes[leaf] for leaf in leaves)
    costs: Costs = Counter()
    before = 0
    for leaf in leaves:
        # Differences of running shares, so that rounding never changes the sum.
        after = before + sizes[leaf]
        for what, number in product.items():
            share = number * after // whole - number * before // whole if whole else 0
            costs[leaf, what] = share
        before = after
    return costs


def _scaled(costs: Costs, times: int) -> Costs:
    return Counter({account: number * times for account, number in costs.items()})


def _join(first: Origin, second: Origin) -> Origin:
    """The origin of a value that may be either."""
    if first.leaves == second.leaves:
        return Origin(first.leaves, first.data or second.data)
    return ACTIVATION


def _settle(
    body: jex_core.Jaxpr,
    consts: list[Origin],
    carry: list[Origin],
    xs: list[Origin],
    counting: Counting,
) -> tuple[list[Origin], list[Origin], Costs]:
    """Count one step of a loop once the origins of its carry have stopped changing."""
    while True:
        outputs, costs = count(body, [*consts, *carry, *xs], counting)
        joined = [_join(old, new) for old, new in zip(carry, outputs, strict=False)]
        if joined == carry:
            return carry, outputs[len(carry) :], costs
        carry = joined


def _scan(
    eqn: jex_core.JaxprEqn, inputs: list[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    (body,) = map(opened, inner_jaxprs(eqn))
    # Shapes say what is carried and what is scanned over (that has one more axis outside); the
    # parameters that say so differ between versions of JAX.
    n_xs = sum(
        len(_shape(outer)) != len(_shape(inner))
        for outer, inner in zip(eqn.invars, body.invars, strict=True)
    )
    n_carry = sum(
        len(_shape(outer)) == len(_shape(inner))
        for outer, inner in zip(eqn.outvars, body.outvars, strict=True)
    )
    n_consts = len(inputs) - n_xs - n_carry
    split = n_consts + n_carry
    carry, ys, costs = _settle(
        body, inputs[:n_consts], inputs[n_consts:split], inputs[split:], counting
    )
    return [*carry, *ys], _scaled(costs, eqn.params["length"])


def _while(
    eqn: jex_core.JaxprEqn, inputs: list[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    consts, carry = inputs[n_cond : n_cond + n_body], inputs[n_cond + n_body :]
    carry, _, costs = _settle(opened(eqn.params["body_jaxpr"]), consts, carry, [], counting)
    _, test = count(opened(eqn.params["cond_jaxpr"]), [*inputs[:n_cond], *carry], counting)
    costs = costs + test
    if costs and counting.while_steps is None:
        raise ValueError(
            "a while loop holds products and its trip count is unknown; declare it: while_steps="
        )
    return carry, _scaled(costs, counting.while_steps or 0)


def _cond(
    eqn: jex_core.JaxprEqn, inputs: list[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    branches = [count(opened(b), inputs[1:], counting) for b in eqn.params["branches"]]
    outputs = branches[0][0]
    for other, _ in branches[1:]:
        outputs = [_join(a, b) for a, b in zip(outputs, other, strict=True)]
    macs = lambda costs: sum(number for (_, what), number in costs.items() if what == MACS)
    return outputs, max((costs for _, costs in branches), key=macs)


def _pass(
    eqn: jex_core.JaxprEqn, inputs: list[Origin], counting: Counting
) -> tuple[list[Origin], Costs]:
    """Each operand comes out as it went in."""
    del eqn, counting
    return inputs, Counter()


_CONTROL = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "optimization_barrier": _pass,
    "device_put": _pass,
}


def _has_product(jaxpr: jex_core.Jaxpr) -> bool:
    return any(
        eqn.primitive.name in _PRODUCTS or any(map(_has_product, map(opened, inner_jaxprs(eqn))))
        for eqn in jaxpr.eqns
    )


def _shards(eqn: jex_core.JaxprEqn) -> int:
    """How many devices evaluate the body: a shard_map's jaxpr shows one shard's share."""
    if eqn.primitive.name != "shard_map":
        return 1
    axes = eqn.params["newly_manual_axes"]
    return math.prod(eqn.params["mesh"].shape[axis] for axis in axes)


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _product(macs: int, outputs: int) -> Costs:
    return Counter({MACS: macs, OUTPUTS: outputs})


def _dot(eqn: jex_core.JaxprEqn, leaves: tuple[int, ...], counting: Counting) -> Costs:
    del leaves, counting
    lhs, outputs = _shape(eqn.invars[0]), math.prod(_shape(eqn.outvars[0]))
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return _product(outputs * math.prod(lhs[i] for i in contracted), outputs)


def _ragged_dot(eqn: jex_core.JaxprEqn, leaves: tuple[int, ...], counting: Counting) -> Costs:
    """Each row meets one group only, so the groups themselves cost nothing."""
    del leaves, counting
    lhs, rhs = _shape(eqn.invars[0]), _shape(eqn.invars[1])
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    shared = {*contracted, *batch, *numbers.rhs_group_dimensions}
    macs = math.prod(lhs) * math.prod(n for i, n in enumerate(rhs) if i not in shared)
    return _product(macs, math.prod(_shape(eqn.outvars[0])))


def _conv(eqn: jex_core.JaxprEqn, leaves: tuple[int, ...], counting: Counting) -> Costs:
    lhs, rhs, out = (_shape(atom) for atom in (*eqn.invars, *eqn.outvars))
    numbers, params = eqn.params["dimension_numbers"], eqn.params
    if counting.padded_as_image.intersection(leaves):
        out = list(out)
        for at, place in enumerate(numbers.out_spec[2:]):
            whole = lhs[numbers.lhs_spec[2 + at]] + sum(params["padding"][at])
            out[place] = -(-whole // params["window_strides"][at])
    outputs = math.prod(out)
    # Every output is a sum over one output feature's kernel, whatever the groups; padding counts.
    macs = outputs * (math.prod(rhs) // max(rhs[numbers.rhs_spec[0]], 1))
    if math.prod(params["lhs_dilation"]) != 1:
        # Zeros inserted between the inputs (transposed convolutions and gradients of strided ones)
        # are not multiplied: each input meets each tap of each output feature once.
        macs = min(macs, math.prod(lhs) // max(lhs[numbers.lhs_spec[1]], 1) * math.prod(rhs))
    groups = params["feature_group_count"]
    depthwise = groups > 1 and rhs[numbers.rhs_spec[1]] == 1
    one = counting.depthwise_as_one and depthwise
    return _product(macs, outputs // groups if one else outputs)


_PRODUCTS: dict[str, Callable[[jex_core.JaxprEqn, tuple[int, ...], Counting], Costs]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "ragged_dot_general": _ragged_dot,
}
