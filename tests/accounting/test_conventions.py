"""The published convention by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsparse.accounting import flops, micronet


def spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_micronet_by_hand() -> None:
    params = {"a": spec(784, 300), "b": spec(300, 100), "c": spec(100, 10)}
    mlp = lambda p, x: x @ p["a"] @ p["b"] @ p["c"]
    report = flops(mlp, params, spec(1, 784), masks={"a": 23_520}, convention="micronet")
    # An output of v weights: v products, v - 1 sums, a bias, an activation.
    assert report.dense == 300 * (784 + 783 + 2) + 100 * (300 + 299 + 2) + 10 * (100 + 99 + 2)
    assert report.layers[0] == ("a", (784, 300), 23_520, 470_700, 47_040 + 300, 300)
    scores = flops(
        lambda p, x: x @ p["w"] @ x.T, {"w": spec(8, 8)}, spec(3, 8), convention="micronet"
    )
    assert scores.layers[1].dense == scores.layers[1].fixed == 9 * (8 + 7)


def test_micronet_options() -> None:
    model = nn.Conv(4, (3, 3), strides=2, padding=1, feature_group_count=4, use_bias=False)
    variables = jax.eval_shape(model.init, jax.random.key(0), spec(1, 8, 8, 4))
    cost = lambda **options: (
        flops(model.apply, variables, spec(1, 8, 8, 4), convention=micronet(**options)).dense
    )
    assert cost() == 4 * 4 * 4 * (2 * 9 + 1)
    # Ten pixels, padded as they are: five outputs a side.
    assert cost(padded_as_image=["*kernel"]) == 5 * 5 * 4 * (2 * 9 + 1)
    assert cost(depthwise_as_one=True) == 4 * 4 * (2 * 36 + 1)
