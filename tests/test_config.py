import dataclasses
from pathlib import Path

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from jointnas_jax.command_line import parse_config, run_script
from jointnas_jax.config import Config, check_config, default_config
from jointnas_jax.errors import ConfigError, InputError, shown
from jointnas_jax.rules import DATABASE, duration, parse_duration, parse_quantity, quantity

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS = str(CONFIGS / "digits.py")


def parse(*arguments: str, default: str = DIGITS) -> Config:
    return parse_config(["run", *arguments], default, flags.FlagValues())


@pytest.mark.parametrize(
    "file", sorted(CONFIGS.parent.glob("**/configs/*.py")), ids=lambda p: p.stem
)
def test_every_config_file_is_valid_and_a_lab_note(file):
    config = parse(f"--config={file}")
    if file.parent == CONFIGS:
        assert config.name == file.stem
    assert "python " in file.read_text()


def test_overrides_reach_their_key():
    config = parse(
        "--config.search.pool_size=77",
        "--config.data.flip",
        "--config.budget.flops=1.5M",
        "--config.space.stages[0].depth=(1,3)",
        "--config.search.evolution.mutation=(0.1,0.2)",
    )
    assert (config.search.pool_size, config.data.flip) == (77, True)
    assert config.budget.limits() == {"flops": 1_500_000}
    assert config.space["stages"][0]["depth"] == (1, 3)
    assert config.search.evolution.mutation == (0.1, 0.2)
    assert parse("--noconfig.data.flip").data.flip is False
    assert parse("--config", str(CONFIGS / "fashion_mnist.py")).name == "fashion_mnist"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.search.pol_size=7"],
            r"`config.search` has no key `pol_size`; did you mean `pool_size`\?",
        ),
        (["--config.serach.pool_size=7"], r"`config` has no key `serach`; did you mean `search`"),
        (["--config.search.evolution.popluation=7"], "did you mean `population`"),
        (["--config.search.pool_size=many"], "config.search.pool_size.*many"),
        (["--config.search.pool_size=7.5"], "config.search.pool_size.*7.5"),
        (
            ["--config.search.pool_size=0"],
            "`config.search.pool_size` must be from 1 to 10000000, got 0",
        ),
        (["--config.train.epochs=-3"], "`config.train.epochs` must be from 1"),
        (
            ["--config.search.threshold=nan"],
            "`config.search.threshold` must be from -1 to 1, got nan",
        ),
        (["--config.predictor.full_lr=inf"], "`config.predictor.full_lr` must be above 0, got inf"),
        (
            ["--config.data.val_fraction=1"],
            "`config.data.val_fraction` must be above 0 and below 1",
        ),
        (["--config.data.flip=perhaps"], "config.data.flip.*perhaps"),
        (["--config.mode=both"], "`config.mode` must be one of"),
        (["--config.budget.flops=lots"], "`config.budget.flops` must be a number such as"),
        (["--config.budget.flops=0"], "`config.budget.flops` must be a number such as"),
        (["--config.search.evolution.mutation=(0.1,2)"], "two probabilities"),
        (["--config.name=../escape"], "`config.name` must be"),
        (["--config.space.stages[7].depth=2"], r"`config.space.stages` has no item \[7\]"),
        (["--config.space.resolution=4"], "list of choices, which a flag cannot replace"),
        (["--config.space.stages[0].depth=(2,1)"], "`stage1_depth`"),
        (
            ["--config.space.stem.chanels=8"],
            "`config.space.stem` has no key `chanels`; did you mean `channels`",
        ),
        (["--config=nowhere.py"], "config file `nowhere.py` does not exist"),
        (["--config.search.winners=9"], "at most `config.search.finalists` = .*, got 9"),
        (["--config.arch_file=x.json"], "add --config.mode=recipe"),
        (["--config.mode=recipe", "--config.arch_file=x.json"], "must be a file, got 'x.json'"),
        (["--confg.seed=1"], "confg"),
        ([f"--config={'x' * 300}"], "`--config` must be a path"),
        ([f"--config.data.dir={'x' * 300}"], "`config.data.dir` must be .*, or a path"),
        ([f"--config.data.name={'x' * 300}"], "`config.data.name` must be a path"),
        ([f"--config.train.teacher={'x/' * 2000}"], "`config.train.teacher` must be a path"),
        (
            ["--config.mode=recipe", f"--config.arch_file={'x' * 300}.json"],
            "`config.arch_file` must be a path",
        ),
        (["--config.data.dir=a\0b"], "`config.data.dir` must be .*, or a path: no NUL"),
        ([f"--config.budget.flops={'9' * 400}"], "`config.budget.flops` must be .*, got '999"),
        ([f"--config.budget.flops={'9' * 400}G"], "`config.budget.flops` must be"),
        (["--config.budget.params=1000001G"], "`config.budget.params` must be"),
        ([f"--config.study.trial_minutes=1{'0' * 400}"], "`config.study.trial_minutes` must be"),
        (["--config.space.stem.channels=(1,1000000000000)"], "`stem_channels` .* 4,096 values"),
        (["--config.train.dtype=bfloat16", "--config.train.lowering=matmul"], "use `auto` or `c"),
        (["--config.pod.coordinator=here"], "`config.pod.coordinator` must be a host and a port"),
        (["--config.pod.processes=2"], "`config.pod` must have .*, got '', 2 and -1"),
        (
            ["--config.pod.coordinator=a:1", "--config.pod.processes=2", "--config.pod.process=2"],
            "`config.pod` must have .* a `process` below it",
        ),
        (["--config.executor=shared"], "executor `shared` is gone: .*--config.executor=ray"),
        (["--config.shared.drivers=2"], "executor `shared` is gone: .*--config.executor=ray"),
        (["--config.train.final_epochs=2"], "is now `config.train.winner_epochs`"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_bad_command_line_is_one_clear_line(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("config.serach.rounds = 3", "failed: .*serach"),
        ("config.search.rounds = '3'", "failed: .*rounds"),
        ("config.extra = 3", "no key `extra`"),
        ("config.search.rounds = 0", "`config.search.rounds` must be from 1"),
        ("config = 3", "must return a ConfigDict, got int"),
        ("raise ValueError('broken\\nhere')", "failed: ValueError: broken here"),
        ("config.space = dict(resolution=8)", r"`space` lacks \['stem', 'stages', 'head'\]"),
        ("config.space = 3", "config"),
        ("config.space.stem[3] = 4", "config"),
        ("config.space = {3: 4}", "`space` has no entry `3`"),
        ("config.default = {3: 4}", "no entry|lacks"),
        ("config.study.trial_minutes = 10**400", "failed: .*too large"),
        ("config.seed = 10**5000", "failed: .*digits"),
        ("config.space = dict(resolution=10**5000)", "failed: .*digits"),
        ("config.seed = None", "config"),
        ("raise SystemExit(7)", "failed: 7"),
    ],
)
def test_a_bad_config_file_is_one_clear_line(tmp_path, body, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jointnas_jax.config import default_config\n\ndef get_config():\n"
        f"    config = default_config()\n    {body}\n    return config\n"
    )
    with pytest.raises(InputError, match=message) as error:
        parse(f"--config={file}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("", True),
        ("postgresql://user@host:5432/name", True),
        ("postgresql+psycopg2:///name", True),
        ("mysql://host/name", True),
        ("sqlite:///runs/trials.db", True),
        ("sqlite:////runs/trials.db", True),
        ("sqlite://", False),
        ("sqlite:///:memory:", False),
        ("sqlite:///file::memory:?uri=true", False),
        ("sqlite:///trials.db?mode=memory", False),
        ("sqlite://host/trials.db", False),
        (f"sqlite:///{'x' * 300}", False),
        ("sqlite:///a\0b", False),
        ("sqlite+aiosqlite:///trials.db", False),
        ("postgresql://host:abc/name", False),
        ("postgresql://host:70000/name", False),
        ("postgresql+asyncpg://host/name", False),
        ("postgresql+nosuch://host/name", False),
        ("nosuch://host/name", False),
        ("oracle://host/name", False),
        ("trials.db", False),
        ("://", False),
    ],
)
def test_a_database_is_checked_before_anything_loads(url, good):
    assert DATABASE.holds(url) == good


