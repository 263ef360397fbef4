"""TFRecord files, in which TFDS prepares datasets by default, rewritten as array_record.

TFRecord has no random access, which training needs; so images and labels are copied into the cache
once. The reader is the package `tfrecord` (extra `tfrecord`), which needs no TensorFlow, or else
TensorFlow where that is installed: it takes seconds to import.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jointnas_jax.data.writing import is_written, writing_dataset
from jointnas_jax.errors import DataError, needs_extra, one_line
from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.runtime.output import tell


def rewritten(source: tfds.core.DatasetBuilder, keys: tuple[str, str]) -> tfds.core.DatasetBuilder:
    """A dataset of TFRecord files as one of array_record, from the cache where it is there.

    Args:
      source: the prepared dataset.
      keys: its image and its label feature; the others are left out.

    Raises:
      DataError: the reader is not installed, a file is damaged, or the cache cannot be written.
    """
    files = {name: split.filepaths for name, split in source.info.splits.items()}
    stats = [(str(path), os.stat(path)) for paths in files.values() for path in paths]
    state = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    digest = hashlib.sha256(repr((state, keys)).encode()).hexdigest()[:16]
    home = cache_dir() / "tfds" / "tfrecords" / digest
    folder = home / source.info.name / str(source.info.version)
    if not is_written(folder):
        _rewrite(source, keys, home, folder)
    return tfds.builder_from_directory(folder)


def _rewrite(
    source: tfds.core.DatasetBuilder, keys: tuple[str, str], home: Path, folder: Path
) -> None:
    read = _reader(source.info.full_name)
    image, label = keys
    features = source.info.features

    # In a dict, for mypy knows no such keyword of an untyped class.
    class Rewritten(tfds.core.GeneratorBasedBuilder, **{"skip_registration": True}):
        """Writes the splits of `source`."""

        VERSION = source.info.version

        def _info(self) -> tfds.core.DatasetInfo:
            shape = features[image].shape
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        image: tfds.features.Image(shape=shape, dtype=features[image].np_dtype),
                        label: tfds.features.ClassLabel(names=features[label].names),
                    }
                ),
                supervised_keys=keys,
            )

        def _split_generators(
            self, dl_manager: tfds.download.DownloadManager
        ) -> dict[str, Iterator]:
            return {name: self._generate_examples(name) for name in source.info.splits}

        def _generate_examples(self, split: str) -> Iterator:
            return read(source, split, keys)

    tell(f"  rewriting `{source.info.full_name}` as array_record, once")
    Rewritten.name = source.info.name
    try:
        with writing_dataset(f"`{source.info.full_name}`", home, folder):
            Rewritten(data_dir=home, file_format="array_record").download_and_prepare()
    except DataError:
        raise
    except Exception as error:  # readers raise many kinds
        raise DataError(
            f"`{source.info.full_name}`, stored as tfrecord, cannot be rewritten into the cache "
            f"`{home}`: {one_line(error)}"
        ) from error


# Of a dataset, a split and the keys: examples with names, which order them.
_Read = Callable[[tfds.core.DatasetBuilder, str, tuple[str, str]], Iterator[tuple[str, dict]]]


def _reader(name: str) -> _Read:
    """A reader that is installed; raises `DataError` where none is."""
    for module, read in (("tfrecord", _by_package), ("tensorflow", _by_tensorflow)):
        if importlib.util.find_spec(module):
            return read
    needs = needs_extra(f"`{name}`, in tfrecord files,", "tfrecord", "tfrecord")
    raise DataError(f"{needs}, or prepare the dataset as `array_record`")


def _by_package(
    source: tfds.core.DatasetBuilder, split: str, keys: tuple[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    from tfrecord.reader import tfrecord_loader

    image, label = keys
    for file in source.info.splits[split].filepaths:
        records = tfrecord_loader(str(file), None, {image: "byte", label: "int"})
        for i, record in enumerate(records):
            example = {image: bytes(record[image]), label: int(record[label].item())}
            yield f"{Path(file).name} {i:09}", example


def _by_tensorflow(
    source: tfds.core.DatasetBuilder, split: str, keys: tuple[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import tensorflow as tf

    # It would take the memory of accelerators, which is JAX's.
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    image, label = keys
    examples = source.as_dataset(
        split=split,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1),
    )
    for example in tfds.as_numpy(examples):
        file, _, number = example["tfds_id"].decode().rpartition("__")
        found = {image: bytes(example[image]), label: int(example[label])}
        yield f"{file} {int(number):09}", found
