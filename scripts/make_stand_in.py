"""Writes a small dataset in the form of ImageNet, for trying out the ImageNet configs without it.

python scripts/make_stand_in.py --source=DIR/sign_digits --out=stand_in --train=1600
"""

import sys
from pathlib import Path

from absl import flags, logging

from jointnas_jax.command_line import define_path, parse_flags, run_script
from jointnas_jax.errors import DataError

SOURCE = define_path(
    "source", "", "Prepared TFDS folder to take images from, all of one size; default digits."
)
OUT = define_path("out", "", "Folder that will hold `imagenet2012`.")
TRAIN = flags.DEFINE_integer("train", 2000, "Training images, at most.", 2)
VALIDATION = flags.DEFINE_integer("validation", 500, "Validation images, at most.", 2)


def main(argv: list[str]) -> int:
    """Writes the dataset; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    if not OUT.value:
        raise DataError("give the folder to write into, as in --out=stand_in")
    # Only now: the imports below take seconds.
    import tensorflow_datasets as tfds

    from jointnas_jax.data.source import open_dataset
    from jointnas_jax.data.stand_in import make_stand_in

    tfds.disable_progress_bar()
    dataset = open_dataset(dict(name="digits", dir=SOURCE.value, image_size=0))
    first = lambda split, count: dataset.load(f"{split}[:{min(count, dataset.count(split))}]")
    train, validation = first("train", TRAIN.value), first("test", VALIDATION.value)
    out, classes = Path(OUT.value), dataset.num_classes
    folder = make_stand_in(out, train, validation, num_classes=classes)
    print(f"wrote {folder}: {len(train)} and {len(validation)} images of {dataset.name}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
