"""The command line of the scripts: checks flags, a config file and overrides at once."""

import os
import re
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jointnas_jax.config import Config, check_config, unknown_key
from jointnas_jax.errors import (
    ConfigError,
    InputError,
    InterruptedStudyError,
    JointNASError,
    SpaceError,
    nearest,
    one_line,
    shown,
)
from jointnas_jax.files import write_json
from jointnas_jax.rules import (
    DURATION,
    PATH,
    QUANTITY,
    TIMES,
    is_url,
    local_path,
    parse_limit,
    path_or_url,
)
from jointnas_jax.runtime.chips import CHIPS
from jointnas_jax.runtime.output import tell, unfailing_output
from jointnas_jax.space import read_arch

# Flags that functions here define are those of the script that calls them, in its `--help` too.
flags.disclaim_key_flags()

_HELP = ("--help", "-h", "-help", "--helpfull")
_LIMIT = 'a number above 0 such as "450M" (units K, M, G), up to 1000000G'
_TIME = 'a time above 0 such as "2.5ms" (units us, ms, s), up to 1000s'


def run_script(
    argv: list[str], doc: str, work: Callable[[list[str]], int], *, answers: bool = False
) -> int:
    """Runs a script: shows its help or does its work, and prints an error as one line.

    Nothing that is printed can end it: see `runtime/output.py`.

    Args:
      argv: arguments as in `sys.argv`.
      doc: docstring of the script, shown by `--help`.
      work: function from `argv` to the exit code.
      answers: what it prints is all that it does, so that a full disk there is an error. A reader
        that closes the pipe has what it wants.

    Returns:
      The exit code.
    """
    with unfailing_output() as out:
        code = _run(argv, doc, work)
        out.flush()
        if out.lost and not isinstance(out.lost, BrokenPipeError):
            kind = "error" if answers else "warning"
            tell(f"{kind}: standard output cannot be written: {one_line(out.lost)}")
            code = code or int(answers)
    return code


def _run(argv: list[str], doc: str, work: Callable[[list[str]], int]) -> int:
    if any(a in _HELP for a in argv[1:]):
        print(doc + "\n" + flags.FLAGS.main_module_help())
        return 0
    try:
        return work(argv)
    except JointNASError as error:
        tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        tell("interrupted; the same command goes on, or starts again")
        return InterruptedStudyError.exit_code
    except ModuleNotFoundError as error:
        package, *_ = (error.name or "").split(".")
        if package in ("", "jointnas_jax"):
            raise
        tell(
            f"error: the package `{package}` is not installed; "
            "`pip install jointnas_jax` installs all that a study needs"
        )
        return InputError.exit_code


def run_measurement(
    doc: str,
    measure: Callable[[list[str]], dict[str, Any]],
    draw: Callable[[dict[str, Any], Path], Path | None] | None = None,
) -> int:
    """Runs a script that measures: `run_script` with a flag `--out` for the report.

    Args:
      doc: docstring of the script, shown by `--help`.
      measure: takes `argv`, whose flags it parses, and returns the report.
      draw: draws a figure of the report beside the JSON file; returns its path, None without one.

    Returns:
      The exit code.
    """
    define_out("JSON file for the report" + ("; a figure is drawn beside it." if draw else "."))

    def work(argv: list[str]) -> int:
        report = measure(argv)
        if flags.FLAGS.out:
            path = Path(flags.FLAGS.out)
            write_json(path, report)
            print(f"  wrote {path}")
            if draw and (figure := draw(report, path.with_suffix(".png"))):
                print(f"  wrote {figure}")
        return 0

    return run_script(sys.argv, doc, work)


class _PathParser(flags.ArgumentParser):
    """Reads the value of a flag as `local_path` does."""

    syntactic_help = "a path"

    def __init__(self, name: str):
        self._name = f"--{name}"

    def parse(self, argument: str) -> str:
        return local_path(argument, self._name)

    def flag_type(self) -> str:
        return "path"


