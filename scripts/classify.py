"""Names the classes of image files, by a finished study's winner, an export or imported weights.

python scripts/classify.py --model=runs/digits digit.png
python scripts/classify.py --model=runs/digits --winner=2 digit.png
python scripts/classify.py --model=runs/digits/export/onnx digit.png
python scripts/classify.py --model=runs/fbnetv3_b --top=3 --json cat.jpg dog.jpg
"""

import json
import sys
from pathlib import Path

from absl import flags, logging

from jointnas_jax.command_line import define_path_or_url, parse_flags, run_script
from jointnas_jax.errors import ModelError, one_line

MODEL = define_path_or_url(
    "model", "", "Workdir of a study or its URL, an export, or a folder of import_weights.py."
)
WINNER = flags.DEFINE_integer("winner", 0, "Which winner of the study; 0 is the first.", 0)
TOP = flags.DEFINE_integer("top", 5, "Classes to name, most probable first.", 1)
JSON = flags.DEFINE_bool("json", False, "Print JSON instead of text.")


def main(argv: list[str]) -> int:
    """Classifies all files; returns the exit code."""
    files = parse_flags(argv, flags.FLAGS, "an image file")
    logging.set_verbosity(logging.ERROR)
    if not MODEL.value or not files:
        raise ModelError("give a model and image files, as in --model=runs/digits a.png b.png")
    # Only now: the import below takes seconds.
    from jointnas_jax.models.export import load_classifier

    model, found = load_classifier(MODEL.value, WINNER.value), []
    for file in files:
        classes = model.classify(Path(file), TOP.value)
        found.append({"image": file, "classes": classes})
        if not JSON.value:
            print(file)
            for c in classes:
                print(f"  {c['probability']:7.2%}  {one_line(c['label'])}", flush=True)
    if JSON.value:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main, answers=True))
