"""A model with every product by a masked weight in the form that is fastest for it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsparse._jaxprs import Program, flat_program
from jaxsparse._tree import is_dense, join
from jaxsparse.accelerate._forms import Form, forms_of
from jaxsparse.accelerate._weighted import Product, Site, Step, evaluate, needs, sites_of
from jaxsparse.accelerate.packing import bytes_of

Measure = Callable[[Mapping[str, Callable[[], Any]]], Mapping[str, float]]
"""From functions of no arguments, by name, to the seconds that a call takes."""

# Units in the last place of the sum of absolute terms, for each root of their number.
_ROUNDING = 8


class InferenceLayer(NamedTuple):
    """What was chosen for one weight.

    Attributes:
      path: Of the weight; once for each matrix that is made of it.
      shape: Of the weight.
      kept: Kept weights.
      chosen: ``"dense"``, or the form that it is multiplied in and its block or slots.
      seconds: Of each form that was measured, by name.
      reason: Why.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    chosen: str
    seconds: dict[str, float]
    reason: str


class Choice(NamedTuple):
    """How the fastest of several functions is found."""

    margin: float
    measure: Measure

    def fastest(self, calls: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, float], str]:
        """Seconds of each, and the name of the best: dense, unless another saves the margin."""
        seconds = dict(self.measure(calls))
        best = min(seconds, key=lambda name: seconds[name])
        saved = seconds[best] < (1 - self.margin) * seconds["dense"]
        return seconds, best if saved else "dense"


class Model(NamedTuple):
    """A function of a list of leaves and of inputs."""

    function: Callable[..., Any]
    paths: Sequence[str]
    leaves: Sequence[Any]
    marks: Sequence[Any]

    def abstract(self) -> "Model":
        """Without numbers."""
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in self.leaves]
        marks = [mark if is_dense(mark) else shapes[at] for at, mark in enumerate(self.marks)]
        return self._replace(leaves=shapes, marks=marks)

    def traced(self, inputs: Sequence[Any]) -> tuple[Program, list[Site], dict[int, list[str]]]:
        """Its program, the products by masked weights, and why other uses of them stay dense."""
        program = flat_program(self.function, self.abstract().leaves, *inputs)
        masked = [at for at, mark in enumerate(self.marks) if not is_dense(mark)]
        return program, *sites_of(program, masked)

    def row(self, leaf: int, chosen: str, seconds: dict[str, float], reason: str) -> InferenceLayer:
        """Of the table."""
        shape, kept = tuple(self.leaves[leaf].shape), int(np.sum(self.marks[leaf]))
        return InferenceLayer(self.paths[leaf], shape, kept, chosen, seconds, reason)


class Plan(NamedTuple):
    """All choices made.

    Attributes:
      apply: ``(*inputs) -> outputs``, compiled.
      layers: A row a masked weight.
      changed: Is any of them not dense?
      bytes: Of the weights that it holds.
    """

    apply: Callable[..., Any]
    layers: tuple[InferenceLayer, ...]
    changed: bool
    bytes: int


def layer_by_layer(model: Model, inputs: Sequence[Any], choice: Choice) -> Plan:
    """Choose a form for each product.

    Args:
      model: Whose masked leaves are zero where the masks are False.
      inputs: An example.
      choice: How.

    Returns:
      The plan.
    """
    program, sites, others = model.traced(inputs)
    first: dict[Any, Site] = {}
    for site in sites:
        first.setdefault(site.key, site)
    given = [*model.leaves, *jax.tree.leaves(inputs)]
    found = _factors(program, [site.x for site in first.values()], given)
    rows: list[tuple[int, InferenceLayer]] = []
    forms: dict[Any, Form] = {}
    for (key, site), x in zip(first.items(), found, strict=True):
        row, form = _chosen(model, site, x, choice)
        rows.append((site.leaf, row))
        if form is not None:
            forms[key] = form
    for leaf, reasons in others.items():
        if reasons or all(site.leaf != leaf for site in sites):
            reason = join(dict.fromkeys(reasons)) or "not used"
            rows.append((leaf, model.row(leaf, "dense", {}, reason)))
    layers = tuple(row for _, row in sorted(rows, key=lambda pair: pair[0]))
    apply = _compiled(model, forms, inputs)
    return Plan(apply, layers, bool(forms), bytes_of(apply.args))


def _factors(program: Program, wanted: Sequence[int], given: Sequence[Any]) -> list[Array]:
    """What the weights are multiplied with, on the example."""

    @jax.jit
    def compute(given: Sequence[Any]) -> list[Array]:
        return evaluate(program, dict(zip(program.inputs, given, strict=True)), wanted, {})

    return compute(given)


