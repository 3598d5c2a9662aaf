"""Prepare data sets from their official files, without TensorFlow.

    python -m experiments.prepare mnist cifar10 --data-dir DIR
    python -m experiments.prepare mnist --data-dir DIR --from FOLDER     # files already downloaded

Writes the TFDS directory that ``tfds.data_source("mnist", data_dir=DIR)`` reads under its official
name, version and features, in the official order. The addresses and the SHA-256 of every file are
those that TFDS itself records. CIFAR is read from its binary version, so nothing is unpickled.
"""

import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import pathlib
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from experiments import data, datasets
from experiments.datasets import digits

_BLOCK = 1 << 20  # bytes read at a time
_TIMEOUT = 30  # seconds without an answer


class Split(NamedTuple):
    """The arrays of one split: uint8 ``[N, H, W, C]`` and, for each label feature, ``[N]``."""

    images: np.ndarray
    labels: dict[str, np.ndarray]


class Raw(NamedTuple):
    """What the official files of a set hold."""

    splits: dict[str, Split]
    names: dict[str, list[str]]  # label feature -> names of its classes, where the files have them


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The uint8 array of a gzipped idx file, in the shape that its header gives."""
    with gzip.open(path) as file:
        content = file.read()
    rank = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", count=rank, offset=4) if rank else np.zeros(0, int)
    if not rank or len(content) != 4 + 4 * rank + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole idx file of bytes: download it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_mnist(files: Mapping[str, pathlib.Path]) -> Raw:
    """MNIST and its likes: an idx file of images and one of labels for each split."""
    splits = {}
    for split, stem in {"train": "train", "test": "t10k"}.items():
        images = read_idx(files[f"{stem}-images-idx3-ubyte.gz"])
        labels = read_idx(files[f"{stem}-labels-idx1-ubyte.gz"])
        splits[split] = Split(images[..., None], {"label": labels})
    return Raw(splits, {})


def read_cifar(files: Mapping[str, pathlib.Path]) -> Raw:
    """CIFAR-10 or CIFAR-100 from the tarball of its binary version, read without unpacking it."""
    ((name, path),) = files.items()
    if name == "cifar-10-binary.tar.gz":
        train = [f"data_batch_{i}.bin" for i in range(1, 6)]
        parts, label_files = (train, ["test_batch.bin"]), {"label": "batches.meta.txt"}
    else:
        parts = (["train.bin"], ["test.bin"])
        label_files = {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}
    with tarfile.open(path, "r:gz") as archive:
        members = {pathlib.PurePosixPath(m.name).name: m for m in archive if m.isfile()}

        def read(member: str) -> bytes:
            file = archive.extractfile(members[member]) if member in members else None
            if file is None:
                raise ValueError(f"{path} does not hold {member}: download it again")
            return file.read()

        names = {key: read(file).decode().split() for key, file in label_files.items()}
        splits = {
            split: _cifar_split(b"".join(map(read, members)), list(label_files), path)
            for split, members in zip(("train", "test"), parts, strict=True)
        }
    return Raw(splits, names)


def _cifar_split(content: bytes, keys: list[str], path: pathlib.Path) -> Split:
    """Records of one byte for each label, then the red, the green and the blue plane."""
    size = len(keys) + 3 * 32 * 32
    if len(content) % size:
        raise ValueError(f"{path} is not made of records of {size} bytes: download it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    images = records[:, len(keys) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(images, {key: records[:, i] for i, key in enumerate(keys)})


def prepare(
    name: str,
    data_dir: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    console: Console | None = None,
) -> None:
    """Write one data set below ``data_dir``; nothing happens if it is already there.

    Args:
      name: One of `experiments.data.NAMES`.
      data_dir: TFDS data directory, made where it is missing.
      folder: Folder with the official files, directly or in a folder ``name`` (MNIST's and
        Fashion-MNIST's have the same names); by default they are downloaded into
        ``data_dir/downloads/name``.
      console: Where progress is shown; by default standard error.

    Raises:
      ValueError: if the name is unknown or a file does not have its recorded hash.
      FileNotFoundError: if ``folder`` lacks a file.
      OSError: if a download fails or ``data_dir`` cannot be written.
    """
    data.check_name(name)
    console = console or Console(stderr=True)
    root = pathlib.Path(data_dir).expanduser()
    if name == "digits":
        return digits.prepare(root)
    official: Any = tfds.builder_cls(name)
    if (root / name / str(official.VERSION) / "dataset_info.json").exists():
        return None
    files = {}
    for url, info in official.url_infos.items():
        file = url.rsplit("/", 1)[-1]
        if folder is None:
            files[file] = root / "downloads" / name / file
            if not files[file].exists():
                download(url, files[file], info.checksum, console)
        else:
            files[file] = _find(pathlib.Path(folder).expanduser(), name, file)
        _check_hash(files[file], info.checksum)
    raw = read_cifar(files) if name.startswith("cifar") else read_mnist(files)
    with Progress(console=console, transient=True) as progress:
        writer = _writer(official, raw, progress)
        datasets.write(writer(data_dir=str(root), file_format="array_record"))
    return None


def download(url: str, path: pathlib.Path, sha256: str, console: Console) -> None:
    """Fetch one file, check its hash, and only then give it its name."""
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn())
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT) as response,
            Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress,
            partial.open("wb") as file,
        ):
            length = response.headers.get("Content-Length")
            task = progress.add_task(path.name, total=int(length) if length else None)
            while block := response.read(_BLOCK):
                file.write(block)
                progress.advance(task, len(block))
        _check_hash(partial, sha256, origin=url)
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot download {url} to {path}: {reason}; download it by hand into FOLDER and pass "
            "--from FOLDER"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _find(folder: pathlib.Path, name: str, file: str) -> pathlib.Path:
    """Where ``folder`` holds an official file."""
    for path in (folder / name / file, folder / file):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{file} of {name} is neither in {folder} nor in {folder / name}: download it there, or "
        "leave out --from"
    )


def _check_hash(path: pathlib.Path, sha256: str, origin: str | None = None) -> None:
    """Raise a ValueError unless the file is the official one, to the byte."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{origin or path} has SHA-256 {found}, expected {sha256}: "
            + ("try again, or pass --from FOLDER" if origin else "remove it and download it again")
        )


