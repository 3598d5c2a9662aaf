"""The guide runs, and what it hands over computes the same."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxsparse
from jaxsparse.inspect import report

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "export.md").read_text()
IMAGES = np.random.default_rng(0).integers(-4, 5, (3, 784)).astype(np.float32)


@pytest.fixture(autouse=True)
def broadcasting() -> Iterator[None]:
    """Models add biases of one dimension to activations of two."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory, quick_compilation: None) -> dict[str, Any]:
    """The names that the examples leave behind, and the folder of their files."""
    folder = tmp_path_factory.mktemp("guide")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.chdir(folder)
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
            exec(compile(block, "docs/export.md", "exec"), names)
    return {**names, "folder": folder}


def logits(guide: dict[str, Any]) -> np.ndarray:
    return np.asarray(guide["model"].apply({"params": guide["params"]}, IMAGES))


def test_both_files_hold_the_model(guide: dict[str, Any]) -> None:
    state = guide["state"]
    for name in ("dense", "packed"):
        params, masks = jaxsparse.export.load_safetensors(
            guide["folder"] / f"{name}.safetensors", like=state.params
        )
        jax.tree.map(np.testing.assert_array_equal, params, state.params)
        jax.tree.map(np.testing.assert_array_equal, masks, state.masks)


def test_the_table_is_that_of_the_guide(guide: dict[str, Any]) -> None:
    (shown,) = re.findall(r"^```\n(leaf .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert report(guide["folder"] / "packed.safetensors") + "\n" == shown


def test_thirteen_percent(guide: dict[str, Any]) -> None:
    assert "13 % of dense float32" in PAGE
    size = lambda name: (guide["folder"] / f"{name}.safetensors").stat().st_size
    assert size("packed") / size("dense") == pytest.approx(0.13, abs=0.01)


def test_sparse_arrays_come_back(guide: dict[str, Any]) -> None:
    jax.tree.map(np.testing.assert_array_equal, guide["again"], guide["params"])
    found = jnp.asarray(IMAGES) @ guide["kernel"]
    expected = IMAGES @ np.asarray(guide["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_torch_would_compute_the_same(guide: dict[str, Any]) -> None:
    """Its Linear is x W^T + b; its load_file gives the arrays that NumPy's does."""
    found = safetensors.numpy.load_file(guide["folder"] / "torch.safetensors")
    assert found["state/0.weight"].shape == found["mask/0"].shape == (300, 784)
    linear = lambda x, n: x @ found[f"state/{n}.weight"].T + found[f"state/{n}.bias"]
    np.testing.assert_allclose(
        linear(np.maximum(linear(IMAGES, "0"), 0), "2"), logits(guide), rtol=1e-4, atol=1e-5
    )
    for name in ("0", "2"):
        assert found[f"mask/{name}"].dtype == bool
        assert not found[f"state/{name}.weight"][~found[f"mask/{name}"]].any()


def test_torch_computes_the_same(guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    (block,) = re.findall(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(guide["folder"])
    names: dict[str, Any] = {}
    exec(compile(block, "docs/export.md", "exec"), names)
    found = names["model"](torch.tensor(IMAGES.tolist()))
    np.testing.assert_allclose(found.tolist(), logits(guide), rtol=1e-4, atol=1e-5)
    # Fine-tuned, what is absent stays so.
    found.sum().backward()
    for layer, kept in (("0", 20_820), ("2", 3_000)):
        assert int((names["model"].get_submodule(layer).weight_orig.grad != 0).sum()) <= kept


def test_equinox_computes_the_same(guide: dict[str, Any]) -> None:
    found = jax.vmap(guide["mlp"])(IMAGES)
    np.testing.assert_allclose(found, logits(guide), rtol=1e-4, atol=1e-5)
    masks = guide["mlp_masks"]
    assert masks.layers[0].weight.dtype == bool
    assert int(masks.layers[0].weight.sum() + masks.layers[1].weight.sum()) == 23_820


def test_the_exported_program(guide: dict[str, Any]) -> None:
    export, program = guide["export"], guide["program"]
    again = export.deserialize(guide["blob"])
    assert again.platforms == ("cpu", "cuda", "tpu")
    assert str(again.out_avals[0].shape) == "(batch, 10)"
    assert guide["logits"].shape == (3, 10)
    for images in (IMAGES, IMAGES[:1]):
        found = again.call(guide["params"], images)
        expected = guide["model"].apply({"params": guide["params"]}, images)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert program.mlir_module_serialized in guide["blob"]


def test_weights_or_masks_inside_the_program(guide: dict[str, Any]) -> None:
    export, state = guide["export"], guide["state"]
    dense = jax.tree.map(jnp.ones_like, state.params)
    masked = lambda x: guide["model"].apply(
        {"params": jaxsparse.apply_masks(dense, state.masks)}, x
    )
    blob = export.export(jax.jit(masked))(jnp.asarray(IMAGES)).serialize()
    np.testing.assert_array_equal(export.deserialize(blob).call(IMAGES), jax.jit(masked)(IMAGES))
