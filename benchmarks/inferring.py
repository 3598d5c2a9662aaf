"""Masked networks as `accelerate.compile_inference` compiles them, against the dense ones."""

from collections import Counter
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxsparse
from jaxsparse import accelerate

from .measure import Row, faster, medians

_WIDTH, _DEPTH, _SPARSITY = 4096, 3, 0.9
_KINDS = {
    "blocks of 64": jaxsparse.block(64, 64, balanced=True),
    "constant fan-in": jaxsparse.fan_in(),
    "single weights": jaxsparse.unstructured(),
}
# (kind, batch) -> what is to be reached, on a CPU.
_BOUNDS = {("blocks of 64", 1): "at least 3", ("blocks of 64", 256): "at least 4"}


def inference_rows(repeats: int) -> Iterator[Row]:
    """Outputs of an MLP of three layers, 4096 wide, 90 % zeros.

    Args:
      repeats: Runs timed.

    Yields:
      A row for each kind of mask and batch.
    """
    keys = jax.random.split(jax.random.key(0), _DEPTH)
    draw = jax.nn.initializers.he_normal()
    params = {f"layer_{i}": draw(key, (_WIDTH, _WIDTH)) for i, key in enumerate(keys)}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        for name in sorted(params):
            x = jax.nn.relu(x @ params[name])
        return x

    for kind, structure in _KINDS.items():
        method = jaxsparse.static(_SPARSITY, distribution=jaxsparse.uniform, structure=structure)
        masks = method.init(jax.random.key(1), params)
        masked = jaxsparse.apply_masks(params, masks)
        for batch in (1, 8, 256):
            x = jax.random.normal(jax.random.key(2), (batch, _WIDTH))
            model = accelerate.compile_inference(apply, params, masks, x)
            dense = jax.jit(apply)
            if not jnp.allclose(model(x), dense(masked, x), rtol=1e-3, atol=1e-3):
                raise AssertionError(f"{kind}, batch {batch}: compiled and dense outputs differ")
            pair = [lambda f=model, x=x: f(x), lambda f=dense, p=masked, x=x: f(p, x)]
            times = medians(pair, 4 * repeats + 1)
            chosen = Counter(row.chosen for row in model.layers)
            note = (
                f"the dense network; chosen: {', '.join(f'{n} x {c}' for c, n in chosen.items())}"
            )
            what = f"inference, {_DEPTH} layers of {_WIDTH}, 90 %, {kind}, batch {batch}"
            yield faster(what, times, _BOUNDS.get((kind, batch), ""), note)
