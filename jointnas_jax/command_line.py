"""The command line of the scripts: a config file and overrides, all checked at once."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from jointnas_jax.config import Config, check_config
from jointnas_jax.errors import ConfigError, nearest
from jointnas_jax.rules import QUANTITY, parse_quantity

_LIMIT = 'a number above 0 such as "450M" (units K, M, G)'


def parse_config(argv: list[str], default_file: str, flag_values: flags.FlagValues) -> Config:
    """Parses a command line: `--config=FILE`, `--config.KEY=VALUE` and the flags already defined.

    Args:
      argv: as `sys.argv`.
      default_file: config file where `--config` is not given.
      flag_values: defined flags, parsed here.

    Raises:
      ConfigError: with one line, whatever is wrong.
      SpaceError: the `space` section breaks a rule.
    """
    argv = _join_config_flag(argv)
    file = next(
        (a.split("=", 1)[1] for a in reversed(argv) if re.match("--?config=", a)), default_file
    )
    config = load_config(file, argv[:1])
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            _check_path(config, match[1])
    try:
        holder = _define(default_file, flag_values, argv)
    except Exception as error:  # config_flags raises many kinds
        raise ConfigError(_one_line(error)) from error
    parse_flags(argv, flag_values)
    config = check_config(holder.value)
    # A name without suffix may be one of `zoo.py`, which is looked up with the dataset.
    if Path(config.arch_file).suffix and not Path(config.arch_file).is_file():
        raise ConfigError(f"`config.arch_file` must be a file, got {config.arch_file!r}")
    return config


def parse_flags(argv: list[str], flag_values: flags.FlagValues) -> None:
    """Parses `argv`, as `sys.argv`, into the flags defined; raises `ConfigError` with one line."""
    try:
        rest = flag_values(argv)
    except Exception as error:  # absl and config_flags raise many kinds
        raise ConfigError(_one_line(error)) from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags look like --workdir=DIR")


def parse_budgets(flops: Sequence[str], params: Sequence[str]) -> list[dict[str, int]]:
    """Reads budgets, each a limit of FLOPs, of params, or of both.

    Args:
      flops: limits such as "450M"; empty: FLOPs are free.
      params: likewise. Two lists of one length are paired; a single limit goes with every other.

    Returns:
      Name of each limited cost -> limit, for each budget.

    Raises:
      ConfigError: no limit, lists of other lengths, or something that is no number above 0.
    """
    given = {name: limits for name, limits in (("flops", flops), ("params", params)) if limits}
    if not given:
        raise ConfigError("a budget is missing; give --flops=450M,550M, --params=8M or both")
    count = max(map(len, given.values()))
    if any(len(limits) not in (1, count) for limits in given.values()):
        raise ConfigError(
            "`--flops` and `--params` must have as many limits as each other, or one of them one, "
            f"got {len(flops)} and {len(params)}"
        )
    for name, limits in given.items():
        for text in limits:
            if not text or not QUANTITY.holds(text):
                raise ConfigError(f"a limit of `--{name}` must be {_LIMIT}, got {text!r}")
    return [
        {name: parse_quantity(limits[i % len(limits)]) for name, limits in given.items()}
        for i in range(count)
    ]


def _check_path(config: ConfigDict, path: str) -> None:
    """Raises `ConfigError` if a dotted path, such as `search.rounds`, is not in the config."""
    node, seen = config, "config"
    for part in path.split("."):
        key, _, index = part.partition("[")
        if not isinstance(node, Mapping | ConfigDict) or key not in node:
            known = list(node) if isinstance(node, Mapping | ConfigDict) else []
            raise ConfigError(f"`{seen}` has no key `{key}`{nearest(key, known)}")
        node, seen = node[key], f"{seen}.{key}"
        if index:
            number = index.rstrip("]")
            if (
                not number.isdigit()
                or not isinstance(node, tuple | list)
                or int(number) >= len(node)
            ):
                raise ConfigError(f"`{seen}` has no item [{number}]")
            node, seen = node[int(number)], f"{seen}[{number}]"
    if isinstance(node, list):
        raise ConfigError(
            f"`{seen}` is a list of choices, which a flag cannot replace; change it "
            "in a config file"
        )


def load_config(file: str, argv: list[str]) -> ConfigDict:
    """Runs `get_config()` of a config file, without overrides."""
    if not Path(file).is_file():
        near = [str(p) for p in sorted(Path(file).parent.glob("*.py"))]
        raise ConfigError(f"config file `{file}` does not exist{nearest(file, near)}")
    try:
        values = flags.FlagValues()
        holder = _define(file, values, argv)
        values(argv)
        config = holder.value
    except Exception as error:  # a config file is the user's code
        raise ConfigError(f"config file `{file}` failed: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config() of `{file}` must return a ConfigDict, got {type(config).__name__}"
        )
    check_config(config)
    return config


def _define(file: str, flag_values: flags.FlagValues, argv: list[str]) -> flags.FlagHolder:
    return config_flags.DEFINE_config_file(
        "config",
        file,
        "Config file; override with --config.KEY=VALUE.",
        flag_values=flag_values,
        sys_argv=argv,
    )


def _join_config_flag(argv: list[str]) -> list[str]:
    """Writes `--config FILE` as `--config=FILE`."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in ("--config", "-config"):
            joined[-1] = f"--config={argument}"
        else:
            joined.append(argument)
    return joined


def _one_line(error: Exception) -> str:
    """The error's message on one line; of a traceback inside it, the error at its end."""
    lines = (str(error.args[0]) if error.args else "").splitlines()
    if any(line.startswith("Traceback") for line in lines):
        last_frame = max(i for i, line in enumerate(lines) if line.startswith("  "))
        lines = lines[last_frame + 1 :]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__
