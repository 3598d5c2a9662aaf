"""Networks of the study in training: dense ones, and sparse ones with packed parameters."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsparse
from jaxsparse import accelerate

from .. import data
from ..augment import normalize
from ..cell import Order
from .cells import HEAD, HIDDEN, Cell, Study, kept_weights, training_flops

_INIT_STREAM = 0xB10C
_EVALUATION_BATCH = 1000


class Network(NamedTuple):
    """The functions of a cell.

    Attributes:
      start: ``seed -> (packed, state)``.
      step: ``(packed, state, images, labels, moves=bool) -> (packed, state, loss)``, compiled.
      due: ``step -> bool``: do masks move?
      logits: ``(packed, topology, images) -> logits``, compiled.
      train_images: uint8 ``[images, inputs]``.
      test_images: Likewise.
    """

    start: Callable[[int], tuple[Any, Any]]
    step: Callable[..., tuple[Any, Any, Any]]
    due: Callable[[int], bool]
    logits: Callable[..., Any]
    train_images: np.ndarray
    test_images: np.ndarray

    @property
    def inputs(self) -> int:
        """Of its first layer."""
        return self.train_images.shape[1]


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images of another size, by linear interpolation along each side.

    Args:
      images: uint8 ``[images, height, width, 1]``.
      size: Height and width.

    Returns:
      uint8 ``[images, *size, 1]``.
    """
    sides = zip(images.shape[1:3], size, strict=True)
    tall, wide = (jax.image.resize(jnp.eye(old), (new, old), "linear") for old, new in sides)
    resize = jax.jit(lambda x: jnp.round(tall @ x.astype(jnp.float32) @ wide.T).astype(jnp.uint8))
    parts = range(0, len(images), _EVALUATION_BATCH)
    found = [np.asarray(resize(images[i : i + _EVALUATION_BATCH, ..., 0])) for i in parts]
    return np.concatenate(found)[..., None]


def logits_of(params: Any, topology: Any, x: Any) -> Any:
    """Two hidden layers with ReLU and a dense last one; packed or dense.

    Args:
      params: Parameters.
      topology: Beside them.
      x: ``[batch, inputs]``.

    Returns:
      ``[batch, classes]``.
    """
    for name in HIDDEN:
        layer = params[name]
        kernel, of = layer["kernel"], topology[name]["kernel"]
        x = jax.nn.relu(accelerate.matmul(x, kernel, of, bias=layer["bias"]))
    return x @ params[HEAD]["kernel"] + params[HEAD]["bias"][None]


def first_weights(seed: int, cell: Cell, inputs: int, classes: int) -> Any:
    """Dense parameters, of which a sparse network keeps a part: He's, by the inputs kept.

    Args:
      seed: The seed: the same weights, but for their scale, in all networks of one width.
      cell: The network.
      inputs: Inputs of its first layer.
      classes: Outputs of its last one.

    Returns:
      Pytree of arrays.
    """
    key = jax.random.fold_in(jax.random.key(seed), _INIT_STREAM)
    sizes = (inputs, *[cell.width] * len(HIDDEN), classes)
    scales = (*[1 - cell.sparsity] * len(HIDDEN), 1.0)
    params = {}
    for i, name in enumerate((*HIDDEN, HEAD)):
        shape = sizes[i : i + 2]
        kernel = jax.nn.initializers.he_normal()(jax.random.fold_in(key, i), shape, jnp.float32)
        params[name] = {"kernel": kernel / scales[i] ** 0.5, "bias": jnp.zeros(shape[1])}
    return params


def algorithm_of(study: Study, cell: Cell) -> jaxsparse.MaskAlgorithm:
    """RigL in blocks on the hidden layers, as many in each block column; or dense.

    Args:
      study: The study.
      cell: The network.

    Returns:
      A ``MaskAlgorithm``.
    """
    if not cell.block:
        return jaxsparse.dense()
    stop = max(int(study.stop * study.steps), study.interval + 1)
    structure = jaxsparse.block(cell.block, cell.block, balanced=True) if cell.block > 1 else None
    return jaxsparse.rigl(
        cell.sparsity,
        distribution=jaxsparse.uniform,
        update=jaxsparse.every(study.interval, start=study.interval, stop=stop),
        drop_fraction=optax.cosine_decay_schedule(study.drop_fraction, stop),
        structure=structure,
        where=lambda path, leaf: path.split("/")[0] in HIDDEN and leaf.ndim == 2,
    )