def test_a_password_is_not_shown():
    with pytest.raises(ConfigError, match=r"postgresql://me:\*\*\*@host:x/y") as error:
        parse("--config.study.storage=postgresql://me:secret@host:x/y")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"{}", b"", None])
def test_a_bad_architecture_file_is_found_with_the_config(tmp_path, content):
    file = tmp_path / "a.json"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=r"`config.arch_file`.*a\.json") as error:
        parse("--config.mode=recipe", f"--config.arch_file={file}")
    assert "\n" not in str(error.value)


def test_a_script_tells_what_is_wrong_in_one_line(capsys):
    def fail(error):
        def work(argv):
            raise error

        return run_script(["script"], "Does things.", work), capsys.readouterr()

    code, told = fail(ConfigError("this\nand that"))
    assert (code, told.out, told.err) == (2, "", "error: this and that\n")
    code, told = fail(KeyboardInterrupt())
    assert (code, told.out, told.err.count("\n")) == (3, "", 1)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**5000, [[[[[[[1]]]]]]] * 100, "\n\x1b[2J", {3: {4: object()}}],
    ids=["text", "integer", "nested", "control", "object"],
)
def test_shown_values_and_messages_are_short_lines(value):
    error = ConfigError(f"`key` must be a number, got {shown(value)}; use 3")
    assert str(error).startswith("`key` must be a number, got ")
    assert str(error).endswith("; use 3")
    assert len(str(error)) < 1000
    assert str(error).isprintable()
    assert len(str(ConfigError("y" * 10**6))) <= 1000