def _png(image: np.ndarray) -> bytes:
    """uint8 ``[H, W, 1 or 3]`` as a PNG file: TFDS stores bytes as they are, without TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _writer(official: Any, raw: Raw, progress: Progress) -> type[Any]:
    """The official builder of a set, with a generator that needs no TensorFlow."""

    class Writer(official, skip_registration=True):  # pyright: ignore
        name = official.name
        pkg_dir_path = official.pkg_dir_path

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            for key, names in raw.names.items():
                self.info.features[key].names = names
            return {split: self._generate_examples(split) for split in raw.splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            images, labels = raw.splits[split]
            task = progress.add_task(f"Writing {self.name} {split}", total=len(images))
            for index, image in enumerate(images):  # keyed by index, which fixes TFDS's order
                example: dict[str, Any] = {key: int(label[index]) for key, label in labels.items()}
                if "id" in self.info.features:
                    example["id"] = f"{split}_{index:05d}"
                yield index, {**example, "image": _png(image)}
                progress.advance(task)

    Writer.__name__ = Writer.__qualname__ = official.__name__
    Writer.__module__ = official.__module__
    return Writer


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Prepare data sets from their official files, without TensorFlow."""

    names: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")]]
    """Data sets: digits, mnist, fashion_mnist, kmnist, cifar10, cifar100."""
    data_dir: pathlib.Path = dataclasses.field(default_factory=data.default_data_dir)
    """TFDS data directory to write into; $JAXSPARSE_DATA_DIR changes the default."""
    folder: Annotated[pathlib.Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
    """Folder with the official files, directly or in a folder named like the set; no download."""


def main(arguments: Arguments) -> None:
    """Prepare each set in turn; an error ends the program with one line."""
    console = Console(stderr=True)
    try:
        if not arguments.names:
            raise ValueError(f"no data set given, expected one of {', '.join(data.NAMES)}")
        for name in arguments.names:
            data.check_name(name)
        for name in arguments.names:
            prepare(name, arguments.data_dir, arguments.folder, console=console)
            print(f"{name} is ready in {arguments.data_dir}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python -m experiments.prepare"))
