"""Parameter and operation counts of the networks, known from the papers; small forward passes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.models import layers
from jaxsparse.accounting import flops

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

MNIST, CIFAR, IMAGENET = (28, 28, 1), (32, 32, 3), (224, 224, 3)

# Network, input, all parameters, those of two or more dimensions, multiply-accumulates an image.
KNOWN: dict[str, tuple[nn.Module, tuple[int, ...], int, int, int]] = {
    "lenet-300-100": (models.LeNet300100(), MNIST, 266_610, 266_200, 266_200),
    "lenet-5": (models.LeNet5(), MNIST, 431_080, 430_500, 2_293_000),
    "plain-conv": (models.PlainConv(), MNIST, 7_354, 7_216, 367_072),
    "resnet-20": (models.CifarResNet(), CIFAR, 269_722, 268_336, 40_551_040),
    "resnet-20 B": (models.CifarResNet(shortcut="B"), CIFAR, 272_474, 270_896, 40_813_184),
    "resnet-56": (models.CifarResNet(depth=56), CIFAR, 853_018, 848_944, 125_485_696),
    "wrn-22-2": (models.WideResNet(), CIFAR, 1_079_642, 1_076_912, 157_730_048),
    "wrn-28-10": (models.WideResNet(28, 10), CIFAR, 36_479_194, 36_461_232, 5_243_328_768),
    "resnet-50": (models.ResNet50(), IMAGENET, 25_557_032, 25_502_912, 4_089_184_256),
    "vgg-11": (models.VGG(11), CIFAR, 9_228_362, 9_222_848, 152_769_536),
    "vgg-16": (models.VGG(16), CIFAR, 14_724_042, 14_715_584, 313_201_664),
    "vgg-19": (models.VGG(19), CIFAR, 20_035_018, 20_024_000, 398_136_320),
    "vgg-16 imagenet": (
        models.VGG(16, 1000, (4096, 4096)),
        IMAGENET,
        138_361_768,
        138_344_128,
        15_470_264_320,
    ),
    "mobilenet": (models.MobileNetV1(), IMAGENET, 4_231_976, 4_209_088, 568_740_352),
}


def abstract(model: nn.Module, shape: tuple[int, ...], batch: int = 1) -> tuple[Any, Any]:
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x), x


@pytest.mark.parametrize("name", KNOWN)
def test_counts(name: str) -> None:
    model, shape, parameters, weights, macs = KNOWN[name]
    variables, x = abstract(model, shape)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == parameters
    assert sum(leaf.size for leaf in leaves if leaf.ndim > 1) == weights
    report = flops(model.apply, variables, x)
    assert report.dense == 2 * macs
    # Every weight tensor is used, and every product has one.
    assert len(report.layers) == sum(leaf.ndim > 1 for leaf in leaves)


SMALL: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (models.MLP((8, 3)), (4, 4, 1)),
    "lenet-300-100": (models.LeNet300100(), MNIST),
    "lenet-5": (models.LeNet5(), MNIST),
    "resnet-8": (models.CifarResNet(8, 4), (8, 8, 3)),
    "resnet-8 B": (models.CifarResNet(8, 4, shortcut="B"), (8, 8, 3)),
    "wrn-10-1": (models.WideResNet(10, 1), (8, 8, 3)),
    "bottlenecks": (models.ResNet50(5, 4, stages=(1, 2)), (16, 16, 3)),
    "mobilenet": (models.MobileNetV1(5, 0.125), (32, 32, 3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_forward(name: str) -> None:
    model, shape = SMALL[name]
    rng = np.random.default_rng(0)
    # Not init's values: compiling it takes ten times as long as all the rest. Variances are
    # positive.
    draw = lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(leaf.dtype)
    variables = jax.tree.map(draw, abstract(model, shape)[0])
    x = rng.normal(size=(2, *shape)).astype(np.float32)

    @jax.jit
    def run(variables: Any, x: jax.Array) -> Any:
        trained = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return model.apply(variables, x), *trained

    logits, trained, updates = run(variables, x)
    assert logits.shape == trained.shape
    assert logits.dtype == trained.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert np.isfinite(trained).all()
    # Training uses and moves the statistics of the batch, where there are any.
    for before, after in zip(
        jax.tree.leaves(variables.get("batch_stats", {})),
        jax.tree.leaves(updates.get("batch_stats", {})),
        strict=True,
    ):
        assert not np.array_equal(before, after)
    assert np.array_equal(logits, trained) == ("batch_stats" not in variables)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_so_and_keeps_float32_parameters(name: str) -> None:
    model, shape = SMALL[name]
    half = model.clone(dtype=jnp.bfloat16)
    variables, x = abstract(half, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    jaxpr = str(jax.make_jaxpr(half.apply)(variables, x))
    products = [line for line in jaxpr.splitlines() if "= dot_general" in line or "= conv_" in line]
    assert products
    assert all("bf16[" in line.split("=")[0] for line in products)
    assert jax.eval_shape(half.apply, variables, x).dtype == jnp.float32


def test_width_narrows() -> None:
    # Small-dense ResNet-50: as many weights as at 90 % sparsity, a tenth (Evci et al., 2020).
    variables, _ = abstract(models.ResNet50(width=17), IMAGENET)
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1)
    assert 0.08 < weights / 25_502_912 < 0.12


def initial(model: nn.Module, key: jax.Array, block: str) -> Any:
    """Parameters of one block: jit leaves out the others, which take seconds to compile."""
    return jax.jit(lambda: model.init(key, jnp.ones((1, 16, 16, 3)))["params"][block])()


@pytest.mark.parametrize("zero", [False, True])
def test_initial_scale_of_residual_branches(zero: bool, key: jax.Array) -> None:
    params = initial(models.ResNet50(5, 4, zero, (1,)), key, "stage1_block1")
    assert (params["bn3"]["scale"] == (0 if zero else 1)).all()
    assert (params["bn2"]["scale"] == 1).all()


@pytest.mark.parametrize(("shape", "stride"), [((7, 6), 1), ((7, 6), 2), ((8, 8), 2)])
def test_convolutions_as_products(shape: tuple[int, int], stride: int, key: jax.Array) -> None:
    x = jax.random.normal(key, (2, *shape, 3))
    plain, products = (layers.conv(4, 3, stride, padding=1, products=on) for on in (False, True))
    variables = plain.init(key, x)
    np.testing.assert_allclose(products.apply(variables, x), plain.apply(variables, x), atol=1e-5)


def test_halving_is_max_pooling_with_its_gradient(key: jax.Array) -> None:
    x = jax.random.normal(key, (2, 7, 6, 3))
    pool = lambda x: nn.max_pool(x, (2, 2), (2, 2))
    assert np.array_equal(layers.halve(x), pool(x))
    slopes = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (layers.halve, pool)]
    assert np.array_equal(*slopes)


def test_widths_make_a_smaller_vgg() -> None:
    params = abstract(models.VGG(widths=((8,), (16, 32))), MNIST)[0]["params"]
    shapes = {name: leaf["kernel"].shape for name, leaf in params.items() if "kernel" in leaf}
    assert shapes == {
        "conv1_1": (3, 3, 1, 8),
        "conv2_1": (3, 3, 8, 16),
        "conv2_2": (3, 3, 16, 32),
        "head": (7 * 7 * 32, 10),
    }


def test_convolutions_start_with_he_fan_out(key: jax.Array) -> None:
    kernel = initial(models.CifarResNet(8, 32), key, "stage2_block1")["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.03)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.CifarResNet(depth=21), r"6n \+ 2"),
        (models.WideResNet(depth=20), r"6n \+ 4"),
        (models.VGG(depth=12), r"\[11, 13, 16, 19\]"),
    ],
)
def test_impossible_depths(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abstract(model, CIFAR)
