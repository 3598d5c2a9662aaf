"""Normalization and augmentation: exact windows, the same under jit and vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import augment, data


def test_normalize_gives_zero_mean_and_unit_deviation() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3)).astype(np.uint8)
    mean, std = data._channel_statistics(images)
    out = jax.jit(augment.normalize)(images, mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-5)
    gray = augment.normalize(images[..., :1], 2.0, 4.0)
    np.testing.assert_array_equal(gray, (images[..., :1].astype(np.float32) - 2) / 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_augment_takes_windows_of_the_padded_image(dtype: type, mode: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (64, 8, 8, 3)).astype(dtype)
    function = jax.jit(functools.partial(augment.augment, pad=2, flip=True, mode=mode))
    out = np.asarray(function(jax.random.key(0), images))
    assert out.shape == images.shape
    assert out.dtype == dtype
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    seen = set()
    for image, source in zip(out, padded, strict=True):
        places = [
            (row, column, mirrored)
            for row in range(5)
            for column in range(5)
            for mirrored in (False, True)
            if (
                image == source[row : row + 8, column : column + 8][:, :: -1 if mirrored else 1]
            ).all()
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {row for row, _, _ in seen} == set(range(5))
    assert {column for _, column, _ in seen} == set(range(5))
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_augment_switched_off_and_mapped_over_seeds() -> None:
    images = jnp.arange(2 * 5 * 8 * 8, dtype=jnp.float32).reshape(2, 5, 8, 8, 1)
    off = augment.augment(jax.random.key(0), images[0], pad=0, flip=False)
    np.testing.assert_array_equal(off, images[0])
    keys = jax.random.split(jax.random.key(1), 2)
    mapped = jax.jit(jax.vmap(augment.augment))(keys, images)
    plain = [augment.augment(*pair) for pair in zip(keys, images, strict=True)]
    np.testing.assert_array_equal(mapped, np.stack(plain))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": 8}, "pad is 8, expected 0 to 7"),
        ({"pad": -1}, "pad is -1, expected 0 to 7"),
        ({"mode": "wrap"}, "mode is 'wrap', expected 'reflect' or 'constant'"),
    ],
)
def test_augment_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment.augment(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), **options)
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\), expected \[N, H, W, C\]"):
        augment.augment(jax.random.key(0), jnp.zeros((8, 8, 1)))