def test_the_default_config_lacks_only_a_space():
    with pytest.raises(InputError, match="space"):
        check_config(default_config())


def test_every_option_has_a_rule_that_its_default_obeys():
    def walk(kind):
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                walk(field.type)
            elif field.name not in ("space", "default", "prior"):
                assert field.metadata["rule"].holds(field.default), field.name

    walk(Config)


@given(st.floats(0.001, 10_000), st.sampled_from(["", "K", "M", "G", "k", "m", "g"]))
def test_quantities_have_units(number, unit):
    factor = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[unit.lower()]
    assert parse_quantity(f"{number:.6f}{unit}") == pytest.approx(
        float(f"{number:.6f}") * factor, abs=0.51
    )


@given(st.one_of(st.integers(1, 10**12), st.integers(1, 2000).map(lambda n: n * 50_000)))
def test_a_quantity_as_text_is_the_same_number(number):
    assert parse_quantity(quantity(number)) == number


@given(st.floats(0.001, 999), st.sampled_from(["us", "ms", "s", "MS"]), st.sampled_from(["", " "]))
def test_times_have_units(number, unit, gap):
    factor = {"us": 1e3, "ms": 1e6, "s": 1e9}[unit.lower()]
    assert parse_duration(f"{number:.6f}{gap}{unit}") == pytest.approx(
        float(f"{number:.6f}") * factor, abs=0.51
    )


@given(st.one_of(st.integers(1, 10**12), st.integers(1, 2000).map(lambda n: n * 50_000)))
def test_a_time_as_text_is_the_same_number(nanoseconds):
    assert parse_duration(duration(nanoseconds)) == nanoseconds
    assert parse_duration(duration(nanoseconds, " ")) == nanoseconds


def test_times_are_short():
    found = [duration(n) for n in (2_500_000, 900_000, 10**9, 34_000, 1, 1_234_567)]
    assert found == ["2.5ms", "0.9ms", "1s", "34us", "0.001us", "1.234567ms"]
    assert duration(2_500_000, " ") == "2.5 ms"


@pytest.mark.parametrize("text", ["2.5", "ms", "0ms", "1h", "-1ms", "1e3us", "1001s", "1 m s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match=r"`config.budget.latency` must be a time such as"):
        parse(f"--config.budget.latency={text}")


def test_a_limit_of_the_latency_is_in_nanoseconds():
    limits = parse("--config.budget.latency=2.5ms", "--config.budget.params=1K").budget.limits()
    assert limits["latency"] == 2_500_000
    assert limits["params"] == 1000


def test_quantities_are_short():
    numbers = (400_000, 1_500_000, 450 * 10**6, 123_457, 100, 2 * 10**9)
    texts = ["400K", "1.5M", "450M", "123457", "100", "2G"]
    assert [quantity(n) for n in numbers] == texts


KEYS = [
    "seed",
    "search.rounds",
    "search.threshold",
    "data.val_fraction",
    "data.flip",
    "train.batch_size",
    "budget.flops",
    "mode",
    "predictor.members",
    "search.evolution.crossover",
    "space.stem.channels",
]


@given(st.sampled_from(KEYS), st.text(min_size=1, max_size=12))
def test_any_text_for_any_key_is_taken_or_refused_in_one_line(key, text):
    try:
        parse(f"--config.{key}={text}")
    except ConfigError as error:
        assert "\n" not in str(error)
    except InputError:
        assert key.startswith("space")
