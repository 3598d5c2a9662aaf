"""Data sets: read, cached and ordered as documented, without TensorFlow or a network."""

import hashlib
import json
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="the experiments extra is not installed")

from experiments import data


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data directory in which the digits were prepared by their first use."""
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    folder = tmp_path_factory.mktemp("data")
    data.load("digits", folder)
    return folder


def assert_same(left: data.Dataset, right: data.Dataset) -> None:
    """Every field equal, dtypes included."""
    for field, value in vars(left).items():
        np.testing.assert_array_equal(
            value, vars(right)[field], strict=isinstance(value, np.ndarray)
        )


# Digits and the cache.


def test_digits_round_trip(digits_dir: pathlib.Path) -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits", digits_dir)
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int32
    assert "tensorflow" not in sys.modules

    images, labels = load_digits(return_X_y=True)
    official = sorted((*image, label) for image, label in zip(images, labels, strict=True))
    both = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 64)
    ours = np.column_stack([both, np.concatenate([digits.train_labels, digits.test_labels])])
    np.testing.assert_array_equal(np.array(sorted(map(tuple, ours))), official)
    np.testing.assert_allclose(digits.mean, digits.train_images.mean())
    np.testing.assert_allclose(digits.std, digits.train_images.std())


def test_digits_split_is_fixed_and_stratified(digits_dir: pathlib.Path) -> None:
    digits = data.load("digits", digits_dir)
    counts = np.bincount(digits.test_labels)
    assert counts.min() >= 34
    assert counts.max() <= 37
    found = hashlib.sha256(digits.test_images.tobytes()).hexdigest()
    assert found[:16] == "342538e35bc5249d", "the split changed: published digits numbers are void"


def test_second_load_reads_the_cache(
    digits_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load("digits", digits_dir)
    monkeypatch.setattr(data, "_decode", None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert_same(first, data.load("digits", digits_dir))


def _truncate(cache: pathlib.Path, folder: pathlib.Path) -> None:
    del folder
    os.truncate(cache, cache.stat().st_size // 2)


def _flip_a_byte(cache: pathlib.Path, folder: pathlib.Path) -> None:
    del folder
    content = bytearray(cache.read_bytes())
    content[5000] ^= 1
    cache.write_bytes(content)


def _remove(cache: pathlib.Path, folder: pathlib.Path) -> None:
    del folder
    cache.unlink()


def _touch_the_source(cache: pathlib.Path, folder: pathlib.Path) -> None:
    del cache
    os.utime(folder / "dataset_info.json", (1, 1))


@pytest.mark.parametrize("damage", [_truncate, _flip_a_byte, _remove, _touch_the_source])
def test_a_bad_cache_is_rebuilt(
    digits_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch, damage: types.FunctionType
) -> None:
    first = data.load("digits", digits_dir)
    damage(digits_dir / "digits-1.0.0.npz", digits_dir / "digits" / "1.0.0")
    decoded = []
    decode = data._decode
    monkeypatch.setattr(data, "_decode", lambda *args: decoded.append(args) or decode(*args))
    assert_same(first, data.load("digits", digits_dir))
    assert len(decoded) == 1
    assert_same(first, data.load("digits", digits_dir))
    assert len(decoded) == 1
    assert not list(digits_dir.glob(".*")), "a temporary file was left behind"


def test_a_cache_alone_is_enough(digits_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first = data.load("digits", digits_dir)
    (tmp_path / "digits-1.0.0.npz").write_bytes((digits_dir / "digits-1.0.0.npz").read_bytes())
    assert_same(first, data.load("digits", tmp_path))
    assert not (tmp_path / "digits").exists()


def test_an_unwritable_cache_warns(
    digits_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load("digits", digits_dir)
    (digits_dir / "digits-1.0.0.npz").unlink()

    def refuse(**kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", kwargs)

    monkeypatch.setattr(data.tempfile, "mkstemp", refuse)
    with pytest.warns(UserWarning, match=r"cannot cache digits in .*--data-dir"):
        assert_same(first, data.load("digits", digits_dir))


# Bad input: one line that names the value, the range and the remedy.


def test_missing_set_names_directory_and_command(tmp_path: pathlib.Path) -> None:
    with pytest.raises(data.MissingDatasetError) as caught:
        data.load("mnist", tmp_path)
    message = str(caught.value)
    assert f"`python -m experiments.prepare mnist --data-dir {tmp_path}`" in message
    assert "\n" not in message


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"data set 'fashion-mnist'.*did you mean fashion_"):
        data.load("fashion-mnist")


def test_format_without_random_access(digits_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    copy.mkdir(parents=True)
    for path in (digits_dir / "digits" / "1.0.0").iterdir():
        (copy / path.name.replace("array_record", "tfrecord")).write_bytes(path.read_bytes())
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"expected array_record.*experiments.prepare digits"):
        data.load("digits", tmp_path)


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv(data.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert data.default_data_dir() == tmp_path
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE)
    assert data.default_data_dir() == pathlib.Path.home() / ".cache" / "jaxsparse" / "data"


# Order of the batches.


def test_epoch_order_visits_each_example_once() -> None:
    order = data.epoch_order(0, 0, 103, 10)
    assert order.shape == (10, 10)
    assert order.dtype == jnp.int32
    assert len(np.unique(order)) == 100
    assert order.min() >= 0
    assert order.max() < 103
    np.testing.assert_array_equal(np.sort(data.epoch_order(1, 2, 12, 4).ravel()), np.arange(12))


def test_epoch_order_depends_on_seed_and_epoch_alone() -> None:
    first = np.asarray(data.epoch_order(0, 0, 100, 10))
    np.testing.assert_array_equal(first, data.epoch_order(0, 0, 100, 10))
    assert (first != data.epoch_order(1, 0, 100, 10)).any()
    assert (first != data.epoch_order(0, 1, 100, 10)).any()


def test_epoch_order_under_jit_and_vmap() -> None:
    plain = np.stack([data.epoch_order(seed, 3, 100, 10) for seed in range(4)])
    traced = jax.jit(lambda seed, epoch: data.epoch_order(seed, epoch, 100, 10))
    np.testing.assert_array_equal(plain[2], traced(2, 3))
    batched = jax.jit(jax.vmap(traced, in_axes=(0, None)))(jnp.arange(4), 3)
    np.testing.assert_array_equal(plain, batched)


@pytest.mark.parametrize("batch_size", [0, -1, 101])
def test_batch_size_out_of_range(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, expected 1 to 100"):
        data.epoch_order(0, 0, 100, batch_size)


# The real files, where this machine has them.


def test_real_mnist(data_dir: pathlib.Path) -> None:
    mnist = data.load("mnist", data_dir)
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images.shape == (10_000, 28, 28, 1)
    assert mnist.train_labels[:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]  # TFDS's own order
    assert np.bincount(mnist.train_labels)[[0, 5]].tolist() == [5923, 5421]
    np.testing.assert_allclose(mnist.mean, 33.318, atol=1e-3)
    np.testing.assert_allclose(mnist.std, 78.567, atol=1e-3)


def test_real_cifar10(data_dir: pathlib.Path) -> None:
    cifar10 = data.load("cifar10", data_dir)
    assert cifar10.train_images.shape == (50_000, 32, 32, 3)
    assert cifar10.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # official order
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    np.testing.assert_allclose(np.divide(cifar10.mean, 255), [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(np.divide(cifar10.std, 255), [0.2470, 0.2435, 0.2616], atol=1e-4)


def test_a_validation_set_is_taken_from_the_training_set() -> None:
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    labels = np.arange(20, dtype=np.int32)
    whole = data.Dataset("fake", 20, images, labels, images[:2], labels[:2], (1.0,), (1.0,))
    rest, held, marks = data.hold_out(whole, 5)
    assert (len(held), len(rest.train_images)) == (5, 15)
    assert sorted([*marks.tolist(), *rest.train_labels.tolist()]) == list(range(20))
    np.testing.assert_array_equal(held.ravel(), marks)
    np.testing.assert_array_equal(rest.train_images.ravel(), rest.train_labels)
    np.testing.assert_array_equal(data.hold_out(whole, 5)[2], marks)
    np.testing.assert_array_equal(rest.test_images, whole.test_images)
    for wrong in (0, 20):
        with pytest.raises(ValueError, match=rf"validation is {wrong}; it must lie in 1 to 19"):
            data.hold_out(whole, wrong)
