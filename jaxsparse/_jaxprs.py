"""Jaxprs: what they hold, and a function as one flat list of operations."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core

# Their bodies run other than once, on the operands as they are.
_CONTROL = ("scan", "while", "cond", "shard_map")


def opened(jaxpr: Any) -> jex_core.Jaxpr:
    """The jaxpr itself, of a closed or an open one."""
    return jaxpr.jaxpr if isinstance(jaxpr, jex_core.ClosedJaxpr) else jaxpr


def inner_jaxprs(eqn: jex_core.JaxprEqn) -> Iterator[Any]:
    """The jaxprs, open or closed, among an equation's parameters."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jex_core.Jaxpr | jex_core.ClosedJaxpr):
                yield item


def is_call(eqn: jex_core.JaxprEqn, inner: jex_core.Jaxpr) -> bool:
    """Do arguments and results match one to one? So do jit, remat, custom rules and shard_map."""
    return (len(inner.invars), len(inner.outvars)) == (len(eqn.invars), len(eqn.outvars))


class Operation(NamedTuple):
    """One primitive, on values that are numbered throughout the program."""

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the primitive."""
        return self.primitive.name


class Program(NamedTuple):
    """A traced function without nested calls.

    Attributes:
      operations: In order.
      shapes: Of each value.
      inputs: Values that the function's array leaves are.
      outputs: Values that its results are.
      constants: What the trace holds as arrays and scalars.
      structure: Of the function's result.
    """

    operations: tuple[Operation, ...]
    shapes: tuple[tuple[int, ...], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: dict[int, Any]
    structure: Any


def flat_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Trace a function and lay out what it calls (jit, remat, custom rules) in one list.

    Custom derivatives are left behind; ReLU alone stays one operation, for its slope at 0.

    Args:
      function: Of pytrees of arrays.
      *arguments: Arrays or ``jax.ShapeDtypeStruct`` leaves.

    Returns:
      The program.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = flat_program(jax.jit(lambda x: jnp.tanh(x) + 1), jnp.ones(3))
      >>> [operation.name for operation in program.operations], program.shapes[0]
      (['tanh', 'add'], (3,))
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    operations: list[Operation] = []
    shapes: list[tuple[int, ...]] = []
    constants: dict[int, Any] = {}
    numbers = itertools.count()

    def number(atom: Any) -> int:
        shapes.append(tuple(atom.aval.shape))
        return next(numbers)

    def constant(atom: Any, value: Any) -> int:
        at = number(atom)
        constants[at] = value
        return at

    def walk(jaxpr: jex_core.Jaxpr, consts: Sequence[Any], given: Sequence[int]) -> list[int]:
        known = dict(zip(jaxpr.invars, given, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            known[var] = constant(var, value)

        def read(atom: Any) -> int:
            if isinstance(atom, jex_core.Literal):
                return constant(atom, atom.val)
            return known[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            inner = list(inner_jaxprs(eqn))
            called = len(inner) == 1 and eqn.primitive.name not in _CONTROL
            if called and is_call(eqn, opened(inner[0])) and not _is_relu(eqn):
                results = walk(opened(inner[0]), getattr(inner[0], "consts", ()), operands)
            else:
                results = [number(var) for var in eqn.outvars]
                primitive = _Relu if _is_relu(eqn) else eqn.primitive
                operations.append(
                    Operation(primitive, dict(eqn.params), tuple(operands), tuple(results))
                )
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [number(var) for var in closed.jaxpr.invars]
    outputs = walk(closed.jaxpr, closed.consts, inputs)
    return Program(
        tuple(operations),
        tuple(shapes),
        tuple(inputs),
        tuple(outputs),
        constants,
        jax.tree.structure(shape),
    )


# What a compiler may do in one place and not in another changes no bit of these.
_EXACT = {
    "abs", "and", "bitcast_convert_type", "broadcast_in_dim", "ceil", "clamp", "copy", "eq",
    "convert_element_type", "floor", "ge", "gt", "is_finite", "le", "lt", "max", "min", "ne", "neg",
    "not", "or", "reshape", "round", "select_n", "sign", "squeeze", "xor",
}  # fmt: skip
_ROUNDING = {"add", "add_any", "integer_pow", "mul", "square", "sub"}


def rounds_once(function: Callable[..., Any], *arguments: Any) -> bool:
    """Is the result the same to the last bit, wherever a compiler computes it?

    So it is with one product or one sum. But a product and a sum are rounded together (a fused
    multiply-add) or apart, and divisions, roots and exponentials have several forms, as the
    compiler likes in each place.

    Args:
      function: Of pytrees of arrays.
      *arguments: Arrays or ``jax.ShapeDtypeStruct`` leaves.

    Returns:
      Whether at most one operation of its program rounds.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones(3)
      >>> rounds_once(lambda w, g: jnp.abs(w * g), x, x)
      True
      >>> rounds_once(lambda w, g: jnp.abs(w) + 0.1 * jnp.abs(g), x, x)
      False
    """
    operations = flat_program(function, *arguments).operations
    inexact = [operation for operation in operations if operation.name not in _EXACT]
    allowed = all(op.name in _ROUNDING and op.params.get("y", 2) == 2 for op in inexact)
    return allowed and len(inexact) <= 1


class _Relu:
    """ReLU as one operation: its slope at 0 is 0, that of max(x, 0) one half."""

    name = "relu"


def _is_relu(eqn: jex_core.JaxprEqn) -> bool:
    if eqn.primitive.name != "custom_jvp_call":
        return False
    inner = opened(eqn.params["call_jaxpr"]).eqns
    return len(inner) == 1 and inner[0].params.get("name") == "relu"


def apply_operation(operation: Operation, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one operation.

    Args:
      operation: Of a program.
      operands: Arrays, one an input.

    Returns:
      Arrays, one an output.

    Example:
      >>> import jax.numpy as jnp
      >>> program = flat_program(jnp.tanh, jnp.ones(3))
      >>> apply_operation(program.operations[0], [jnp.zeros(3)])[0].tolist()
      [0.0, 0.0, 0.0]
    """
    if operation.primitive is _Relu:
        return [jax.nn.relu(operands[0])]
    results = operation.primitive.bind(*operands, **operation.params)
    return list(results) if operation.primitive.multiple_results else [results]


def dependent(program: Program, sources: Sequence[int]) -> np.ndarray:
    """Which values depend on some of the inputs.

    Args:
      program: A program.
      sources: Values, among its inputs.

    Returns:
      bool ``(values,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> program = flat_program(lambda w, x: jnp.exp(w) * x, jnp.ones(3), jnp.ones(3))
      >>> dependent(program, program.inputs[1:]).tolist()  # w, x, exp(w), exp(w) * x
      [False, True, False, True]
    """
    depends = np.zeros(len(program.shapes), bool)
    depends[list(sources)] = True
    for operation in program.operations:
        depends[list(operation.outputs)] = depends[list(operation.inputs)].any()
    return depends
