"""The compiled part of a run: one step, many steps a call, all seeds at once."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse._counting import all_finite
from jaxsparse.accounting import FlopsReport, step_cost
from jaxsparse.pruning import fixed, keep_all

from .augment import augment, normalize
from .data import Dataset
from .mesh import ONE_DEVICE, Layout

_INIT_STREAM, _AUGMENT_STREAM = 0x1217, 0xA06
_EVALUATION_BATCH = 1000


class Learner(NamedTuple):
    """All that training carries, with a leading seed axis on everything but the sparse step."""

    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any  # SparsityState


class StepMetrics(NamedTuple):
    """Metrics of each step, ``[steps, seeds]``.

    Attributes:
      loss: Mean cross-entropy of the batch, nats.
      accuracy: Fraction of the batch classified right.
      grad_norm: L2 norm of the dense gradient.
      nonfinite: 1 where the loss or a gradient was not finite.
      inference_flops: Operations of a forward pass, as a fraction of dense.
      training_flops: Operations of the step, in dense forward passes over its batch.
      parameters: Parameters of the step's forward pass, biases and normalization among them.
    """

    loss: Any
    accuracy: Any
    grad_norm: Any
    nonfinite: Any
    inference_flops: Any
    training_flops: Any
    parameters: Any


class LayerCost(NamedTuple):
    """One weight leaf, in the network's order, with the dense operations of one image."""

    path: str
    shape: tuple[int, ...]
    size: int
    flops: int


class Program(NamedTuple):
    """The compiled functions of one cell.

    Attributes:
      init: ``seeds -> Learner``.
      start: ``(seeds, params, batch_stats, masks) -> Learner``: from weights under masks that are
        given, all with a seed axis; for an algorithm that never moves them.
      go_on: ``(seeds, params, batch_stats) -> Learner``: from a network with a seed axis, the first
        masks by its weights (``jaxsparse.keep_largest``).
      run: ``(learner, indices [steps, seeds, batch]) -> (learner, StepMetrics)``.
      scores: ``learner, images -> logits [seeds, images, classes]``, in evaluation mode.
      evaluate: ``learner, images, labels -> (loss, accuracy)``, an entry a seed; default: the test
        set.
      kept: ``learner -> {path: kept weights}``, int32, an entry a seed.
      explored: ``learner -> share of the weights ever kept``, an entry a seed; ``None`` where the
        algorithm keeps no account.
      layers: Weight leaves in the network's order.
      flops: Operations of a dense forward pass over one image.
      abstract: A ``Learner`` of shapes and shardings, for restoring one.
    """

    init: Callable[[Any], Learner]
    start: Callable[[Any, Any, Any, Any], Learner]
    go_on: Callable[[Any, Any, Any], Learner]
    run: Callable[[Learner, Any], tuple[Learner, StepMetrics]]
    scores: Callable[[Learner, Any], jax.Array]
    evaluate: Callable[..., tuple[jax.Array, jax.Array]]
    kept: Callable[[Learner], dict[str, Any]]
    explored: Callable[[Learner], Any] | None
    layers: tuple[LayerCost, ...]
    flops: int
    abstract: Learner


def masks_given_later() -> jaxsparse.MaskAlgorithm:
    """The algorithm of a program whose masks are given to ``start``; ``init`` keeps all weights.

    Returns:
      A ``MaskAlgorithm`` that never moves a mask.
    """
    return fixed(None)._replace(init=lambda key, params: keep_all(params))


