"""What every test runs under: eight CPU devices, no silent broadcasting, checked types."""

import atexit
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import jax
import jaxtyping
import pytest

# Eight devices on two busy cores may wait for one another longer than XLA's 40 seconds. The older
# emitters compile small programs in half the time; they round products and sums together where
# the others do not, and the other way round. What has to be exact is exact under both: the contract
# runs on the newest jax, too, which has no others but the new ones and ends at an unknown flag.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *["--xla_cpu_use_fusion_emitters=false"] * (jax.__version_info__ < (0, 11)),
        "--xla_cpu_collective_call_terminate_timeout_seconds=300",
        "--xla_cpu_collective_timeout_seconds=300",
    ]
)
# What one process of a run has compiled, the others take from there, as does a file's next one. A
# folder given in the environment outlasts the run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxsparse-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ |= {  # for the processes that this one starts
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    # What another process has written half: see setup.cfg.
    "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",
}
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# Before the backend starts, and before the first import of jaxsparse.
jax.config.update("jax_num_cpu_devices", 8)
# Eight devices on two cores share few threads: with several programs in flight, each waiting for
# all of its devices in a collective, XLA ends the process after 40 seconds.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("jaxsparse", "beartype.beartype")

# The same examples in every run; no deadline, because the first example of a shape compiles.
hypothesis.settings.register_profile(
    "jaxsparse", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxsparse")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option of our own."""
    parser.addoption(
        "--every", type=int, default=1, help="the contract of every N-th method of the registry"
    )


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Every program holds mappings of memory, of which Linux gives a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For programs that are tiny and many: compiling them is what costs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key() -> jax.Array:
    """A typed PRNG key, the same in every test."""
    return jax.random.key(0)


@pytest.fixture
def data_dir() -> pathlib.Path:
    """A TFDS data directory with the real data sets; where there is none, the test is skipped."""
    value = os.environ.get("JAXSPARSE_DATA_DIR")
    if not value:
        pytest.skip("real data: set JAXSPARSE_DATA_DIR to a prepared TFDS data directory")
    path = pathlib.Path(value)
    assert path.is_dir(), f"JAXSPARSE_DATA_DIR={value} is not a directory"
    return path


@pytest.fixture(scope="module")
def as_on_one_device() -> Iterator[None]:
    """Programs as a machine with one device compiles them: eight have every pass written out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        jax.clear_caches()
        yield