class Trainer:
    """Trains the networks of a study on one data set; each is compiled once."""

    def __init__(self, study: Study, dataset: data.Dataset) -> None:
        """Compile nothing yet."""
        self._study, self._dataset = study, dataset
        self._classes, self.labels = dataset.num_classes, dataset.train_labels
        order = Order(study.seeds, len(self.labels), study.batch_size)
        self.rows = functools.cache(lambda: order.steps(0, study.steps))
        self._images = functools.cache(self._images_of)
        self.network = functools.cache(self._build)

    def train(self, cell: Cell, seed: int) -> dict[str, Any]:
        """Train one network.

        Args:
          cell: Which one.
          seed: Of first weights, first masks, and the order of the images.

        Returns:
          Its numbers.
        """
        began, network, study = time.monotonic(), self.network(cell), self._study
        rows = self.rows()[:, seed]
        moving = [network.due(step) for step in range(study.steps)]
        packed, state = network.start(seed)
        losses = []
        for mine, moves in zip(rows, moving, strict=True):
            batch = network.train_images[mine], self.labels[mine]
            packed, state, loss = network.step(packed, state, *batch, moves=moves)
            losses.append(loss)
        loss, accuracy = self._evaluate(network, packed, state.topology)
        counts = (network.inputs, self._classes)
        return {
            "test_accuracy": accuracy,
            "test_loss": loss,
            "nonfinite": int((~np.isfinite(np.asarray(losses))).sum()),
            "kept": sum(layer["kernel"].size for layer in packed.values()),
            "dense": kept_weights(Cell(cell.width), *counts),
            "flops": training_flops(study, cell, *counts, moves=sum(moving)),
            "seconds": time.monotonic() - began,
        }

    def _build(self, cell: Cell) -> Network:
        study, block, algorithm = self._study, max(cell.block, 1), algorithm_of(self._study, cell)
        train_images, test_images = self._images(cell.resizes)
        inputs = train_images.shape[1]
        rate = optax.warmup_cosine_decay_schedule(
            0.0, study.learning_rate, max(study.steps // 10, 1), study.steps
        )
        optimizer = lambda seed: accelerate.packed_optimizer(optax.adam(rate), algorithm, seed=seed)

        first_masks = jax.jit(algorithm.init)

        def start(seed: int) -> tuple[Any, Any]:
            params = first_weights(seed, cell, inputs, self._classes)
            masks = first_masks(jax.random.key(seed), params)
            packed, topology = accelerate.pack(
                params, masks, block=(block, block), balanced=cell.multiplies_blocks
            )
            return packed, optimizer(seed).init(packed, topology)

        def loss_of(packed: Any, topology: Any, images: Any, labels: Any) -> Any:
            out = logits_of(packed, topology, self._scale(images))
            return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

        # The seed is in the state: all seeds share the program.
        step, due = accelerate.train_step(loss_of, optimizer(0)), algorithm.due
        return Network(
            start=start,
            step=jax.jit(step, static_argnames="moves", donate_argnums=(0, 1)),
            due=lambda step: due is not None and bool(due(step)),
            logits=jax.jit(lambda p, t, images: logits_of(p, t, self._scale(images))),
            train_images=train_images,
            test_images=test_images,
        )

    def _images_of(self, resizes: bool) -> tuple[np.ndarray, np.ndarray]:
        """Flat images of both splits, as they are or in the size of the study."""
        both = self._dataset.train_images, self._dataset.test_images
        if resizes:
            both = tuple(resized(images, self._study.image) for images in both)
        train, test = (images.reshape(len(images), -1) for images in both)
        return train, test

    def _scale(self, images: Any) -> Any:
        mean, std = np.asarray(self._dataset.mean), np.asarray(self._dataset.std)
        return normalize(images[..., None], mean, std)[..., 0]

    def _evaluate(self, network: Network, packed: Any, topology: Any) -> tuple[float, float]:
        images, labels = network.test_images, self._dataset.test_labels
        parts = range(0, len(images), _EVALUATION_BATCH)
        chunks = [images[i : i + _EVALUATION_BATCH] for i in parts]
        out = np.concatenate([network.logits(packed, topology, x) for x in chunks])
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(out), labels)
        return float(losses.mean()), float((out.argmax(-1) == labels).mean())
