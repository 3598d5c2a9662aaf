"""Which numbers can be other than zero, and which of them the model's input reaches.

A program is evaluated on zeros and ones: sums and products of what is never negative are positive
where some term is, and are set back to one. Its reverse mode says the same of slopes.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxsparse._jaxprs import Operation, Program


def evaluate(
    program: Program,
    given: Mapping[int, Array],
    depends: Bool[np.ndarray, " values"],
    unknown: Callable[[Operation], None],
) -> dict[int, Float[Array, "..."]]:
    """Zeros and ones of every value.

    Args:
      program: A model, parameters and inputs its arguments.
      given: Its inputs' zeros and ones, float32.
      depends: Which values depend on the model's input. What does not (biases, running means) is
        left out of sums with what does: only what the input reaches is one.
      unknown: Called before an operation that nothing is known of is taken to reach everything.

    Returns:
      float32 0 or 1 by value; differentiable, slopes being 0 or 1 as well.
    """
    known = dict(given)
    for at, value in program.constants.items():
        known[at] = jnp.asarray(np.asarray(value) != 0, jnp.float32)
    for operation in program.operations:
        operands = [known[at] for at in operation.inputs]
        reached = [bool(depends[at]) for at in operation.inputs]
        rule = _RULES.get(operation.name)
        if rule is None:
            if any(reached):
                unknown(operation)
            results = [jnp.ones(program.shapes[at], jnp.float32) for at in operation.outputs]
        else:
            shape = program.shapes[operation.outputs[0]]
            results = [saturated(r) for r in rule(operation, operands, reached, shape)]
        known.update(zip(operation.outputs, results, strict=True))
    return known


@jax.custom_vjp
def saturated(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """One where positive; so is the slope, going back."""
    return (value > 0).astype(jnp.float32)


def _forward(value: Array) -> tuple[Array, None]:
    return saturated(value), None


def _backward(_: None, slope: Array) -> tuple[Array]:
    return ((slope > 0).astype(jnp.float32),)


saturated.defvjp(_forward, _backward)

_NUMBERS = "dimension_numbers"
_Operands = Sequence[Array]
_Reached = Sequence[bool]


def _union(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """Any operand; those that the input reaches alone, where there are such."""
    del op
    alone = any(reached)
    chosen = [x for x, of_input in zip(xs, reached, strict=True) if of_input or not alone]
    return [sum(jnp.broadcast_to(x, shape) for x in chosen)]  # pyright: ignore[reportReturnType]


def _each(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """Every operand by itself."""
    del op, reached, shape
    return list(xs)


def _ones(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """f(0) may be other than 0: a constant is, what the input reaches is as it was."""
    return _union(op, xs, reached, shape) if any(reached) else [jnp.ones(shape, jnp.float32)]


def _both(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """A product, elementwise. Of two that the input may reach, one alone may be a constant."""
    if all(reached):
        return _union(op, xs, reached, shape)
    return [jnp.broadcast_to(xs[0], shape) * xs[1]]


def _ratio(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """The numerator; also what divides, where the input reaches it."""
    return _union(op, xs, reached, shape) if reached[1] else [jnp.broadcast_to(xs[0], shape)]


def _chosen(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """Any case; a predicate that the input reaches chooses among constants."""
    if any(reached[1:]):
        return _union(op, xs[1:], reached[1:], shape)
    return _union(op, xs, reached, shape)


def _moved(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """The first operand's numbers in another place; what is padded is not reached."""
    if op.name == "pad" and not any(reached):
        return [jnp.ones(shape, jnp.float32)]
    rest = [jnp.zeros_like(x) for x in xs[1:]]
    params = {key: value for key, value in op.params.items() if key != "sharding"}
    if "sharding" in op.params:
        params["sharding"] = None
    return [op.primitive.bind(xs[0], *rest, **params)]


def _joined(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    del reached, shape
    return [jnp.concatenate(list(xs), op.params["dimension"])]


def _summed(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """Any along the axes: sums, maxima and products of all terms need only one that varies."""
    del reached, shape
    return [jnp.sum(xs[0], tuple(op.params["axes"]))]


def _window(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    """Any in the window."""
    del reached, shape
    p = op.params
    dims, strides = p["window_dimensions"], p["window_strides"]
    dilations = {"base_dilation": p["base_dilation"], "window_dilation": p["window_dilation"]}
    # The start value, an operand in some operations, belongs to maxima: sums start at zero.
    return [
        lax.reduce_window(xs[0], np.float32(0), lax.add, dims, strides, p["padding"], **dilations)
    ]


def _dot(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    del shape
    return _contracted(xs, reached, lambda x, y: lax.dot_general(x, y, op.params[_NUMBERS]))


def _conv(op: Operation, xs: _Operands, reached: _Reached, shape: tuple[int, ...]) -> list[Array]:
    del shape
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", _NUMBERS)
    groups = ("feature_group_count", "batch_group_count")
    params = {name: op.params[name] for name in (*names, *groups)}
    return _contracted(xs, reached, lambda x, y: lax.conv_general_dilated(x, y, **params))


def _contracted(
    xs: _Operands, reached: _Reached, product: Callable[[Array, Array], Array]
) -> list[Array]:
    """Some pair of factors; of data with data either one, for the other may be a constant."""
    x, y = xs
    if all(reached):
        return [product(x, jnp.ones_like(y)) + product(jnp.ones_like(x), y)]
    return [product(x, y)]


_Rule = Callable[[Operation, _Operands, _Reached, tuple[int, ...]], list[Array]]

_KEEPS_ZERO = (
    "neg sign floor ceil round abs tanh sin tan asin atan sinh asinh atanh sqrt cbrt square erf "
    "expm1 log1p integer_pow relu convert_element_type copy copy_p stop_gradient reduce_precision "
    "name real imag reshard sharding_constraint add add_any sub max min or"
)
_COMPARES = "eq ne lt le gt ge and not xor is_finite pow rem atan2 nextafter clamp"
_MOVES_ZERO = (
    "exp exp2 log logistic rsqrt cos cosh acos acosh erfc erf_inv lgamma digamma iota " + _COMPARES
)
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_KEEPS_ZERO.split(), _union),
    **dict.fromkeys(_MOVES_ZERO.split(), _ones),
    **dict.fromkeys(("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims"), _moved),
    **dict.fromkeys(("slice", "pad", "rev", "cumsum"), _moved),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _summed),
    **dict.fromkeys(("reduce_or", "reduce_and", "argmax", "argmin"), _summed),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    "mul": _both,
    "div": _ratio,
    "select_n": _chosen,
    "concatenate": _joined,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "optimization_barrier": _each,
    "device_put": _each,
}