def build_program(
    model: nn.Module,
    dataset: Dataset,
    optimizer: optax.GradientTransformation,
    algorithm: jaxsparse.MaskAlgorithm,
    seeds: int,
    augmented: bool,
    accounted: bool = False,
    layout: Layout = ONE_DEVICE,
) -> Program:
    """Compile nothing yet: the functions that a cell needs, jitted over all seeds.

    Args:
      model: A linen module with ``__call__(images, train)``.
      dataset: The data, as uint8.
      optimizer: The inner optimizer.
      algorithm: The method.
      seeds: Number of seeds.
      augmented: Crop and flip the training images?
      accounted: Keep account of the weights ever kept?
      layout: Where it runs; what is given to ``run`` is placed by ``layout.share``.

    Returns:
      A ``Program``.

    Raises:
      ValueError: if the layout's mesh splits weights and fits none.
    """
    if accounted:
        algorithm = jaxsparse.explored(algorithm)
    train_images, train_labels = (
        jnp.asarray(dataset.train_images),
        jnp.asarray(dataset.train_labels),
    )
    mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
    scale = lambda images: normalize(images, mean, std)
    sample = scale(jnp.asarray(dataset.train_images[:1]))
    apply: Callable[..., Any] = model.apply

    def tx(seed: jax.Array) -> Any:
        return jaxsparse.sparsify(optimizer, algorithm, seed=seed)

    def init_one(seed: jax.Array) -> Learner:
        key = jax.random.fold_in(jax.random.key(seed), _INIT_STREAM)
        variables = model.init(key, sample, train=False)
        opt_state = tx(seed).init(variables["params"])
        params = jaxsparse.initial_params(variables["params"], opt_state)
        return Learner(seed, params, variables.get("batch_stats", {}), opt_state)

    def start_one(seed: jax.Array, params: Any, batch_stats: Any, masks: Any) -> Learner:
        # Copies, for `run` takes over what it is given.
        seed, batch_stats, masks = jax.tree.map(jnp.copy, (seed, batch_stats, masks))
        opt_state = jaxsparse.sparsify(optimizer, fixed(masks), seed=seed).init(params)
        return Learner(seed, jaxsparse.apply_masks(params, masks), batch_stats, opt_state)

    def go_on_one(seed: jax.Array, params: Any, batch_stats: Any) -> Learner:
        seed, params, batch_stats = jax.tree.map(jnp.copy, (seed, params, batch_stats))
        chosen = jaxsparse.keep_largest(algorithm)
        opt_state = jaxsparse.sparsify(optimizer, chosen, seed=seed).init(params)
        return Learner(seed, jaxsparse.initial_params(params, opt_state), batch_stats, opt_state)

    one = jax.eval_shape(init_one, jnp.uint32(0))
    axes = jaxsparse.vmap_axes(one)
    report = _forward_flops(model, one, sample)
    paths = jaxsparse.sparse_paths(one.opt_state.masks)

    init = jax.vmap(init_one, out_axes=axes)
    abstract = jax.eval_shape(init, jnp.arange(seeds, dtype=jnp.uint32))
    places = layout.places(abstract, abstract.params)

    def gradient(learner: Learner, indices: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
        seed, params, batch_stats, opt_state = learner
        labels, images = train_labels[indices], train_images[indices]
        if augmented:
            key = jax.random.fold_in(jax.random.key(seed), _AUGMENT_STREAM)
            images = augment(jax.random.fold_in(key, opt_state.sparse_step), images)

        def loss_of(params: Any) -> Any:
            variables = {"params": params, "batch_stats": batch_stats}
            logits, changed = apply(variables, scale(images), train=True, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (logits, changed.get("batch_stats", batch_stats))

        at = jaxsparse.forward_params(params, opt_state)
        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(at)
        return grads, (loss, jnp.mean(jnp.argmax(logits, -1) == labels), batch_stats)

    laid_out = layout.auto(gradient, places and places.params)

    def step_one(learner: Learner, indices: jax.Array) -> tuple[Learner, StepMetrics]:
        seed, params, _, before = learner
        grads, (loss, accuracy, batch_stats) = laid_out(learner, indices)
        updates, opt_state = tx(seed).update(grads, before, params)
        norm, sound = optax.tree.norm(grads), all_finite([[g] for g in jax.tree.leaves(grads)])
        cost = step_cost(report, algorithm, before, opt_state, params)
        metrics = StepMetrics(
            loss=loss,
            accuracy=accuracy,
            grad_norm=norm,
            # (The norm of huge gradients overflows.)
            nonfinite=1 - (jnp.isfinite(loss) & sound).astype(jnp.int32),
            inference_flops=cost.inference,
            training_flops=cost.training,
            parameters=cost.parameters,
        )
        return Learner(seed, optax.apply_updates(params, updates), batch_stats, opt_state), metrics

    def evaluate_one(learner: Learner, images: jax.Array) -> jax.Array:
        at = jaxsparse.forward_params(learner.params, learner.opt_state, training=False)
        variables = {"params": at, "batch_stats": learner.batch_stats}
        return apply(variables, scale(images), train=False)

    def run(learner: Learner, indices: jax.Array) -> tuple[Learner, StepMetrics]:
        over_seeds = jax.vmap(step_one, in_axes=(axes, 0), out_axes=(axes, 0))

        def step(learner: Learner, rows: jax.Array) -> tuple[Learner, StepMetrics]:
            learner, metrics = over_seeds(learner, rows)
            return layout.hold(learner, places), metrics

        return jax.lax.scan(step, learner, indices)

    logits = jax.jit(jax.vmap(evaluate_one, in_axes=(axes, None)), out_shardings=layout.everywhere)

    def scores(learner: Learner, images: Any) -> jax.Array:
        starts = range(0, len(images), _EVALUATION_BATCH)
        shares = (layout.share(images[i : i + _EVALUATION_BATCH], 0) for i in starts)
        return jnp.concatenate([layout.local(logits(learner, share)) for share in shares], axis=1)

    def evaluate(
        learner: Learner, images: Any = dataset.test_images, labels: Any = dataset.test_labels
    ) -> tuple[jax.Array, jax.Array]:
        found = scores(learner, images)
        labels = jnp.broadcast_to(jnp.asarray(labels), found.shape[:2])
        losses = optax.softmax_cross_entropy_with_integer_labels(found, labels)
        return losses.mean(1), (jnp.argmax(found, -1) == labels).mean(1)

    def kept(learner: Learner) -> dict[str, Any]:
        kept = np.asarray(learner.opt_state.info.kept)
        return {path: kept[..., i] for i, path in enumerate(paths)}

    rate = jax.jit(
        jax.vmap(jaxsparse.exploration_rate, in_axes=(axes.opt_state,)),
        out_shardings=layout.everywhere,
    )
    return Program(
        init=jax.jit(init, out_shardings=places),
        start=jax.jit(jax.vmap(start_one, out_axes=axes), out_shardings=places),
        go_on=jax.jit(jax.vmap(go_on_one, out_axes=axes), out_shardings=places),
        run=layout.step(run, places),
        scores=scores,
        evaluate=evaluate,
        kept=kept,
        explored=(lambda learner: rate(learner.opt_state)) if accounted else None,
        layers=tuple(
            LayerCost(row.path, row.shape, math.prod(row.shape), row.dense)
            for row in report.layers
            if row.shape
        ),
        flops=report.dense,
        abstract=layout.placed(abstract, places),
    )


def spent(
    last: Mapping[str, Any], metrics: StepMetrics, program: Program, batch: int, step: int
) -> dict[str, Any]:
    """What a training has cost so far; lists have an entry a seed.

    Args:
      last: What this function said after the call before; ``{}`` at the start.
      metrics: Of the steps since then.
      program: That ran them.
      batch: Images a step.
      step: Steps so far.

    Returns:
      ``cost`` in dense forward passes over a batch, ``training_flops`` as a fraction of dense
      training, ``flops`` in operations, ``average_parameters`` over all steps.
    """
    costs = np.asarray(metrics.training_flops, np.float64)
    parameters = np.asarray(metrics.parameters, np.float64)
    nothing = np.zeros(costs.shape[1])
    cost = np.asarray(last.get("cost", nothing)) + costs.sum(0)
    already = np.asarray(last.get("average_parameters", nothing)) * (step - len(costs))
    return {
        "cost": cost.tolist(),
        "training_flops": (cost / (3 * step)).tolist(),
        "flops": (cost * program.flops * batch).tolist(),
        "average_parameters": ((already + parameters.sum(0)) / step).tolist(),
    }


def _forward_flops(model: nn.Module, one: Learner, sample: jax.Array) -> FlopsReport:
    """The operations of a dense forward pass over one image."""

    def forward(params: Any, batch_stats: Any, images: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, images, train=False)

    return jaxsparse.flops(forward, one.params, one.batch_stats, sample)
