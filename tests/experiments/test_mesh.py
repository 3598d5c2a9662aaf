"""A run on a mesh of eight devices: the numbers and masks of one, arrays where the rules say."""

import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

pytest.importorskip("tyro", reason="the experiments extra is not installed")

from experiments import cell, config, data, evaluate, records, train
from experiments.checkpoints import Checkpoints
from experiments.mesh import Devices, Layout, mesh_of, parse, spec_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = config.Config(
    model=config.Model(widths=(64,)),
    pruning=config.Pruning(interval=4),
    seeds=2,
    epochs=3,
    batch_size=120,
    evaluate_every=3,
    chunk_steps=11,
    checkpoint_seconds=0.0,
)
RIGL, STATIC = cell.Cell("rigl-0.9", "rigl", 0.9), cell.Cell("static-0.9", "static", 0.9)
STEPS = 33
MESHES = {
    "one device": Layout(),
    "auto": Layout(mesh_of(parse("data=4,model=2"), jax.devices()[:8])),
    "explicit": Layout(mesh_of(parse("fsdp=8"), jax.devices()[:8]), explicit=True),
}
# Of both matrices, [64 or 784, 64] and [64, 10], behind the seeds.
SPECS = {"auto": P(None, "model", None), "explicit": P(None, "fsdp", None)}


class Trained(NamedTuple):
    learner: Any
    losses: np.ndarray
    accuracy: np.ndarray


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    """MNIST where it is prepared, or else digits."""
    if os.environ.get("JAXSPARSE_DATA_DIR"):
        return data.load("mnist")
    return data.load("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(dataset: data.Dataset) -> dict[str, Trained]:
    order = cell.Order(2, len(dataset.train_images), SMALL.batch_size)
    found = {}
    for name, layout in MESHES.items():
        program = cell.program_of(SMALL, RIGL, dataset, layout)
        learner = program.init(np.arange(2, dtype=np.uint32))
        learner, metrics = program.run(learner, layout.share(order.steps(0, STEPS), -1))
        _, accuracy = program.evaluate(learner)
        found[name] = Trained(learner, np.asarray(metrics.loss), np.asarray(accuracy))
    return found


@pytest.mark.parametrize("name", SPECS)
def test_a_mesh_trains_as_one_device_up_to_rounding(name: str, trained: Any) -> None:
    ours, theirs = trained[name], trained["one device"]
    assert ours.losses[-1].max() < 0.8 * ours.losses[0].max()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-3)
    np.testing.assert_allclose(ours.accuracy, theirs.accuracy, atol=0.01)
    masks = [jax.tree.leaves(jax.device_get(t.learner.opt_state.masks)) for t in (ours, theirs)]
    for mine, other in zip(*masks, strict=True):
        assert mine.sum() == other.sum()
        # Equal but where rounding turns a near tie.
        assert (mine != other).mean() < 0.002
    updates, expected = (np.asarray(t.learner.opt_state.info.updates) for t in (ours, theirs))
    np.testing.assert_array_equal(updates, expected)
    assert updates.min() > 4


@pytest.mark.parametrize("name", SPECS)
def test_weights_masks_and_slots_lie_by_the_rules(name: str, trained: Any) -> None:
    learner = trained[name].learner
    state = learner.opt_state
    slots = [leaf for leaf in jax.tree.leaves(state.inner_state) if getattr(leaf, "ndim", 0) == 3]
    trees = (learner.params, state.masks, slots)
    for tree in trees:
        weights = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 3]
        assert [leaf.sharding.spec for leaf in weights] == [SPECS[name]] * 2
        assert all(len(leaf.sharding.device_set) == 8 for leaf in weights)
    for leaf in jax.tree.leaves(learner):
        assert leaf.ndim == 3 or leaf.sharding.is_fully_replicated


