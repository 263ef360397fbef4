"""Writes images in folders, a list or arrays, or one of TFDS's own, as a dataset for every script.

python scripts/prepare_data.py --images=photos --out=data
python scripts/prepare_data.py --images=list.csv --out=data --name=birds --skip_unreadable
python scripts/prepare_data.py --images=cifar10 --out=data

Afterwards: --config.data.dir=data/photos. The dataset is stored as array_record, which is read
without TensorFlow. One of TFDS's own is downloaded.
"""

import sys
from pathlib import Path

from absl import flags, logging

from jointnas_jax.command_line import define_path, parse_flags, run_script
from jointnas_jax.errors import DataError

IMAGES = define_path(
    "images",
    "",
    "Folder of class folders, list `.csv`, arrays `.npz`, dataset of Hugging Face, or the name of "
    "one of TFDS's.",
)
OUT = define_path("out", "data", "Folder that will hold the folder of the dataset.")
NAME = flags.DEFINE_string("name", "", "Name of the dataset; '': that of the images.")
SKIP_UNREADABLE = flags.DEFINE_bool(
    "skip_unreadable", False, "Leave out files that cannot be read, and list them."
)


def main(argv: list[str]) -> int:
    """Writes the dataset; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    if not IMAGES.value:
        raise DataError("name the images, as in --images=photos")
    # Only now: the imports below take seconds.
    import tensorflow_datasets as tfds

    from jointnas_jax.data.conversion import write_dataset

    tfds.disable_progress_bar()
    written = write_dataset(
        IMAGES.value, Path(OUT.value), name=NAME.value, skip_unreadable=SKIP_UNREADABLE.value
    )
    for place, reason in written.unreadable.items():
        print(f"left out: {place} ({reason})")
    counts = ", ".join(f"{count:,} in `{split}`" for split, count in written.images.items())
    print(f"wrote {written.folder}: {counts}, {written.classes} classes")
    print(f"  use it with --config.data.dir={written.folder.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
