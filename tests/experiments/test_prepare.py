"""Preparation from the official files, here tiny ones, without TensorFlow or a network."""

import gzip
import hashlib
import io
import pathlib
import tarfile

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="the experiments extra is not installed")

from experiments import data, prepare

SIZES = {"train": 30, "test": 7}


def _idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def _tarball(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"official/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _fake_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_check_hash", lambda *args, **kwargs: None)


def test_prepare_mnist_from_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fake_hashes(monkeypatch)
    rng = np.random.default_rng(0)
    images = {s: rng.integers(0, 256, (n, 28, 28)).astype(np.uint8) for s, n in SIZES.items()}
    labels = {s: np.arange(n).astype(np.uint8) % 10 for s, n in SIZES.items()}
    raw = tmp_path / "raw" / "mnist"
    raw.mkdir(parents=True)
    for split, stem in {"train": "train", "test": "t10k"}.items():
        (raw / f"{stem}-images-idx3-ubyte.gz").write_bytes(_idx(images[split]))
        (raw / f"{stem}-labels-idx1-ubyte.gz").write_bytes(_idx(labels[split]))
    out = tmp_path / "out"
    prepare.main(prepare.Arguments(names=("mnist",), data_dir=out, folder=tmp_path / "raw"))
    assert capsys.readouterr().out == f"mnist is ready in {out}\n"
    _assert_holds(data.load("mnist", out), images, labels)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_prepare_cifar_from_folder(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_hashes(monkeypatch)
    rng = np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    images = {s: rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8) for s, n in SIZES.items()}
    labels = {s: rng.integers(0, classes, n).astype(np.uint8) for s, n in SIZES.items()}
    records = {
        split: np.concatenate(
            [labels[split][:, None] // 5] * (name == "cifar100")
            + [labels[split][:, None], images[split].transpose(0, 3, 1, 2).reshape(-1, 3072)],
            axis=1,
        )
        for split in SIZES
    }
    if name == "cifar10":
        batches = np.split(records["train"], 5)
        members = {f"data_batch_{i + 1}.bin": batch.tobytes() for i, batch in enumerate(batches)}
        members["test_batch.bin"] = records["test"].tobytes()
        members["batches.meta.txt"] = "".join(f"class{i}\n" for i in range(10)).encode() + b"\n"
    else:
        members = {f"{split}.bin": record.tobytes() for split, record in records.items()}
        members["fine_label_names.txt"] = "".join(f"fine{i}\n" for i in range(100)).encode()
        members["coarse_label_names.txt"] = "".join(f"coarse{i}\n" for i in range(20)).encode()
    (tmp_path / f"{name[:5]}-{name[5:]}-binary.tar.gz").write_bytes(_tarball(members))
    prepare.prepare(name, tmp_path / "out", tmp_path)
    dataset = data.load(name, tmp_path / "out")
    _assert_holds(dataset, images, labels)
    assert dataset.num_classes == classes
    monkeypatch.setattr(prepare, "_find", None)
    prepare.prepare(name, tmp_path / "out", tmp_path)  # there already: reads nothing


def _assert_holds(dataset: data.Dataset, images: dict, labels: dict) -> None:
    """The set holds exactly these, in order where examples have an id, else in TFDS's order."""
    for split in SIZES:
        found = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        wanted = images[split].reshape(len(images[split]), *dataset.image_shape), labels[split]
        assert found[0].dtype == np.uint8
        if dataset.name == "mnist":
            orders = (np.lexsort(side[0].reshape(len(side[0]), -1).T) for side in (found, wanted))
            pairs = zip((found, wanted), orders, strict=True)
            found, wanted = ([array[order] for array in side] for side, order in pairs)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])


def test_prepare_bad_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"idx.-ubyte.gz of mnist is neither in .*--from"):
        prepare.prepare("mnist", tmp_path / "out", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"not official")
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected c4a38c50.*download it again"):
        prepare.prepare("cifar10", tmp_path / "out", tmp_path)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1])))  # 9 bytes said, 1 there
    with pytest.raises(ValueError, match="not a whole idx file"):
        prepare.read_idx(broken)


def test_failed_download_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"some bytes")
    sha256 = hashlib.sha256(b"some bytes").hexdigest()
    console = prepare.Console(file=io.StringIO())
    target = tmp_path / "downloads" / "file.bin"
    prepare.download(source.as_uri(), target, sha256, console)
    assert target.read_bytes() == b"some bytes"

    target.unlink()
    with pytest.raises(ValueError, match=r"source.bin has SHA-256 .*--from FOLDER"):
        prepare.download(source.as_uri(), target, "0" * 64, console)
    with pytest.raises(OSError, match=r"cannot download .*absent.*--from FOLDER"):
        prepare.download((tmp_path / "absent").as_uri(), target, sha256, console)
    assert not list(target.parent.iterdir())


def test_prepare_command_ends_with_one_line(tmp_path: pathlib.Path) -> None:
    for names in ((), ("mnits",), ("mnist",)):
        with pytest.raises(SystemExit) as caught:
            prepare.main(prepare.Arguments(names=names, data_dir=tmp_path, folder=tmp_path))
        assert str(caught.value).startswith("error: ")
        assert "\n" not in str(caught.value)
