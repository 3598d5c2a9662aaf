"""What a compiled training step costs beside the inner optimizer's: read from the program."""

import itertools
import re
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import optax
import pytest

import jaxsparse

SIZES = (384, 512, 640)
WEIGHTS = 384 * 512 + 512 * 640


pytestmark = pytest.mark.usefixtures("as_on_one_device")


def compiled(tx: optax.GradientTransformation) -> Any:
    params = [{"kernel": jnp.ones(shape)} for shape in itertools.pairwise(SIZES)]
    x = jnp.ones((16, SIZES[0]))

    def loss_fn(params: Any) -> jax.Array:
        return jnp.square(jnp.tanh(x @ params[0]["kernel"]) @ params[1]["kernel"]).mean()

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    return donating.lower(params, jax.eval_shape(tx.init, params)).compile()


@pytest.fixture(scope="module")
def bare(as_on_one_device: None) -> Any:
    return compiled(optax.adam(1e-3))


@pytest.fixture(scope="module")
def rigl(as_on_one_device: None) -> Any:
    return compiled(jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.rigl(0.9)))


def peak(program: Any) -> int:
    memory = program.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes


def test_static_masks_cost_a_byte_a_weight(bare: Any) -> None:
    static = compiled(jaxsparse.sparsify(optax.adam(1e-3), jaxsparse.static(0.9)))
    assert peak(static) - peak(bare) <= WEIGHTS + 1000


def test_moving_masks_cost_no_floats(bare: Any, rigl: Any) -> None:
    # A byte a weight of state, and at the update masks before, between and after.
    assert peak(rigl) - peak(bare) < 3.5 * WEIGHTS
    memory = rigl.memory_analysis()
    # All but a table of pointers is updated in donated memory.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000


def test_no_array_of_floats_is_copied(rigl: Any) -> None:
    shapes = "|".join(f"{a},{b}" for a, b in itertools.pairwise(SIZES))
    assert re.findall(rf"f32\[(?:{shapes})\]\S* copy\(", rigl.as_text()) == []


def test_no_pass_of_the_selection_is_stored(rigl: Any) -> None:
    # Keys and hashes are integers of the weights' shape, or flat: none may be an array.
    sizes = "|".join([f"{a},{b}|{a * b}" for a, b in itertools.pairwise(SIZES)])
    text = rigl.as_text()
    programs = re.split(r"\n(?=%|ENTRY)", text)
    outside = [p for p in programs if not re.match(r"%(fused|wrapped)", p)]
    assert len(outside) < len(programs)
    stored = [re.findall(rf"= [us]32\[(?:{sizes})\]\S* \w+", p) for p in outside]
    assert [found for found in stored if found] == []


def test_all_of_drop_and_grow_is_inside_one_loop(rigl: Any) -> None:
    text = rigl.as_text()
    entry = text[text.index("ENTRY") :]
    assert entry.count(" while(") == 1
    assert text.count(" while(") > 1  # the searches, in its body


def test_the_dense_step_is_what_it_is_compared_with(bare: Any) -> None:
    assert " while(" not in bare.as_text()


def times(name: str, jaxpr: Any, looping: bool = False) -> tuple[int, int]:
    """Equations of this name in a program and all that it calls: outside and inside of loops."""
    found = sum(eqn.primitive.name == name for eqn in jaxpr.eqns)
    counts = [(0, found) if looping else (found, 0)]
    for eqn in jaxpr.eqns:
        inner = looping or eqn.primitive.name == "while"
        counts += [times(name, p, inner) for p in jax.extend.core.jaxprs_in_params(eqn.params)]
    outside, inside = map(sum, zip(*counts, strict=True))
    return outside, inside


def counted(name: str, score: Any) -> tuple[int, int]:
    """Equations of this name in an update by a score: outside and inside of the search."""
    method = jaxsparse.drop_grow(sparsity=0.5, drop=score)
    params = {"kernel": jnp.ones((37, 41))}
    masks = jax.eval_shape(method.init, jax.random.key(0), params)
    program = jax.jit(lambda m, p: method.update(jax.random.key(0), m, p, p, 0))
    return times(name, program.trace(masks, params).jaxpr.jaxpr)


def test_only_elementwise_scores_are_traced_in_every_pass() -> None:
    def score(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return jnp.ceil(weight)

    # Any other is stored: for the search, and to see whether it is finite.
    assert counted("ceil", score) == (1, 0)
    # Once in the loop's body; outside, once for the masks and once to see whether it is finite.
    assert counted("ceil", jaxsparse.scores.elementwise(score)) == (2, 1)
    assert jaxsparse.scores.is_elementwise(jaxsparse.scores.magnitude)


def test_what_may_be_rounded_otherwise_in_each_pass_is_stored() -> None:
    """``|w| + c |g|`` with a fused multiply-add in one place, and without in another: counts fail.

    (They did, for MEST, with XLA's older emitters on a CPU.)
    """

    @jaxsparse.scores.elementwise
    def root(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return jnp.ceil(jnp.sqrt(weight))

    assert counted("ceil", root) == (1, 0)
    mest = jaxsparse.scores.magnitude_and_gradient(0.1)
    assert jaxsparse.scores.is_elementwise(mest)
    assert counted("mul", mest)[0] == counted("mul", jaxsparse.scores.magnitude)[0] + 1
    # One product is the same number everywhere.
    inside = [counted("mul", score)[1] for score in (mest, jaxsparse.scores.saliency)]
    assert inside[1] == inside[0] + 1


def test_to_see_whether_scores_are_finite_none_is_stored() -> None:
    """They are computed where weights and gradients are looked at: no array comes of it."""

    @jaxsparse.scores.elementwise
    def score(key: Any, weight: Any, grad: Any, mask: Any, memory: Any) -> Any:
        return jnp.ceil(weight)

    method = jaxsparse.drop_grow(sparsity=0.5, drop=score)
    params = {"kernel": jnp.ones((384, 512))}
    masks = jax.eval_shape(method.init, jax.random.key(0), params)
    program = jax.jit(lambda m, p: method.update(jax.random.key(0), m, p, p, 0))
    text = program.lower(masks, params).compile().as_text()
    assert " ceil(" in text
    computed = r"= f32\[(?:384,512|196608)\]\S* (?!parameter|get-tuple-element|bitcast)\w+"
    programs = re.split(r"\n(?=%|ENTRY)", text)
    outside = [p for p in programs if not re.match(r"%(fused|wrapped)", p)]
    assert len(outside) < len(programs)
    assert [re.findall(computed, p) for p in outside if re.search(computed, p)] == []
