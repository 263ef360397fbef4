"""The command `jointnas`: each of its verbs is a script of `scripts/`."""

import runpy
import sys
from collections.abc import Sequence

from jointnas_jax import __version__
from jointnas_jax.command_line import shipped
from jointnas_jax.errors import nearest
from jointnas_jax.runtime.output import tell

VERBS = {
    "run": "run_joint",
    "train": "train_candidate",
    "budgets": "search_budgets",
    "status": "status",
    "report": "report",
    "export": "export",
    "classify": "classify",
    "describe": "describe",
    "profile": "profile",
    "import": "import_weights",
    "prepare": "prepare_data",
    "simulate": "simulate",
}
# Shell -> what makes it complete verbs, and paths after them.
_BASH = 'complete -o default -W "{verbs}" jointnas'
_COMPLETIONS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit && {_BASH}",
    "fish": 'complete -c jointnas -n __fish_use_subcommand -f -a "{verbs}"',
}
_HELP = "jointnas {version}: joint search of a network's architecture and its training recipe\n"
_USE = """
  jointnas run IMAGES --config.budget.flops=2M   searches for images in folders, one for each class
  jointnas run --config=digits                   runs a config: a file, or one of
                                                 {configs}
  jointnas VERB --help                           shows the flags of a verb
  source <(jointnas completion bash)             completes verbs; also for zsh and fish
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb as its script is run; returns the exit code.

    Args:
      arguments: a verb and its arguments; None: those of the command line.
    """
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("--help", "-h", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    if verb == "completion" and rest and rest[0] in _COMPLETIONS:
        print(_COMPLETIONS[rest[0]].format(verbs=" ".join(VERBS)))
        return 0
    if verb not in VERBS:
        tell(f"error: `jointnas` has no verb `{verb}`{nearest(verb, VERBS)}")
        return 2
    if verb == "run" and rest and not rest[0].startswith("-"):
        rest[0] = f"--config.data.dir={rest[0]}"
    script = str(shipped("scripts") / f"{VERBS[verb]}.py")
    sys.argv = [script, *rest]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _help() -> str:
    lines = []
    for verb, script in VERBS.items():
        first, *_ = (shipped("scripts") / f"{script}.py").read_text(encoding="utf-8").splitlines()
        lines.append(f"  {verb:10}{first.strip(chr(34)).rstrip('.')}")
    configs = ", ".join(sorted(file.stem for file in shipped("configs").glob("*.py")))
    use = _USE.format(configs=configs)
    return "\n".join([_HELP.format(version=__version__), *lines]) + "\n" + use.rstrip()
