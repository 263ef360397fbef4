"""Imports published weights of an FBNetV3 network, in timm's layout, for scripts/classify.py.

python scripts/import_weights.py --model=fbnetv3_b --weights=model.safetensors --labels=names.txt
"""

import sys
from pathlib import Path

from absl import flags, logging

from jointnas_jax.command_line import define_path, parse_flags, run_script
from jointnas_jax.errors import ModelError

MODEL = flags.DEFINE_string("model", "", "fbnetv3_b, fbnetv3_d or fbnetv3_g.")
WEIGHTS = define_path("weights", "", "Safetensors file.")
LABELS = define_path("labels", "", "Text file with the name of each class, one a line.")
OUT = define_path("out", "", "Folder for the model; default runs/MODEL.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the imported model in the folder.")


def main(argv: list[str]) -> int:
    """Imports one file; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    for flag in (MODEL, WEIGHTS):
        if not flag.value:
            raise ModelError(f"give --{flag.name}=; see --help")
    # Only now: the imports below take seconds.
    from jointnas_jax.models.model import save_model
    from jointnas_jax.models.timm_import import import_timm
    from jointnas_jax.nets.cost import count

    labels = Path(LABELS.value) if LABELS.value else None
    model = import_timm(MODEL.value, Path(WEIGHTS.value), labels)
    folder = Path(OUT.value or Path("runs") / MODEL.value)
    save_model(model, folder, OVERWRITE.value)
    arch = model.arch
    print(
        f"wrote {folder}: {MODEL.value}, {arch.num_classes} classes, images of {arch.resolution} x "
        f"{arch.resolution}, {count(arch).params_total:,} params\n"
        f"classify with: python scripts/classify.py --model={folder} IMAGE"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