@pytest.mark.parametrize("method", ["obd", "wanda", "grasp"])
def test_what_evaluates_the_network_in_an_update_does_so_under_explicit_axes(
    method: str, dataset: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curvature, activations and gradients of gradients: traced, where types are checked."""
    monkeypatch.setattr(Layout, "step", lambda layout, function, places: jax.jit(function))
    auto = mesh_of({"fsdp": 4, "model": 2}, jax.devices()[:8])
    kinds = (AxisType.Explicit,) * 2
    mesh = jax.make_mesh((4, 2), ("fsdp", "model"), axis_types=kinds, devices=jax.devices()[:8])
    layout = Layout(auto, explicit=True)
    program: Any = cell.program_of(SMALL, cell.Cell(method, method, 0.9), dataset, layout)
    rows = layout.share(np.zeros((2, 2, SMALL.batch_size), np.int32), -1)
    typed = lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec)
    )
    with jax.set_mesh(mesh):
        program.run.trace(jax.tree.map(typed, program.abstract), typed(rows))


def test_a_checkpoint_of_eight_devices_is_restored_on_two_and_on_one(
    dataset: data.Dataset, tmp_path: pathlib.Path, trained: Any
) -> None:
    saved = trained["auto"].learner
    with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
        checkpoints.save(STEPS, saved)
    two = Layout(mesh_of({"fsdp": 2}, jax.devices()[2:4]))
    for layout, devices in ((two, 2), (Layout(), 1), (MESHES["explicit"], 8)):
        abstract = cell.program_of(SMALL, RIGL, dataset, layout).abstract
        with Checkpoints(tmp_path / "checkpoints", {}) as checkpoints:
            restored = checkpoints.restore(abstract)
        assert restored is not None
        step, found = restored
        assert step == STEPS
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(saved))
        for mask in jax.tree.leaves(found.opt_state.masks):
            assert len(mask.sharding.device_set) == devices
            assert mask.sharding.is_fully_replicated == (devices == 1)
        for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(abstract), strict=True):
            assert leaf.sharding == (expected.sharding or SingleDeviceSharding(jax.devices()[0]))


def test_a_run_on_a_mesh_is_resumed_on_one_device(tmp_path: pathlib.Path) -> None:
    digits = data.load("digits", tmp_path / "data")
    outside = evaluate.images_outside(digits, None)
    go = lambda what, stopping: cell.run_cell(
        what, STATIC, digits, tmp_path / "cell", lambda *_: None, stopping, outside
    )
    on_mesh = dataclasses.replace(SMALL, devices=Devices(mesh="data=4,model=2"))
    with pytest.raises(cell.Stopped):
        go(on_mesh, lambda: True)
    result = go(SMALL, lambda: False)
    assert [row["step"] for row in records.read_metrics(tmp_path / "cell")] == [11, 22, 33]
    assert result.kept == [474, 474]


@pytest.mark.parametrize(
    ("shape", "sizes", "spec"),
    [
        ((784, 300), {"model": 2}, P("model", None)),
        ((300, 784), {"fsdp": 4, "model": 2}, P("model", "fsdp")),
        ((64, 64), {"fsdp": 4, "model": 2}, P("fsdp", "model")),
        ((3, 3, 16, 32), {"fsdp": 8}, P(None, None, None, "fsdp")),
        ((7, 10), {"fsdp": 8}, P(None, None)),
        ((7, 10), {"fsdp": 5, "model": 2}, P(None, "fsdp")),
    ],
)
def test_an_axis_goes_along_the_largest_free_dimension(
    shape: tuple[int, ...], sizes: dict[str, int], spec: P
) -> None:
    assert spec_of(shape, sizes) == spec


def test_what_is_not_like_a_weight_is_everywhere() -> None:
    mesh = mesh_of({"fsdp": 8}, jax.devices()[:8])
    array = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    params = {"kernel": array(2, 16, 10), "bias": array(2, 8)}
    tree = {"mask": array(2, 16, 10), "bias": array(2, 8), "kept": array(2, 16), "x": array(16, 16)}
    places = Layout(mesh).places(tree, params)
    assert places["mask"] == NamedSharding(mesh, P(None, "fsdp", None))
    assert all(places[name].is_fully_replicated for name in ("bias", "kept", "x"))
    assert Layout().places(tree, params) is None
    assert Layout().placed(tree, None) is tree  # where JAX puts new arrays


@pytest.mark.parametrize("images", [np.arange(16), np.arange(15)])
def test_examples_are_split_where_that_is_even(images: np.ndarray) -> None:
    shared = Layout(mesh_of({"data": 4, "model": 2}, jax.devices()[:8])).share(images, 0)
    np.testing.assert_array_equal(shared, images)
    assert shared.sharding.is_fully_replicated == (len(images) == 15)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mesh", "batch=8"], ["an axis 'batch'", "data, fsdp, model"]),
        (["--mesh", "data=4,data=2"], ["data twice"]),
        (["--mesh", "data=0"], ["data=0", "1 or more"]),
        (["--mesh", "data=four"], ["data=four"]),
        (["--mesh", "data"], ["data=;", "number of devices"]),
        (["--mesh", "data=4,model=4"], ["16 devices, where there are 8", "JAX_NUM_CPU_DEVICES"]),
        (["--mesh", "data=8", "--batch-size", "60"], ["batch_size is 60", "splits it in 8", "56"]),
        (["--mesh", "data=8", "--per-device"], ["per_device", "leave one of them out"]),
        (["--mesh-axes", "explicit"], ["there is no mesh", "--mesh data=4"]),
        (["--num-processes", "2"], ["--coordinator HOST:PORT"]),
        (["--coordinator", "host:1"], ["--num-processes N", "None and None"]),
        (
            ["--coordinator", "host:1", "--num-processes", "2", "--process-id", "2"],
            ["[0, N)", "2 and 2"],
        ),
        (
            ["--coordinator", "host", "--num-processes", "2", "--process-id", "1"],
            ["coordinator is 'host'", "HOST:PORT"],
        ),
        (["--distributed"], ["--mesh data=16"]),
        # Backends have started here; elsewhere the message of what JAX finds in the environment.
        (["--distributed", "--mesh", "data=8"], ["do not find each other", "srun"]),
        (["--mesh", "data=1,model=8"], ["model=8, which divides no free", "(9x9)", "data=8"]),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str],
    words: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda *_: data.Dataset(**FAKE))
    widths = "9" if "model=8" in flags[-1] else "16"
    assert train.main(["--methods", "static", "--model.widths", widths, *flags]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    for word in words:
        assert word in message


FAKE: dict[str, Any] = {
    "name": "digits",
    "num_classes": 9,
    "train_images": np.zeros((64, 3, 3, 1), np.uint8),
    "train_labels": np.zeros(64, np.int32),
    "test_images": np.zeros((64, 3, 3, 1), np.uint8),
    "test_labels": np.zeros(64, np.int32),
    "mean": (0.0,),
    "std": (1.0,),
}
