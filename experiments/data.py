"""Data sets as uint8 arrays, and the order in which an epoch visits them.

A set is read once through ``tfds.data_source``, decoded into arrays, and cached as one ``.npz``
file beside its TFDS directory: reading example by example is about a thousand times slower than
gathering a batch from an array. Everything random about a batch happens inside ``jit``:
`epoch_order` here, `experiments.augment` for the images.
"""

import dataclasses
import difflib
import hashlib
import os
import pathlib
import tempfile
import warnings
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ("digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")
ENVIRONMENT_VARIABLE = "JAXSPARSE_DATA_DIR"

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_ORDER_STREAM = 0x0DA7A  # keeps the epochs' keys apart from every other use of the same seed
_CHUNK = 1000  # examples decoded, or summed, at a time


class MissingDatasetError(FileNotFoundError):
    """The data directory does not hold the set; the message has the command that prepares it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification set in memory, as it was stored: no scaling, no shuffling.

    Attributes:
      name: One of `NAMES`.
      num_classes: Number of classes.
      train_images: uint8 ``[N, H, W, C]``; ``N`` is 0 where only a test split was prepared.
      train_labels: int32 ``[N]``.
      test_images: uint8 ``[M, H, W, C]``.
      test_labels: int32 ``[M]``.
      mean: Mean per channel of the train split (of the test split where that is all there is), in
        the units of the pixels.
      std: Standard deviation per channel, likewise; 1 where a channel is constant.
    """

    name: str
    num_classes: int
    train_images: np.ndarray = dataclasses.field(repr=False)
    train_labels: np.ndarray = dataclasses.field(repr=False)
    test_images: np.ndarray = dataclasses.field(repr=False)
    test_labels: np.ndarray = dataclasses.field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of one image."""
        return self.test_images.shape[1:]


def default_data_dir() -> pathlib.Path:
    """``$JAXSPARSE_DATA_DIR``, or ``~/.cache/jaxsparse/data`` where that is unset or empty."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return pathlib.Path(given or "~/.cache/jaxsparse/data").expanduser()


def check_name(name: str) -> None:
    """Raise a ValueError with the nearest names unless ``name`` is one of `NAMES`."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown data set {name!r}, expected one of {', '.join(NAMES)}{hint}")


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set into memory, from its cache where that is valid.

    The first call decodes the TFDS directory and writes ``NAME-VERSION.npz`` beside it; the cache
    is rebuilt when it is damaged or the TFDS directory has changed since. A cache alone, copied to
    a machine without tensorflow-datasets, is read as it is. Examples that carry an ``id`` come in
    its order (CIFAR: the official one), the others in the order of TFDS.

    Args:
      name: One of `NAMES`. ``digits`` is prepared on first use, the others by
        ``python -m experiments.prepare NAME``.
      data_dir: TFDS data directory; by default `default_data_dir`.

    Returns:
      The set, as uint8 and int32 NumPy arrays.

    Raises:
      ValueError: if the name is unknown, or the set is stored in a format without random access.
      MissingDatasetError: if the directory does not hold the set.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     digits = load("digits", folder)
      >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
      ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    check_name(name)
    root = pathlib.Path(default_data_dir() if data_dir is None else data_dir).expanduser()
    prepared = _newest(root.glob(f"{name}/*/dataset_info.json"))
    if prepared is None:
        cache = _newest(root.glob(f"{name}-*.npz"))
        if cache is not None and (dataset := _read_cache(cache, name, None)):
            return dataset
        if name != "digits":
            raise MissingDatasetError(
                f"{name} is not in the data directory {root}: prepare it with "
                f"`python -m experiments.prepare {name} --data-dir {root}`"
            )
        from experiments.datasets import digits

        digits.prepare(root)
        prepared = root / name / str(digits.Digits.VERSION) / "dataset_info.json"
    folder = prepared.parent
    cache = root / f"{name}-{folder.name}.npz"
    fingerprint = _fingerprint(folder)
    dataset = _read_cache(cache, name, fingerprint)
    if dataset is None:
        dataset = _decode(name, folder)
        _write_cache(cache, dataset, fingerprint)
    return dataset


def hold_out(dataset: Dataset, examples: int) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Take a validation set from the train split: the same one for every seed.

    Mean and standard deviation stay those of the whole train split.

    Args:
      dataset: The set.
      examples: Size of the validation set, at least 1, less than the train split has.

    Returns:
      The set with the rest for its train split; uint8 images and int32 labels held out.

    Raises:
      ValueError: if ``examples`` is out of range.
    """
    most = len(dataset.train_images) - 1
    if not 1 <= examples <= most:
        raise ValueError(f"validation is {examples}; it must lie in 1 to {most} (training images)")
    order = np.random.default_rng(0).permutation(most + 1)
    held, rest = np.sort(order[:examples]), np.sort(order[examples:])
    images, labels = dataset.train_images, dataset.train_labels
    left = dataclasses.replace(dataset, train_images=images[rest], train_labels=labels[rest])
    return left, images[held], labels[held]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Number of whole batches in an epoch; raises a ValueError where there is none."""
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"batch_size is {batch_size}, expected 1 to {num_examples} (the number of examples): "
            "choose a smaller batch or a larger set"
        )
    return num_examples // batch_size


def epoch_order(
    seed: jax.typing.ArrayLike,
    epoch: jax.typing.ArrayLike,
    num_examples: int,
    batch_size: int,
) -> jax.Array:
    """Permute the examples of one epoch and cut them into batches, inside ``jit``.

    The indices of a batch are a pure function of seed and step: step ``t`` of training takes row
    ``t % s`` of epoch ``t // s``, where ``s`` is `steps_per_epoch`. So a resumed run sees what an
    uninterrupted one does, wherever it stopped. Compute the order once for each epoch and scan over
    its rows, or over a slice of them: the permutation sorts, which is too slow for every step.

    Args:
      seed: Seed of the run, an int or int32 scalar; may be traced, and mapped over by ``vmap``.
      epoch: Number of the epoch, from 0; may be traced.
      num_examples: Size of the train split. Static.
      batch_size: Examples in a batch, 1 to ``num_examples``. Static.

    Returns:
      int32 ``[steps_per_epoch, batch_size]``: no index twice; the ragged rest of the permutation
      is left out, a different one each epoch.

    Raises:
      ValueError: if ``batch_size`` is outside its range (before tracing).

    Example:
      >>> order = epoch_order(seed=0, epoch=3, num_examples=10, batch_size=4)
      >>> order.shape, len(set(order.ravel().tolist()))
      ((2, 4), 8)
    """
    steps = steps_per_epoch(num_examples, batch_size)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _ORDER_STREAM), epoch)
    order = jax.random.permutation(key, num_examples).astype(jnp.int32)
    return order[: steps * batch_size].reshape(steps, batch_size)


def _newest(paths: Any) -> pathlib.Path | None:
    """The path with the highest version (1.0.0 style) in its folder's or its own name."""

    def version(path: pathlib.Path) -> tuple[int, ...]:
        text = path.stem.split("-")[-1] if path.suffix == ".npz" else path.parent.name
        parts = text.split(".")
        return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()

    return max((path for path in paths if version(path)), key=version, default=None)


