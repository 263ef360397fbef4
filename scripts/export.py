"""Exports a trained network for other tools, with a model card.

python scripts/export.py --workdir=runs/digits --format=onnx
python scripts/export.py --workdir=runs/digits --format=orbax,stablehlo --seed=1 --out=DIR

Formats: orbax and safetensors are weights, stablehlo and onnx are whole programs from uint8 images
to logits. The workdir may also be that of scripts/train_candidate.py, a folder of
scripts/import_weights.py, or an earlier export with weights.
"""

import sys
from pathlib import Path

from absl import flags, logging

from jointnas_jax.command_line import (
    check_out,
    define_path,
    define_path_or_url,
    parse_flags,
    run_script,
)
from jointnas_jax.errors import ModelError
from jointnas_jax.report.card import check_formats

WORKDIR = define_path_or_url(
    "workdir", "", "Folder of a finished study or its URL, or folder of another model."
)
FORMAT = flags.DEFINE_list("format", [], "orbax, safetensors, stablehlo, onnx; also several.")
WINNER = flags.DEFINE_integer("winner", 0, "Which winner of the study; 0 is the best.", 0)
SEED = flags.DEFINE_integer(
    "seed", None, "Which training of the winner; default the first that did not fail.", 0
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Images that a program takes at a time; 0 is any number.", 0, 1_000_000
)
OUT = define_path("out", "", "Folder for the export; default WORKDIR/export/FORMATS.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an export in the folder.")


def main(argv: list[str]) -> int:
    """Writes one export; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    if not WORKDIR.value:
        raise ModelError("name the folder of a finished study, such as --workdir=runs/digits")
    check_out(WORKDIR.value, OUT.value)
    check_formats(FORMAT.value)
    # Only now: the imports below take seconds.
    from jointnas_jax.models.export import default_folder, export_model
    from jointnas_jax.models.model import load

    model = load(WORKDIR.value, WINNER.value, SEED.value)
    out = default_folder(Path(WORKDIR.value), FORMAT.value, WINNER.value, SEED.value)
    out = Path(OUT.value) if OUT.value else out
    written = export_model(
        model, out, FORMAT.value, batch_size=BATCH_SIZE.value, overwrite=OVERWRITE.value
    )
    print(f"wrote {out}: {', '.join(path.name for path in written)}")
    print(f"classify with: python scripts/classify.py --model={out} IMAGE")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
