"""Every metric is a pure function that can be compiled, whole, from shapes alone."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxsparse import metrics

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

KEY = jax.random.key(0)
LOGITS, LABELS, SCORES = jnp.zeros((6, 3)), jnp.zeros(6, jnp.int32), jnp.zeros(6)
P = jax.nn.softmax(LOGITS)
IMAGES, CLASSES = jnp.full((2, 8, 8, 1), 0.5), jnp.zeros(2, jnp.int32)
EDGES = jnp.array([0.25, 0.5, 0.75])
PARAMS = {"bias": jnp.zeros(3), "w": jnp.ones((4, 3))}
MASKS = {"bias": optax.MaskedNode(), "w": jnp.eye(4, 3) > 0}
HISTORY = {"bias": optax.MaskedNode(), "w": jnp.ones((2, 4, 3), bool)}
BATCHES = jnp.zeros((2, 5, 4))
DEGREE, COUNTS, POSITIONS = jnp.zeros(3, jnp.int32), jnp.ones(4, jnp.int32), jnp.linspace(0, 1, 3)


def loss(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch @ params["w"]) ** 2) + jnp.sum(params["bias"])


def of_image(images: jax.Array, labels: jax.Array) -> jax.Array:
    return images.sum((1, 2, 3)) * labels


def moments(grads: Any) -> metrics.GradientMoments:
    return metrics.add_gradients(metrics.empty_moments(grads), grads)


attack = {"epsilon": 0.1, "step_size": 0.05, "steps": 2, "restarts": 2}
line = metrics.linear_path
bezier = metrics.bezier_path
# Name -> a call, and the arrays that it is compiled for.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "reliability": (metrics.reliability, (P, LABELS)),
    "equal_mass_reliability": (metrics.equal_mass_reliability, (P, LABELS)),
    "equal_mass_edges": (metrics.equal_mass_edges, (SCORES,)),
    "expected_calibration_error": (
        lambda p, y: metrics.expected_calibration_error(metrics.reliability(p, y)),
        (P, LABELS),
    ),
    "maximum_calibration_error": (
        lambda p, y: metrics.maximum_calibration_error(metrics.reliability(p, y)),
        (P, LABELS),
    ),
    "adaptive_calibration_error": (metrics.adaptive_calibration_error, (P, LABELS)),
    "brier_score": (metrics.brier_score, (P, LABELS)),
    "negative_log_likelihood": (metrics.negative_log_likelihood, (LOGITS, LABELS)),
    "fit_temperature": (metrics.fit_temperature, (LOGITS, LABELS)),
    "max_softmax": (metrics.max_softmax, (LOGITS,)),
    "energy": (metrics.energy, (LOGITS,)),
    "predictive_entropy": (metrics.predictive_entropy, (LOGITS,)),
    "auroc": (metrics.auroc, (SCORES, SCORES)),
    "aupr": (metrics.aupr, (SCORES, SCORES)),
    "fpr_at_tpr": (metrics.fpr_at_tpr, (SCORES, SCORES)),
    "count_scores": (metrics.count_scores, (SCORES, EDGES)),
    "auroc_bounds": (metrics.auroc_bounds, (metrics.ScoreHistogram(COUNTS, COUNTS),)),
    "aupr_bounds": (metrics.aupr_bounds, (metrics.ScoreHistogram(COUNTS, COUNTS),)),
    "fpr_bounds": (metrics.fpr_bounds, (metrics.ScoreHistogram(COUNTS, COUNTS),)),
    "fgsm": (lambda x, y: metrics.fgsm(of_image, x, y, epsilon=0.1), (IMAGES, CLASSES)),
    "pgd": (lambda k, x, y: metrics.pgd(k, of_image, x, y, **attack), (KEY, IMAGES, CLASSES)),
    **{
        name: (lambda k, x, corrupt=corrupt: corrupt(k, x, 3), (KEY, IMAGES))
        for name, corrupt in metrics.CORRUPTIONS.items()
    },
    "through_jpeg": (lambda x: metrics.through_jpeg(x, 50), (IMAGES,)),
    "gradient_norm": (metrics.gradient_norm, (PARAMS,)),
    "effective_gradient_norm": (metrics.effective_gradient_norm, (PARAMS, MASKS)),
    "effective_gradient_flow": (metrics.effective_gradient_flow, (PARAMS, MASKS)),
    "first_order_decrease": (metrics.first_order_decrease, (PARAMS, MASKS)),
    "empty_moments": (metrics.empty_moments, (PARAMS,)),
    "add_gradients": (moments, (PARAMS,)),
    "merge_moments": (lambda g: metrics.merge_moments(moments(g), moments(g)), (PARAMS,)),
    "total_variance": (lambda g, m: metrics.total_variance(moments(g), m), (PARAMS, MASKS)),
    "gradient_variance": (
        lambda p, m, b: metrics.gradient_variance(loss, p, m, b),
        (PARAMS, MASKS, BATCHES),
    ),
    "churn": (metrics.churn, (MASKS, MASKS)),
    "overlap": (metrics.overlap, (MASKS, MASKS)),
    "union": (metrics.union, (MASKS, MASKS)),
    "exploration_rates": (metrics.exploration_rates, (HISTORY,)),
    "degrees": (metrics.degrees, (MASKS["w"],)),
    "degree_histogram": (lambda degree: metrics.degree_histogram(degree, 4), (DEGREE,)),
    "linear_path": (lambda p, t: line(p, p)(t), (PARAMS, 0.5)),
    "bezier_path": (lambda p, t: bezier(p, p, p)(t), (PARAMS, 0.5)),
    "losses_along": (
        lambda p, t, b: metrics.losses_along(loss, line(p, p), t, b),
        (PARAMS, POSITIONS, BATCHES),
    ),
    "loss_barrier": (metrics.loss_barrier, (POSITIONS, POSITIONS)),
    "train_bend": (
        lambda k, p, b: metrics.train_bend(k, loss, p, p, b, optimizer=optax.sgd(0.1), steps=3),
        (KEY, PARAMS, BATCHES),
    ),
    "top_hessian_eigenvalues": (
        lambda k, p, m, b: metrics.top_hessian_eigenvalues(k, loss, p, m, b, k=2, iterations=4),
        (KEY, PARAMS, MASKS, BATCHES),
    ),
}
# They say themselves that they look at masks on the host.
ON_THE_HOST = {"dead_units", "graph_distance"}


def test_no_metric_is_left_out() -> None:
    public = {name for name, value in vars(metrics).items() if _is_function(name, value)}
    assert public == CALLS.keys() | ON_THE_HOST


def _is_function(name: str, value: Any) -> bool:
    return (
        callable(value)
        and not name.startswith("_")
        and not inspect.isclass(value)
        and (hasattr(value, "__wrapped__") or inspect.isfunction(value))
    )


@pytest.mark.parametrize("name", CALLS)
def test_it_is_a_program_of_its_arguments(name: str) -> None:
    function, arguments = CALLS[name]
    first, second = (jax.make_jaxpr(function)(*arguments) for _ in range(2))
    assert str(first) == str(second)
    assert first.effects == set()
    assert first.jaxpr.outvars
