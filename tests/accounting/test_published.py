"""FLOPs, training multiples and sizes that the literature printed, to the digits it printed."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from experiments.models import MobileNetV1, ResNet50
from jaxsparse.accounting import FlopsReport, flops, micronet, size_bytes, training_flops
from jaxsparse.distributions import erk, uniform

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
DEPTHWISE = [f"block{i}/depthwise/kernel" for i in range(1, 14)]
# Keras pads ahead of those that stride.
QUIRKS = {
    "resnet": micronet(padded_as_image=["conv1/kernel"]),
    "mobilenet": micronet(
        padded_as_image=["conv1/kernel", *(DEPTHWISE[i - 1] for i in (2, 4, 6, 12))],
        depthwise_as_one=True,
    ),
}


@cache
def network(name: str) -> tuple[nn.Module, Any, Any]:
    model = {"resnet": ResNet50(), "mobilenet": MobileNetV1()}[name]
    variables = dict(jax.eval_shape(model.init, jax.random.key(0), IMAGE))
    return model, variables.pop("params"), variables


@cache
def dense(name: str) -> FlopsReport:
    return count(name, None, QUIRKS[name])


def count(name: str, masks: Any, convention: Any) -> FlopsReport:
    model, params, rest = network(name)
    apply = lambda params, rest, x: model.apply({"params": params, **rest}, x)
    return flops(apply, params, rest, IMAGE, masks=masks, convention=convention)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {row.path: row.shape for row in dense(name).layers}


def fractional(
    name: str, sparsity: float, how: str, skip: tuple[str, ...] = (), rounded: Any = np.floor
) -> Mapping[str, float]:
    """Kept weights as the published counts have them: fractions, and nothing made up for ``skip``.

    An independent statement of RigL's distributions: all layers at one sparsity, or densities in
    proportion to the sum (ERK: of all axes; ER: of the last two) over the product of the axes. The
    budget has each layer's zeros rounded: down in its library, up in the notebooks' numbers.
    """
    mine = {path: shape for path, shape in shapes(name).items() if path not in skip}
    if name == "mobilenet":
        mine["head/kernel"] = (1, 1, 1024, 1000)  # a convolution in Keras: two more in the sum
    size = {path: float(np.prod(shape)) for path, shape in mine.items()}
    if how == "uniform":
        return {path: (1 - sparsity) * n for path, n in size.items()}
    ends = {path: sum(shape if how == "erk" else shape[-2:]) for path, shape in mine.items()}
    if how == "er":
        size_of_ends = {path: float(np.prod(shape[-2:])) for path, shape in mine.items()}
        ends = {path: ends[path] * size[path] / size_of_ends[path] for path in mine}
    full: set[str] = set()
    while True:
        free = [path for path in mine if path not in full]
        zeros = {path: rounded(sparsity * n) for path, n in size.items()}
        budget = sum(size[path] - zeros[path] for path in free) - sum(zeros[p] for p in full)
        scale = budget / sum(ends[path] for path in free)
        kept = {path: scale * ends[path] for path in free} | {path: size[path] for path in full}
        over = {path: kept[path] / size[path] for path in free if kept[path] > size[path]}
        if not over:
            return kept
        full |= {path for path, ratio in over.items() if ratio == max(over.values())}


STEM = ("conv1/kernel",)
# Sparsity, distribution, what stays dense; ratios: inference, RigL once and five times as long,
# SNFS; megabytes. Recomputed from RigL's code; equal to what its paper and page print.
RESNET50 = [
    (0.8, "erk", (), 0.4153, 0.4172, 2.086, 0.610, 23.684),
    (0.8, "uniform", STEM, 0.2254, 0.2279, 1.140, 0.484, 23.729),
    (0.8, "er", (), 0.4546, 0.4564, 2.282, None, 23.685),
    (0.9, "erk", (), 0.2431, 0.2456, 1.228, 0.495, 13.499),
    (0.9, "uniform", STEM, 0.1285, 0.1314, 0.657, None, 13.532),
    (0.9, "uniform", (), 0.1012, 0.1042, 0.521, None, 13.499),
    (0.95, "erk", (), 0.1230, 0.1259, 0.630, 0.415, 8.399),
    (0.95, "uniform", STEM, 0.0801, 0.0831, 0.416, None, 8.433),
    (0.965, "erk", (), 0.0865, 0.0895, 0.448, None, 6.869),
    (0.965, "erk", STEM, 0.1125, 0.1154, 0.577, None, 6.904),
    (0.965, "uniform", STEM, 0.0656, 0.0687, 0.343, None, 6.904),
    (0.99, "erk", STEM, 0.0548, 0.0579, 0.290, None, 4.354),
]


def rigl(share: float, period: int = 100) -> float:
    """A training run of RigL, as a fraction of dense training: its appendix H."""
    update = lambda step: step % (period + 1) == 0
    return training_flops(1.0, share, update, steps=period + 1) / (3 * (period + 1))


def test_dense_resnet50() -> None:
    assert sum(np.prod(shape) for shape in shapes("resnet").values()) == 25_502_912
    assert len(shapes("resnet")) == 54
    assert round(dense("resnet").dense / 1e6, 3) == 8202.341
    # A first convolution of 112 x 112 outputs, as it is; and without biases and activations.
    assert round(count("resnet", None, "micronet").dense / 1e6, 3) == 8189.483
    assert round(count("resnet", None, "multiply-add").dense / 1e6, 3) == 8178.369


@pytest.mark.parametrize("row", RESNET50)
def test_sparse_resnet50(row: Any) -> None:
    sparsity, how, skip, inference, once, five, snfs, megabytes = row
    kept = fractional("resnet", sparsity, how, skip)
    share = float(dense("resnet").share(kept))
    assert round(share, 4) == inference
    assert (round(rigl(share), 4), round(5 * rigl(share), 3)) == (once, five)
    if snfs is not None:
        always = training_flops(1.0, share, lambda step: True, steps=1) / 3
        assert round(always, 3) == snfs
    assert round(megabytes_of("resnet", kept), 3) == megabytes


def megabytes_of(name: str, kept: Mapping[str, float]) -> float:
    """Published sizes count a bias in every layer, and no normalization."""
    params = {
        path: {
            "kernel": jax.ShapeDtypeStruct(shape, jnp.float32),
            # A depthwise kernel is that of one output there.
            "bias": jax.ShapeDtypeStruct((1 if path in DEPTHWISE else shape[-1],), jnp.float32),
        }
        for path, shape in shapes(name).items()
    }
    masks = {path: {"kernel": round(number)} for path, number in kept.items()}
    return size_bytes(params, masks).bitmask / 1e6


def test_dense_sizes() -> None:
    assert round(megabytes_of("resnet", {}), 3) == 102.122
    assert round(megabytes_of("mobilenet", {}), 3) == 16.864
    # RigL's page has the notebooks' rounding in its first row: less by 54 weights.
    kept = fractional("resnet", 0.8, "erk", rounded=np.ceil)
    assert round(megabytes_of("resnet", kept), 3) == 23.683


@pytest.mark.parametrize(
    ("sparsity", "paper", "longer", "second"),
    [
        (0.8, 0.5603, 0.840, 0.7068),
        (0.9, 0.5053, 0.758, 0.6702),
        (0.95, 0.4778, 0.717, 0.6519),
        (0.965, 0.4696, 0.704, 0.6464),
    ],
)
def test_gradual_pruning(sparsity: float, paper: float, longer: float, second: float) -> None:
    """Both published formulas over 33 samples of the schedule: means of 3 f_S, of 2 f_S + f_D."""
    schedule = jaxsparse.polynomial_sparsity(sparsity, start=10_000, stop=25_000)
    samples = [float(schedule(1000 * at)) for at in range(33)]
    share = [
        float(dense("resnet").share(fractional("resnet", s, "uniform", STEM))) for s in samples
    ]
    mean = training_flops(1.0, lambda at: share[at], lambda at: False, steps=33) / 99
    assert (round(mean, 4), round(1.5 * mean, 3)) == (paper, longer)
    other = training_flops(1.0, lambda at: share[at], lambda at: True, steps=33) / 99
    assert other == pytest.approx((2 * mean + 1) / 3, rel=1e-6)
    assert round(other, 4) == second


# Printed by RigL's notebook on MobileNet: MFLOPs and megabytes. ERK and uniform beside dense
# depthwise layers, for which nothing is made up; ERK with all but the first layer sparse.
MOBILENET = [
    (0.75, (599.144, 4.888), (330.769, 4.894), (588.355, 4.757)),
    (0.85, (439.152, 3.224), (222.666, 3.229), (422.419, 3.075)),
    (0.9, (334.134, 2.392), (168.614, 2.396), (312.956, 2.235)),
    (0.95, (205.281, 1.560), (114.563, 1.563), (180.359, 1.393)),
]


def test_dense_mobilenet() -> None:
    assert round(dense("mobilenet").dense / 1e6, 3) == 1141.544


@pytest.mark.parametrize("row", MOBILENET)
def test_sparse_mobilenet(row: Any) -> None:
    sparsity, *published = row
    ways = [("erk", tuple(DEPTHWISE)), ("uniform", (*STEM, *DEPTHWISE)), ("erk", STEM)]
    for (how, skip), (mflops, megabytes) in zip(ways, published, strict=True):
        kept = fractional("mobilenet", sparsity, how, skip, rounded=np.ceil)
        counted = float(dense("mobilenet").share(kept)) * dense("mobilenet").dense / 1e6
        assert round(counted, 3) == mflops
        assert megabytes_of("mobilenet", kept) == pytest.approx(megabytes, abs=5.1e-4)


@pytest.mark.parametrize("distribution", [erk, uniform])
def test_whole_weights_cost_what_fractions_cost(distribution: Any) -> None:
    _, params, _ = network("resnet")
    where = lambda path, leaf: jaxsparse.default_where(path, leaf) and path not in STEM
    counts = distribution(params, 0.9, where=where)
    report = count("resnet", counts, QUIRKS["resnet"])
    kept = fractional("resnet", 0.9, distribution.__name__, STEM)
    assert report.ratio == pytest.approx(float(dense("resnet").share(kept)), rel=1e-4)
    rows = {row.path: row.kept for row in report.layers if row.path in kept}
    assert float(dense("resnet").share(rows)) == pytest.approx(report.ratio, rel=1e-6)