def _fingerprint(folder: pathlib.Path) -> str:
    """Hash of the names, sizes and times of a TFDS directory's files: changes when they do."""
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read_cache(path: pathlib.Path, name: str, fingerprint: str | None) -> Dataset | None:
    """The cached set; None where the file is missing, damaged, or of another fingerprint."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            if fingerprint not in (None, str(stored["fingerprint"])):
                return None
            return Dataset(
                name=name,
                num_classes=int(stored["num_classes"]),
                mean=tuple(stored["mean"].tolist()),
                std=tuple(stored["std"].tolist()),
                **{field: stored[field] for field in _ARRAYS},
            )
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write_cache(path: pathlib.Path, dataset: Dataset, fingerprint: str) -> None:
    """Write the cache whole or not at all; a directory that cannot be written only warns."""
    arrays: dict[str, Any] = {field: getattr(dataset, field) for field in _ARRAYS}
    arrays |= {"num_classes": dataset.num_classes, "mean": dataset.mean, "std": dataset.std}
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, fingerprint=fingerprint, **arrays)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide a shared cache from others
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        warnings.warn(
            f"cannot cache {dataset.name} in {path}: {error.strerror}; it is decoded again each "
            "time (make the directory writable, or choose another with --data-dir)",
            stacklevel=3,
        )


def _decode(name: str, folder: pathlib.Path) -> Dataset:
    """Read every split of a TFDS directory through ``tfds.data_source``."""
    import tensorflow_datasets as tfds
    from absl import logging

    info = tfds.builder_from_directory(folder).info
    features: Any = info.features
    if info.file_format is None or info.file_format.value != "array_record":
        raise ValueError(
            f"{folder} is stored as {info.file_format}, expected array_record, which can be read "
            f"at random: remove it and run `python -m experiments.prepare {name} "
            f"--data-dir {folder.parent.parent}`"
        )
    shape = features["image"].shape
    arrays: dict[str, np.ndarray] = {}
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV on the first image
    try:
        for split in ("train", "test"):
            if split in info.splits:
                source = tfds.data_source(
                    f"{name}:{folder.name}", split=split, data_dir=str(folder.parent.parent)
                )
                images, labels = _gather(source, f"Decoding {name} {split}")
            else:
                images, labels = np.zeros((0, *shape), np.uint8), np.zeros((0,), np.int32)
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    finally:
        logging.set_verbosity(verbosity)
    measured = arrays["train_images"] if len(arrays["train_images"]) else arrays["test_images"]
    mean, std = _channel_statistics(measured)
    num_classes = features["label"].num_classes
    return Dataset(name=name, num_classes=num_classes, mean=mean, std=std, **arrays)


def _gather(source: Any, description: str) -> tuple[np.ndarray, np.ndarray]:
    """Every example of a data source as images and labels, by ``id`` where there is one."""
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(source), _CHUNK)
    examples: list[dict[str, Any]] = []
    for start in track(
        starts,
        description=description,
        console=Console(stderr=True),
        transient=True,
        disable=len(starts) < 5,
    ):
        examples += source.__getitems__(range(start, min(start + _CHUNK, len(source))))
    if examples and "id" in examples[0]:
        examples.sort(key=lambda example: example["id"])
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples], np.int32)


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, from exact integer sums."""
    channels = images.shape[-1]
    total, squares = np.zeros((channels,), np.int64), np.zeros((channels,), np.int64)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].reshape(-1, channels).astype(np.int64)
        total += pixels.sum(axis=0)
        squares += (pixels * pixels).sum(axis=0)
    count = images.size // channels
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
