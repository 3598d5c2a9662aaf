"""Sparse arrays of JAX and SciPy, there and back to the bit."""

from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from jax.experimental import sparse

from jaxsparse import apply_masks
from jaxsparse.export import from_sparse, to_bcoo, to_bcsr, to_scipy, to_torch_layout

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

MARK = optax.MaskedNode()
WEIGHT = np.array([[0.0, 2.0, 3.0], [4.0, 5.0, -0.0]], np.float32)
MASK = np.array([[True, False, True], [False, False, True]])
FORMATS = {"bcoo": to_bcoo, "bcsr": to_bcsr, "scipy": to_scipy}
SHAPES = [(), (5,), (3, 4), (0, 4), (4, 0), (1, 1), (2, 3, 4), (3, 3, 2, 5)]


def same(first: Any, second: Any) -> None:
    first, second = np.asarray(first), np.asarray(second)
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    assert first.tobytes() == second.tobytes()


class TestByHand:
    """A kept zero and a kept minus zero are entries."""

    def test_bcoo(self) -> None:
        found = to_bcoo(WEIGHT, MASK)
        assert found.nse == 3
        assert found.indices.tolist() == [[0, 0], [0, 2], [1, 2]]
        same(found.data, np.array([0.0, 3.0, -0.0], np.float32))
        assert (found.indices_sorted, found.unique_indices) == (True, True)
        assert found.todense().tolist() == [[0, 0, 3], [0, 0, 0]]

    def test_bcsr(self) -> None:
        found = to_bcsr(WEIGHT, MASK)
        assert found.indptr.tolist() == [0, 2, 3]
        assert found.indices.tolist() == [0, 2, 2]
        same(found.data, np.array([0.0, 3.0, -0.0], np.float32))
        assert found.todense().tolist() == [[0, 0, 3], [0, 0, 0]]

    def test_scipy(self) -> None:
        found = to_scipy(WEIGHT, MASK)
        assert isinstance(found, scipy.sparse.csr_array)
        assert found.nnz == 3
        assert (found.indptr.tolist(), found.indices.tolist()) == ([0, 2, 3], [0, 2, 2])
        assert found.has_canonical_format
        assert found.toarray().tolist() == [[0, 0, 3], [0, 0, 0]]

    def test_kernels_become_matrices(self) -> None:
        kernel = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
        mask = kernel % 2 == 1
        for make in (to_bcsr, to_scipy):
            assert make(kernel, mask).shape == (6, 4)
            assert make(kernel, mask, split=1).shape == (2, 12)
            assert make(np.arange(5.0, dtype=np.float32), np.ones(5, bool)).shape == (1, 5)
        np.testing.assert_array_equal(
            to_scipy(kernel, mask, split=1).toarray(), np.where(mask, kernel, 0).reshape(2, 12)
        )
        assert to_bcoo(kernel, mask).shape == kernel.shape

    def test_a_convolution_is_a_product_with_the_matrix(self) -> None:
        rng = np.random.default_rng(0)
        image = rng.integers(-4, 5, (1, 5, 5, 2)).astype(np.float32)
        kernel = rng.integers(-4, 5, (3, 3, 2, 4)).astype(np.float32)
        mask = rng.random(kernel.shape) < 0.3
        windows = np.lib.stride_tricks.sliding_window_view(image[0], (3, 3), axis=(0, 1))
        patches = windows.transpose(0, 1, 3, 4, 2).reshape(9, 18)
        expected = jax.lax.conv_general_dilated(
            image,
            np.where(mask, kernel, 0),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        np.testing.assert_array_equal(
            (patches @ to_scipy(kernel, mask)).reshape(1, 3, 3, 4), expected
        )


@pytest.mark.parametrize("name", FORMATS)
@hypothesis.given(data=st.data())
def test_there_and_back(name: str, data: st.DataObject) -> None:
    dtypes = [np.dtype("float32"), np.dtype("int32")]
    if name != "scipy":
        dtypes += [np.dtype("float16"), jnp.dtype("bfloat16")]
    shape, dtype = data.draw(st.sampled_from(SHAPES)), data.draw(st.sampled_from(dtypes))
    size = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    mask = data.draw(hnp.arrays(bool, shape))
    found = FORMATS[name](array, mask)
    assert (found.nnz if name == "scipy" else found.nse) == mask.sum()
    back, kept = from_sparse(found, like=array)
    expected = array.copy()
    expected[np.logical_not(mask)] = 0
    same(back, expected)
    same(kept, mask)


@pytest.mark.parametrize("name", FORMATS)
def test_trees(name: str) -> None:
    params = {"conv": np.ones((3, 3, 2, 4), np.float32), "dense": [WEIGHT, jnp.ones(3)]}
    masks = {"conv": np.arange(72).reshape(3, 3, 2, 4) % 5 == 0, "dense": [MASK, MARK]}
    found = FORMATS[name](params, masks)
    assert found["dense"][1] is params["dense"][1]
    back, kept = from_sparse(found, like=params)
    jax.tree.map(same, back, apply_masks(params, masks))
    jax.tree.map(same, kept, masks)
    assert kept["dense"][1] == MARK
    flat = from_sparse(found)[0]["conv"]
    assert flat.shape == ((3, 3, 2, 4) if name == "bcoo" else (18, 4))


def test_they_compute() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    dense = np.where(MASK, WEIGHT, 0)
    np.testing.assert_array_equal(jnp.asarray(x) @ to_bcoo(WEIGHT, MASK), x @ dense)
    np.testing.assert_array_equal(to_bcsr(WEIGHT.T, MASK.T) @ x.T, dense.T @ x.T)
    np.testing.assert_array_equal(x @ to_scipy(WEIGHT, MASK), x @ dense)
    transposed = to_bcoo(WEIGHT, MASK).T
    assert isinstance(transposed, sparse.BCOO)
    np.testing.assert_array_equal(transposed.todense(), dense.T)


class TestRefusals:
    """One line, with the remedy."""

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_scipy_has_no_half_precision(self, dtype: str) -> None:
        params = {"w": jnp.ones((2, 2), dtype)}
        with pytest.raises(ValueError, match=rf"^w is {dtype}, which scipy\.sparse .*; cast it"):
            to_scipy(params, {"w": jnp.ones((2, 2), bool)})

    def test_traced(self) -> None:
        with pytest.raises(ValueError, match="is traced and has no numbers; export outside of jit"):
            jax.jit(lambda w: to_bcoo(w, w > 0))(WEIGHT)

    def test_float64_without_x64(self) -> None:
        with pytest.raises(ValueError, match="the array is float64, of which JAX would make"):
            to_bcsr(np.ones((2, 2)), np.ones((2, 2), bool))
        assert to_scipy(np.ones((2, 2)), np.ones((2, 2), bool)).dtype == np.float64

    def test_another_mask(self) -> None:
        with pytest.raises(ValueError, match=r"has shape \(2, 3\), its mask is bool \(3, 2\)"):
            to_scipy({"w": WEIGHT}, {"w": MASK.T})

    def test_another_like(self) -> None:
        found = to_scipy({"w": WEIGHT}, {"w": MASK})
        with pytest.raises(ValueError, match=r"w has shape \(2, 3\), and \(2, 2\) in like"):
            from_sparse(found, like={"w": np.ones((2, 2))})
        with pytest.raises(ValueError, match="1 leaves of sparse, 2 of like"):
            from_sparse(found, like=[WEIGHT, WEIGHT])

    def test_entries_twice_or_outside(self) -> None:
        twice = sparse.BCOO((jnp.ones(2), jnp.array([[0, 1], [0, 1]])), shape=(2, 2))
        with pytest.raises(ValueError, match="stores an entry twice; sum duplicates first"):
            from_sparse(twice)
        padded = sparse.BCOO((jnp.ones(2), jnp.array([[0, 1], [2, 2]])), shape=(2, 2))
        with pytest.raises(ValueError, match=r"entries outside of its shape \(2, 2\)"):
            from_sparse(padded)


class TestTorchLayout:
    """Checked against XLA's convolution and product in PyTorch's order of dimensions."""

    def test_by_hand(self) -> None:
        kernel = np.arange(16).reshape(2, 2, 1, 4)
        found = to_torch_layout(kernel)
        assert found.shape == (4, 1, 2, 2)
        assert found[3, 0].tolist() == [[3, 7], [11, 15]]
        assert found.flags.c_contiguous
        assert to_torch_layout(jnp.arange(3)).tolist() == [0, 1, 2]
        assert to_torch_layout(jnp.ones((2, 3), bool)).dtype == bool

    def test_convolutions_agree(self) -> None:
        rng = np.random.default_rng(0)
        images = rng.integers(-4, 5, (2, 5, 6, 3)).astype(np.float32)
        kernel = rng.integers(-4, 5, (3, 2, 3, 4)).astype(np.float32)
        conv = lambda x, w, order: jax.lax.conv_general_dilated(
            x, w, (1, 1), "VALID", dimension_numbers=order
        )
        flax = conv(images, kernel, ("NHWC", "HWIO", "NHWC"))
        torch = conv(
            images.transpose(0, 3, 1, 2), to_torch_layout(kernel), ("NCHW", "OIHW", "NCHW")
        )
        np.testing.assert_array_equal(torch.transpose(0, 2, 3, 1), flax)
        # After flattening: channels first there, last here.
        head = rng.integers(-4, 5, (3 * 5 * 4, 7)).astype(np.float32)
        rows = head.reshape(3, 5, 4, 7).transpose(2, 0, 1, 3).reshape(-1, 7)
        np.testing.assert_array_equal(
            torch.reshape(2, -1) @ to_torch_layout(rows).T, flax.reshape(2, -1) @ head
        )
