"""Data sets as TFDS builders, written and read without TensorFlow."""

import contextlib
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def write(builder: "tfds.core.DatasetBuilder") -> None:
    """Run a builder quietly: no TensorFlow, no network of its own, no statistics pass.

    TFDS writes into a temporary directory and renames it, so an interrupted run leaves no half a
    data set behind; a second process that wins the race is as good as this one.

    Args:
      builder: A TFDS builder whose generator yields arrays or PNG bytes. Nothing happens when its
        data directory is already there.

    Raises:
      OSError: if the data directory cannot be written.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(
        try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        if not (builder.data_path / "dataset_info.json").exists():
            raise OSError(
                f"cannot write {builder.name} into {builder.data_path}: {error.strerror or error}; "
                "choose a directory you can write with --data-dir"
            ) from error
    finally:
        tfds.enable_progress_bar()
