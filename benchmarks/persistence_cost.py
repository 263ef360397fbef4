"""Measures what store, checkpoints and digests add to a study; prints a line, writes JSON.

python -m benchmarks.persistence_cost --out=r.json
python -m benchmarks.persistence_cost --config.study.checkpoint_minutes=0   # after every epoch
"""

import json
import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import parse_config, run_script

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

OUT = flags.DEFINE_string("out", "", "JSON file for the results.")


def main(argv: list[str]) -> int:
    """Runs a study and tells how much of its time went into keeping it; returns the exit code."""
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    from benchmarks.keeping import measure
    from jointnas_jax.runtime.jax_setup import prepare_jax

    prepare_jax(config.study.devices)
    found = measure(config)
    kept = found["share"] * found["seconds"]
    print(
        f"{kept:.2f} of {found['seconds']:.1f} seconds ({found['share']:.1%}) to keep "
        f"{found['trials']} trials: {found['keeping']}"
    )
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