class _PathOrUrlParser(_PathParser):
    """Reads the value of a flag as `path_or_url` does."""

    syntactic_help = "a path or a URL"

    def parse(self, argument: str) -> str:
        return path_or_url(argument, self._name)


class _PathsParser(flags.ListParser):
    """Reads a list of paths."""

    def __init__(self, name: str):
        super().__init__()
        self._name = f"--{name}"

    def parse(self, argument: str | list[str]) -> list[str]:
        return [local_path(path, self._name) for path in super().parse(argument)]


def define_path(
    name: str, default: str, doc: str, flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder[str]:
    """Defines a flag whose value is a path on this machine; see `local_path`."""
    return flags.DEFINE(_PathParser(name), name, default, doc, flag_values)


def define_path_or_url(name: str, default: str, doc: str) -> flags.FlagHolder[str]:
    """Defines a flag whose value is a path, or a URL of a bucket; see `path_or_url`."""
    return flags.DEFINE(_PathOrUrlParser(name), name, default, doc)


def define_paths(name: str, doc: str) -> flags.FlagHolder[list[str]]:
    """Defines a flag whose value is a list of paths, by default an empty one."""
    return flags.DEFINE(_PathsParser(name), name, [], doc, serializer=flags.CsvListSerializer(","))


def define_target(doc: str, *others: str) -> flags.FlagHolder[str | None]:
    """Defines the flag `--target`, a chip of `CHIPS` or one of `others`; by default none."""
    return flags.DEFINE_enum("target", None, [*CHIPS, *others], doc)


def check_target(target: str | None, dry_run: bool) -> None:
    """Raises `ConfigError` if something shall train on a chip that a forecast alone can be for."""
    if target and not dry_run:
        raise ConfigError(
            f"`--target` is a chip to forecast for and needs `--dry_run`, got `{target}`; "
            "without both flags this machine trains"
        )


def define_out(doc: str) -> None:
    """Defines the flag `--out`, a JSON file; another file is an error before anything runs."""
    define_path("out", "", doc)
    flags.register_validator(
        "out",
        lambda text: not text or (text.endswith(".json") and Path(text).parent.is_dir()),
        message="must be a .json file in an existing folder",
    )


def check_out(workdir: str, out: str) -> None:
    """Raises `ConfigError` where what is written would have no folder: a URL is only read."""
    if is_url(workdir) and not out:
        raise ConfigError(f"`{workdir}` is only read; name a folder to write to, such as --out=out")


def parse_config(argv: list[str], default_file: str, flag_values: flags.FlagValues) -> Config:
    """Parses a command line: `--config=FILE`, `--config.KEY=VALUE` and the flags already defined.

    Args:
      argv: arguments as in `sys.argv`.
      default_file: config file in place of `--config`.
      flag_values: defined flags, parsed here.

    Raises:
      ConfigError: a flag, key or value is wrong; one line.
      SpaceError: the `space` section breaks a rule.
    """
    argv = _find_config_file(argv)
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
    _check_arch_file(config.arch_file)
    return config


def parse_flags(argv: list[str], flag_values: flags.FlagValues, wanted: str = "") -> list[str]:
    """Parses a command line into the flags defined.

    Args:
      argv: arguments as in `sys.argv`.
      flag_values: defined flags, parsed here.
      wanted: name of the arguments besides flags, for errors; "" allows none.

    Returns:
      The arguments besides flags, which are paths, or names.

    Raises:
      ConfigError: a flag or an argument is wrong; one line.
    """
    try:
        _, *rest = flag_values(argv)
    except JointNASError:
        raise
    except Exception as error:  # absl and config_flags raise many kinds
        raise ConfigError(_one_line(error)) from error
    if rest and not wanted:
        raise ConfigError(f"unexpected argument {shown(rest[0])}; flags look like --workdir=DIR")
    # No other text is longer than a path.
    for name, text in flag_values.flag_values_dict().items():
        of_config = name.startswith("config")  # which has other rules
        if isinstance(text, str) and not of_config and not PATH.holds(text):
            raise ConfigError(f"`--{name}` must be short text or {PATH.text}, got {shown(text)}")
    return [local_path(argument, wanted) for argument in rest]


def parse_budgets(
    flops: Sequence[str], params: Sequence[str], latency: Sequence[str] = ()
) -> list[dict[str, int]]:
    """Reads budgets, each with limits on FLOPs, params and latency, or some of them.

    Lists of one length are paired; a single limit goes with every budget.

    Args:
      flops: limits such as "450M"; empty: no limits.
      params: limits such as "8M"; empty: no limits.
      latency: limits such as "2.5ms"; empty: no limits.

    Returns:
      Name of each limited cost -> limit, for each budget.

    Raises:
      ConfigError: there is no limit, lists have other lengths, or a limit is no number above 0.
    """
    lists = {"flops": flops, "params": params, "latency": latency}
    limited = {name: limits for name, limits in lists.items() if limits}
    if not limited:
        raise ConfigError(
            "a budget is missing; give --flops=450M,550M, --params=8M, --latency=2.5ms, or several"
        )
    count = max(map(len, limited.values()))
    if any(len(limits) not in (1, count) for limits in limited.values()):
        names = " and ".join(f"`--{name}`" for name in limited)
        counts = " and ".join(str(len(limits)) for limits in limited.values())
        raise ConfigError(f"{names} must have as many limits as each other, or one, got {counts}")
    for name, limits in limited.items():
        for text in limits:
            rule, words = (DURATION, _TIME) if name in TIMES else (QUANTITY, _LIMIT)
            if not text or not rule.holds(text):
                raise ConfigError(f"a limit of `--{name}` must be {words}, got {shown(text)}")
    return [
        {name: parse_limit(name, limits[i % len(limits)]) for name, limits in limited.items()}
        for i in range(count)
    ]


def integers(flag: str, texts: Sequence[str], *, low: int, high: int) -> list[int]:
    """The values of a flag as integers in [low, high]; raises `ConfigError` if one is not."""
    numbers = [int(text) for text in texts if re.fullmatch(r"[0-9]{1,9}", text)]
    if len(numbers) < len(texts) or not texts or not all(low <= n <= high for n in numbers):
        raise ConfigError(
            f"`--{flag}` must be integers from {low} to {high}, such as 1,2,4, got "
            f"{shown(','.join(texts))}"
        )
    return numbers


def text_table(rows: Sequence[Mapping[str, Any]], layout: Mapping[str, str]) -> str:
    """Rows as lines of text: the first column to the left, the others to the right.

    Args:
      rows: JSON objects.
      layout: title of each column -> format of its cells, such as "{loss[mean]:.3f}"; None is "-".
    """
    cells = [[_CELL.vformat(text, (), row) for text in layout.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip([*layout], *cells, strict=True)]
    lines = []
    for first, *rest in ([*layout], *cells):
        padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


class _Cell(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return "-" if value is None else format(value, format_spec)


_CELL = _Cell()


def _check_path(config: ConfigDict, path: str) -> None:
    """Raises `ConfigError` if a dotted path, such as `search.rounds`, is not in the config."""
    node, seen = config, "config"
    for part in path.split("."):
        key, _, index = part.partition("[")
        keys = list(node) if isinstance(node, Mapping | ConfigDict) else []
        if key not in keys:
            raise unknown_key(seen, key, keys)
        node, seen = node[key], f"{seen}.{key}"
        if index:
            number = index.rstrip("]")
            if (
                not re.fullmatch(r"[0-9]{1,6}", number)
                or not isinstance(node, tuple | list)
                or int(number) >= len(node)
            ):
                raise ConfigError(f"`{seen}` has no item [{one_line(number)}]")
            node, seen = node[int(number)], f"{seen}[{number}]"
    if isinstance(node, list):
        raise ConfigError(
            f"`{seen}` is a list of choices, which a flag cannot replace; change it "
            "in a config file"
        )


def load_config(file: str, argv: list[str]) -> ConfigDict:
    """Runs `get_config()` of a config file, without overrides."""
    file = local_path(file, "--config")
    if not os.path.isfile(file):
        near = [str(p) for p in sorted(Path(file).parent.glob("*.py"))]
        raise ConfigError(f"config file `{file}` does not exist{nearest(file, near)}")
    try:
        values = flags.FlagValues()
        holder = _define(file, values, argv)
        values(argv)
        config = holder.value
    except (Exception, SystemExit) as error:  # a config file is the user's code
        raise ConfigError(f"config file `{file}` failed: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config() of `{file}` must return a ConfigDict, got {type(config).__name__}"
        )
    check_config(config)
    return config


def _check_arch_file(name: str) -> None:
    """Reads the fixed architecture if it is a file, so that its errors come before JAX's import.

    A name without suffix may be one of `nets/zoo.py`, which is checked with the dataset.
    """
    if os.path.isfile(name):
        try:
            read_arch(Path(name))
        except SpaceError as error:
            raise SpaceError(f"`config.arch_file`: {error}") from error
    elif Path(name).suffix:
        raise ConfigError(f"`config.arch_file` must be a file, got {shown(name)}")


def _define(file: str, flag_values: flags.FlagValues, argv: list[str]) -> flags.FlagHolder:
    return config_flags.DEFINE_config_file(
        "config",
        file,
        "Config file; override with --config.KEY=VALUE.",
        flag_values=flag_values,
        sys_argv=argv,
    )


def joined(argv: Sequence[str]) -> list[str]:
    """Writes `--name value` of a command line as `--name=value`."""
    arguments = [*argv[:1]]
    for argument in argv[1:]:
        before = arguments[-1] if len(arguments) > 1 else ""
        if before.startswith("-") and "=" not in before and not argument.startswith("-"):
            arguments[-1] = f"{before}={argument}"
        else:
            arguments.append(argument)
    return arguments


def flag_texts(argv: Sequence[str]) -> dict[str, str]:
    """The texts of flags on a command line, by name; without those that are only switched on."""
    return dict(a.lstrip("-").split("=", 1) for a in joined(argv)[1:] if "=" in a)


def wants_auto_config(argv: Sequence[str]) -> bool:
    """Whether a command line asks for a config that fits its data, or names data and no config."""
    texts = flag_texts(argv)
    return texts.get("config", "auto" if texts.get("config.data.dir") else "") == "auto"


def _find_config_file(argv: list[str]) -> list[str]:
    """Writes `--config FILE` and `--config=~/FILE` as `--config=FILE`, a path as `local_path`'s."""
    arguments: list[str] = []
    for argument in argv:
        if arguments and arguments[-1] in ("--config", "-config"):
            arguments[-1] = f"--config={argument}"
        else:
            arguments.append(argument)
    name = re.compile("(--?config=)(.*)", re.DOTALL)
    found = ((name.fullmatch(argument), argument) for argument in arguments)
    return [m[1] + _config_file(m[2]) if m else argument for m, argument in found]


def _config_file(text: str) -> str:
    """A path as `local_path`'s, or the file of one of our configs by its name, such as `digits`."""
    file = shipped("configs") / f"{text}.py"
    if re.fullmatch("[a-z0-9_]{1,50}", text) and file.is_file() and not os.path.exists(text):
        return str(file)
    return local_path(text, "--config")


def shipped(name: str) -> Path:
    """The folder `scripts` or `configs`: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(f for f in (package / name, package.parent / name) if f.is_dir())


def _one_line(error: BaseException) -> str:
    """The error's message on one line; of a traceback inside it, the error at its end."""
    lines = (str(error.args[0]) if error.args else "").splitlines()
    if any(line.startswith("Traceback") for line in lines):
        last_frame = max(i for i, line in enumerate(lines) if line.startswith("  "))
        lines = lines[last_frame + 1 :]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__
