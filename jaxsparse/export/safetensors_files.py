"""Parameters and masks in one safetensors file, written whole or not at all, read with care."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import PyTree

from jaxsparse._tree import flatten_with_paths, join
from jaxsparse.base import Masks, Params
from jaxsparse.export._format import (
    DESCRIPTION,
    DIGEST,
    DTYPES,
    Entry,
    describe,
    digest,
    parse,
)
from jaxsparse.export._named import (
    Named,
    check_paths,
    host,
    is_mark,
    kept_values,
    named_leaves,
    nested,
    placed,
    with_zeros,
)
from jaxsparse.export.bitmask import pack_mask, unpack_mask


class Tensor(NamedTuple):
    """One tensor of a file: its values with zeros, its mask (None: dense), and its bytes there."""

    values: np.ndarray
    mask: np.ndarray | None
    nbytes: int


class Contents(NamedTuple):
    """All of a file, checked: its tensors by path, and its user's metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def save_safetensors(
    path: str | os.PathLike[str],
    params: Params,
    masks: Masks | None = None,
    *,
    packed: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write parameters and masks to one safetensors file.

    Of a leaf with a mask, either all values are written, with exact zeros off the mask, under
    the leaf's path (``Dense_0/kernel``), so that every reader of safetensors sees a dense model;
    or, ``packed``, the kept ones in row-major order (``Dense_0/kernel.values``). The mask is
    beside them in both cases, at one bit a weight (``Dense_0/kernel.mask``, see ``pack_mask``):
    a kept weight that happens to be zero stays kept. Leaves without a mask are written whole.
    The file's metadata describe each tensor (shape, dtype, kept count, form), and hold a digest
    of everything.

    The file appears whole or not at all: it is written beside its place, synced to the disk, and
    renamed.

    Args:
      path: The file; its folder must be there. A file of that name is replaced.
      params: Pytree of concrete arrays, of bool, integers, float16, bfloat16, float32 or float64.
        Leaves that are no arrays (functions, Python's numbers) are left out. Under a method that
        trains dense weights pass ``forward_params(params, opt_state, training=False)``.
      masks: Like ``params``: bool arrays, ``optax.MaskedNode()`` where dense (also for a whole
        subtree); ``None``: all leaves are dense.
      packed: Only the kept values?
      metadata: Text of your own, name to text.

    Raises:
      ValueError: if masks do not fit, an array is traced, partly on devices of other processes,
        or of another dtype, or two leaves have the same path.
      ImportError: without safetensors.

    Example:
      >>> import os, tempfile, jax.numpy as jnp
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]], jnp.bfloat16)}
      >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
      >>> save_safetensors(path, params, {"kernel": jnp.array([[True, False], [False, True]])})
      >>> loaded, masks = load_safetensors(path)
      >>> print(loaded["kernel"], loaded["kernel"].dtype, masks["kernel"].sum())
      [[1 0]
       [0 4]] bfloat16 2
    """
    leaves = [row for row in named_leaves(params, masks)[0] if not is_mark(row.leaf)]
    check_paths(row.path for row in leaves)
    entries: dict[str, Entry] = {}
    arrays: dict[str, np.ndarray] = {}
    for row in leaves:
        entries[row.path], found = _encode(row, packed)
        for name in found.keys() & arrays.keys():
            raise ValueError(f"two arrays of the file have the name {name!r}; rename one leaf")
        arrays.update(found)
    said = _said(metadata or {}) | {DESCRIPTION: describe(entries)}
    said |= {DIGEST: digest(arrays, said)}
    library = _library()
    with _replacing(pathlib.Path(path)) as temporary:
        try:
            library.numpy.save_file(arrays, temporary, said)
        except library.SafetensorError as error:
            raise OSError(f"{path} could not be written: {printable(str(error))}") from None


def _encode(row: Named, packed: bool) -> tuple[Entry, dict[str, np.ndarray]]:
    """One leaf: what is said of it, and the arrays that are written."""
    if row.leaf.dtype.name not in DTYPES:
        raise ValueError(
            f"{row.path} has dtype {row.leaf.dtype}, and a file holds {', '.join(DTYPES)}; cast "
            "it, or leave it out (of a random key, save jax.random.key_data)"
        )
    array = host(row.path, row.leaf)
    if row.mask is None:
        return Entry(array.shape, array.dtype.name, None, "dense"), {row.path: array}
    values = kept_values(array, row.mask)
    form = "packed" if packed else "zeros"
    entry = Entry(array.shape, array.dtype.name, int(values.size), form)
    written = [values if packed else with_zeros(values, row.mask), pack_mask(row.mask)]
    return entry, dict(zip(entry.arrays(row.path), written, strict=True))


def _said(metadata: Mapping[str, str]) -> dict[str, str]:
    """The user's metadata."""
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)) or key.startswith(DESCRIPTION):
            raise ValueError(
                f"metadata has {key!r}: {value!r}; give text under names of text that do not "
                f"start with {DESCRIPTION!r}, such as json.dumps(value)"
            )
    return dict(metadata)


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file beside the target that takes its place, or is gone if anything fails."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)  # safetensors lets nobody but the owner read
        _sync(temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    # The new name, too, outlives a crash of the machine, where the system can sync a folder.
    with contextlib.suppress(OSError):
        _sync(target.parent)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_safetensors(path: str | os.PathLike[str], *, like: PyTree = None) -> tuple[Params, Masks]:
    """Read what ``save_safetensors`` wrote, bit for bit.

    Nothing of the file is believed: one that is truncated or has bytes too many, whose header,
    description, masks and values do not fit one another, or that has another digest than it says,
    is refused. No more memory is taken than the tensors need, and nothing is executed.

    Args:
      path: The file.
      like: A pytree to return the arrays in: of ``jax.Array`` or ``ShapeDtypeStruct`` (which
        come back as ``jax.Array``, with its sharding) or of NumPy arrays. Its leaves that are no
        arrays stay as they are. ``None``: nested dicts of NumPy arrays, by the names between
        ``"/"``.

    Returns:
      ``(params, masks)``: parameters with exact zeros off the masks; and, in the same structure,
      bool arrays, or ``optax.MaskedNode()`` where a leaf has no mask.

    Raises:
      ValueError: if the file is no whole, unchanged file of ``save_safetensors``, or has other
        paths, shapes or dtypes than ``like``.
      ImportError: without safetensors.

    Example:
      >>> import os, tempfile, jax, jax.numpy as jnp
      >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
      >>> params = [jnp.zeros(3), jnp.array([-0.0, 5.0])]
      >>> save_safetensors(path, params, [optax.MaskedNode(), jnp.array([True, False])])
      >>> load_safetensors(path, like=jax.eval_shape(lambda: params))
      ([Array([0., 0., 0.], dtype=float32), Array([-0.,  0.], dtype=float32)],
       [MaskedNode(), Array([ True, False], dtype=bool)])
    """
    tensors = read_contents(path).tensors
    if like is None:
        mark = lambda mask: optax.MaskedNode() if mask is None else mask
        values = {name: tensor.values for name, tensor in tensors.items()}
        return nested(values), nested({name: mark(t.mask) for name, t in tensors.items()})
    leaves, structure = flatten_with_paths(like)
    _check_like(path, tensors, [(name, leaf) for name, leaf in leaves if not is_mark(leaf)])
    both = [_as_in(leaf, name, tensors.get(name)) for name, leaf in leaves]
    return structure.unflatten([p for p, _ in both]), structure.unflatten([m for _, m in both])


def _as_in(leaf: Any, name: str, tensor: Tensor | None) -> tuple[Any, Any]:
    """Values and mask, where a leaf of ``like`` lies; what is no array stays as it is."""
    if is_mark(leaf) or tensor is None:
        return leaf, optax.MaskedNode()
    found = [array for array in (tensor.values, tensor.mask) if array is not None]
    if not isinstance(leaf, np.ndarray):
        found = [placed(name, array, getattr(leaf, "sharding", None)) for array in found]
    return found[0], found[1] if len(found) > 1 else optax.MaskedNode()


def _check_like(path: Any, tensors: dict[str, Tensor], named: list[tuple[str, Any]]) -> None:
    """All that differs, in one line."""
    check_paths(name for name, _ in named)
    leaves = dict(named)
    about = lambda array: f"{array.dtype} {tuple(array.shape)}"
    wrong = [f"the file has no {name}" for name in leaves if name not in tensors]
    wrong += [f"like has no {name}" for name in tensors if name not in leaves]
    wrong += [
        f"{name} is {about(tensors[name].values)} in the file, {about(leaf)} in like"
        for name, leaf in leaves.items()
        if name in tensors and about(tensors[name].values) != about(leaf)
    ]
    if wrong:
        raise ValueError(
            f"{path} does not fit like: {join(wrong)}; pass parameters of the model that was saved"
        )


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read and check a whole file.

    Args:
      path: The file.

    Returns:
      Its tensors, on the host, and its metadata.

    Raises:
      ValueError: if it is not what ``save_safetensors`` wrote.
      OSError: if it cannot be opened.
      ImportError: without safetensors.
    """
    library = _library()
    # Opening a pipe would wait for someone to write into it.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is not a file; pass what save_safetensors wrote")
    try:
        with library.safe_open(path, framework="numpy") as file:
            return _read(file)
    except library.SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({printable(str(error))}): it was cut short, "
            "extended or changed; copy or save it again"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is refused: {printable(str(error))}") from None


def _read(file: Any) -> Contents:
    metadata: dict[str, str] = file.metadata() or {}
    if DESCRIPTION not in metadata:
        raise ValueError(
            "it has no metadata of jaxsparse; read files of other programs with "
            "safetensors.numpy.load_file"
        )
    entries = parse(metadata[DESCRIPTION])
    # Shapes and dtypes first: then no array can be larger than its part of the file.
    _check_names(file, entries)
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if digest(arrays, metadata) != metadata.get(DIGEST):
        raise ValueError("its digest is not that of its content: it was changed; save it again")
    own = {k: v for k, v in metadata.items() if k not in (DESCRIPTION, DIGEST)}
    return Contents({path: _decode(path, entry, arrays) for path, entry in entries.items()}, own)


def _check_names(file: Any, entries: dict[str, Entry]) -> None:
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path, entry in entries.items():
        expected.update(entry.arrays(path))
    names = set(file.keys())
    if names != expected.keys():
        other = sorted(names ^ expected.keys())
        raise ValueError(f"its arrays are not those it describes: {join(other)}; save it again")
    for name, (dtype, shape) in expected.items():
        part = file.get_slice(name)
        if (part.get_dtype(), tuple(part.get_shape())) != (DTYPES[dtype], shape):
            raise ValueError(
                f"{name} is {part.get_dtype()} {tuple(part.get_shape())}, and described as "
                f"{DTYPES[dtype]} {shape}; save it again"
            )


def _decode(path: str, entry: Entry, arrays: dict[str, np.ndarray]) -> Tensor:
    found = [arrays[name] for name in entry.arrays(path)]
    nbytes = sum(array.nbytes for array in found)
    if entry.kept is None:
        return Tensor(found[0], None, nbytes)
    mask = unpack_mask(found[1], entry.shape)
    if np.count_nonzero(mask) != entry.kept:
        raise ValueError(
            f"the mask of {path} keeps {np.count_nonzero(mask)} weights, its description says "
            f"{entry.kept}; save it again"
        )
    if entry.form == "packed":
        return Tensor(with_zeros(found[0], mask), mask, nbytes)
    if found[0].reshape(-1)[~mask.reshape(-1)].view(np.uint8).any():
        raise ValueError(f"{path} has weights off its mask that are not zero; save it again")
    return Tensor(found[0], mask, nbytes)


def printable(text: str) -> str:
    """Text from anywhere in one line that a terminal shows as it is."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ImportError("safetensors is not installed; pip install 'jaxsparse[export]'") from None
    return safetensors