def _chosen(
    model: Model, site: Site, x: Array, choice: Choice
) -> tuple[InferenceLayer, Form | None]:
    """The form of one product; ``None``: dense."""
    product, row = site.product, functools.partial(model.row, site.leaf)
    weight, mask = (site.operand(jnp.asarray(of[site.leaf])) for of in (model.leaves, model.marks))
    if not jnp.issubdtype(weight.dtype, jnp.floating):
        return row("dense", {}, f"of type {weight.dtype}"), None
    matrix, kept = (product.matrix(np.asarray(array)) for array in (weight, mask))
    forms = forms_of(model.paths[site.leaf], matrix, kept)
    if not forms:
        return row("dense", {}, "no form stores less"), None
    calls: dict[str, Callable[[], Any]] = {"dense": lambda: _as_it_was(product, x, weight)}
    for form in forms:
        calls[form.name] = functools.partial(
            _alone, product, weight.shape, weight.dtype, form.multiply, x, form.parts
        )
    wide = lambda array: np.asarray(array, np.float64)
    dense = calls["dense"]()
    terms = wide(_as_it_was(product, abs(x), abs(weight))).max(initial=0)
    allowed = _ROUNDING * math.sqrt(len(matrix)) * _unit(weight, dense) * terms
    same = lambda call: (abs(wide(call()) - wide(dense)) <= allowed).all()
    wrong = [name for name, call in calls.items() if not same(call)]
    calls = {name: call for name, call in calls.items() if name not in wrong}
    also = f"; not the dense result: {', '.join(wrong)}" if wrong else ""
    if "dense" not in calls:
        return row("dense", {}, "its result is not finite on the example"), None
    seconds, best = choice.fastest(calls)
    if best == "dense":
        return row("dense", seconds, f"nothing saves {choice.margin:.0%}{also}"), None
    form = next(form for form in forms if form.name == best)
    ratio = f"{seconds['dense'] / seconds[best]:.1f} times as fast"
    return row(f"{best} {form.detail}".strip(), seconds, ratio + also), form


def _unit(*arrays: Array) -> float:
    """Rounding of the coarsest type; accelerators multiply in less than float32."""
    own = [float(jnp.finfo(array.dtype).eps) for array in arrays]
    return max(own if jax.default_backend() == "cpu" else [*own, 2**-8])


@functools.partial(jax.jit, static_argnums=0)
def _as_it_was(product: Product, x: Array, weight: Array) -> Array:
    return product.dense(x, weight)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _alone(
    product: Product,
    shape: tuple[int, ...],
    dtype: Any,
    multiply: Callable[..., Array],
    x: Array,
    parts: tuple[Any, ...],
) -> Array:
    return product.by(lambda rows: multiply(rows, *parts), x, jax.ShapeDtypeStruct(shape, dtype))


def _compiled(
    model: Model, forms: Mapping[Any, Form], inputs: Sequence[Any]
) -> functools.partial[Any]:
    """The model in these forms, holding no more of its weights than that needs."""
    leaves, model = model.leaves, model.abstract()

    def planned(inputs: Sequence[Any], parts: Sequence[Any]) -> tuple[Program, dict[int, Step]]:
        program, sites, _ = model.traced(inputs)
        own = dict(zip(forms, parts, strict=True))
        step = lambda site: _step(model, site, forms[site.key].multiply, own[site.key])
        return program, {site.at: step(site) for site in sites if site.key in forms}

    def leaves_of(program: Program, steps: Mapping[int, Step]) -> list[int]:
        values, _ = needs(program, program.outputs, steps)
        return [at for at in range(len(model.leaves)) if program.inputs[at] in values]

    def run(held: Mapping[int, Any], parts: Sequence[Any], *inputs: Any) -> Any:
        program, steps = planned(inputs, parts)
        missing = [model.paths[at] for at in leaves_of(program, steps) if at not in held]
        if missing:
            raise ValueError(
                f"{missing[0]} is used otherwise on these inputs than on the example, and its "
                "dense weight is gone; compile with an example like them"
            )
        given = {program.inputs[at]: leaf for at, leaf in held.items()}
        rest = program.inputs[len(model.leaves) :]
        given |= dict(zip(rest, jax.tree.leaves(inputs), strict=True))
        outputs = evaluate(program, given, program.outputs, steps)
        return jax.tree.unflatten(program.structure, outputs)

    parts = [form.parts for form in forms.values()]
    held = {at: leaves[at] for at in leaves_of(*planned(inputs, parts))}
    return functools.partial(jax.jit(run), held, parts)


def _step(model: Model, site: Site, multiply: Callable[..., Array], parts: Sequence[Any]) -> Step:
    weight = jax.eval_shape(site.operand, model.leaves[site.leaf])
    product = lambda x: site.product.by(lambda rows: multiply(rows, *parts), x, weight)
    return Step(site.x, product)
