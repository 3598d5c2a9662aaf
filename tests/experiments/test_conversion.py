"""Dense to sparse, and to another sparsity: from the networks of a finished cell."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsparse
from experiments import cell, config, conversion, data, records, train

pytestmark = pytest.mark.usefixtures("quick_compilation", "as_on_one_device")

FLAGS = [
    *("--seeds", "2", "--epochs", "1", "--batch-size", "120", "--model.widths", "16"),
    *("--chunk-steps", "11", "--pruning.distribution", "uniform"),
]
SETTINGS = config.Config(
    model=config.Model(widths=(16,)),
    methods=("rigl",),
    seeds=2,
    epochs=1,
    batch_size=120,
    pruning=config.Pruning(interval=40, distribution="uniform"),
    optimizer=config.Optimizer(learning_rate=0.05),
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    return data.load("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits: data.Dataset) -> pathlib.Path:
    """A folder in which a dense cell was trained."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *_: digits)
        patch.chdir(folder)
        assert train.main([*FLAGS, "--methods", "dense", "--out", "dense"]) == 0
    return folder


def begun(settings: config.Config, network: Any, dataset: data.Dataset, sparsity: float) -> Any:
    method = settings.methods[0]
    program = cell.program_of(settings, cell.Cell("x", method, sparsity), dataset)
    network = conversion.fitted(network, program.abstract)
    seeds = jnp.arange(settings.seeds, dtype=jnp.uint32)
    return program.go_on(seeds, *network)


def test_dense_to_sparse_to_another_sparsity(
    place: pathlib.Path,
    digits: data.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(data, "load", lambda *_: digits)
    monkeypatch.chdir(place)
    dense = conversion.read_network(place / "dense/cells/dense", digits)
    start = ["--start-from", "dense/cells/dense"]
    assert train.main([*FLAGS, "--methods", "rigl", *start, "--out", "sparse"]) == 0
    sparse = conversion.read_network(place / "sparse/cells/rigl-0.9", digits)
    # The largest of each seed and layer, in the method's own numbers, with the weights they had.
    learner = begun(SETTINGS, dense, digits, 0.9)
    for layer in ("Dense_0", "Dense_1"):
        weights = np.asarray(dense.params[layer]["kernel"])
        kept = int(np.count_nonzero(sparse.params[layer]["kernel"][0]))
        for seed in range(2):
            size = np.abs(weights[seed])
            expected = size >= np.sort(size.reshape(-1))[-kept]
            found = np.asarray(learner.params[layer]["kernel"][seed])
            np.testing.assert_array_equal(found, np.where(expected, weights[seed], 0))
    # From there to 95 %: inside of it, by one seed of the two.
    sparser = begun(dataclasses.replace(SETTINGS, seeds=1), sparse, digits, 0.95)
    for layer, mask in jax.device_get(sparser.opt_state.masks).items():
        was = np.asarray(sparse.params[layer]["kernel"][:1]) != 0
        assert (mask["kernel"] <= was).all()
        assert 2 * mask["kernel"].sum() == pytest.approx(was.sum(), abs=2)
    # With --resume there is nothing left to do; without where it started from, it is another.
    assert train.main([*FLAGS, "--methods", "rigl", *start, "--out", "sparse", "--resume"]) == 0
    assert train.main([*FLAGS, "--methods", "rigl", "--out", "sparse", "--resume"]) == 2
    assert "start_from: 'dense/cells/dense' there, None here" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_line_by_line(
    place: pathlib.Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = conversion.read_network(place / "dense/cells/dense", digits)
    other = dataclasses.replace(SETTINGS, seeds=3, model=config.Model(widths=(8, 4)))
    with pytest.raises(ValueError, match="the network to start from is another one:") as error:
        begun(other, dense, digits, 0.9)
    lines = str(error.value).splitlines()
    assert lines[1:3] == ["seeds: 2 there, 3 here", "params/Dense_0/bias: [16] there, [8] here"]
    assert "params/Dense_2/kernel: nothing there, [4, 10] here" in lines
    with pytest.raises(ValueError, match="is no finished cell; give RUN/cells/CELL"):
        conversion.read_network(place / "dense", digits)
    about = {**dataclasses.asdict(SETTINGS), "depth": 3}
    with pytest.raises(ValueError, match=r"unknown settings \['depth'\]: of another version"):
        conversion.from_plain(config.Config(), about)
    monkeypatch.setattr(jaxsparse, "__version__", "9.9.9")
    with pytest.raises(ValueError, match=r"jaxsparse: '[0-9.]+' there, '9\.9\.9' here"):
        conversion.read_network(place / "dense/cells/dense", digits)


def test_settings_come_back_from_json() -> None:
    for _, chosen in config.PRESETS.values():
        assert conversion.from_plain(config.Config(), records.plain(chosen)) == chosen


def test_a_method_with_dense_weights_hands_over_what_its_forward_pass_uses(
    place: pathlib.Path, digits: data.Dataset
) -> None:
    """And one that stores the roots of its weights starts from the weights it is given."""
    dense = conversion.read_network(place / "dense/cells/dense", digits)
    settings = dataclasses.replace(SETTINGS, methods=("powerpropagation",))
    learner = begun(settings, dense, digits, 0.9)
    used = jax.vmap(
        lambda params, state: jaxsparse.forward_params(params, state, training=False),
        in_axes=(0, jaxsparse.vmap_axes(learner.opt_state)),
    )(learner.params, learner.opt_state)
    assert not np.allclose(learner.params["Dense_0"]["kernel"], dense.params["Dense_0"]["kernel"])
    for layer in ("Dense_0", "Dense_1"):
        np.testing.assert_allclose(
            used[layer]["kernel"], dense.params[layer]["kernel"], rtol=1e-5, atol=1e-6
        )
