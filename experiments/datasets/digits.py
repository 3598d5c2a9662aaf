"""scikit-learn's handwritten digits as a TFDS data set: no TensorFlow, no network, one second."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from experiments import datasets

TEST_EXAMPLES = 360
SPLIT_SEED = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 gray images of 8 x 8 pixels with values 0 to 16, in 10 classes.

    The UCI test set of the Optical Recognition of Handwritten Digits, as scikit-learn ships it. It
    has no official split: here 1,437 images train and 360 test, drawn once with a fixed seed and
    stratified by class. ``id`` is the index in ``sklearn.datasets.load_digits()``.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "Stratified split, 1,437 train and 360 test."
    }

    def _info(self) -> tfds.core.DatasetInfo:
        """Plain tensors only, as images would ask for TensorFlow."""
        return tfds.core.DatasetInfo(
            builder=self,
            description="scikit-learn's digits: 1,797 gray images of 8 x 8 pixels, values 0 to 16.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(dtype=np.int64),
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Any]:
        """One fixed permutation, whatever the caller's seed."""
        del dl_manager
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=TEST_EXAMPLES,
            stratify=labels,
            random_state=SPLIT_SEED,
        )
        return {
            split: self._generate_examples(images, labels, np.asarray(indices))
            for split, indices in {"train": train, "test": test}.items()
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Key and example of each index."""
        for index in indices.tolist():
            image = images[index].astype(np.uint8).reshape(8, 8, 1)
            yield index, {"id": index, "image": image, "label": int(labels[index])}


def prepare(data_dir: str | os.PathLike[str]) -> None:
    """Write the digits below ``data_dir`` as a TFDS directory, unless they are there already."""
    datasets.write(Digits(data_dir=os.fspath(data_dir), file_format="array_record"))
