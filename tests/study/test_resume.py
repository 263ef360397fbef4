"""The command that goes on with an interrupted run."""

import pytest

from jointnas_jax.errors import InterruptedStudyError
from jointnas_jax.runtime.interrupt import Interrupt
from jointnas_jax.study.resume import resume_command


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--workdir=a b"], "'--workdir=a b'"),
        (["--overwrite", "--config.seed=3"], "--config.seed=3"),
        (["--overwrite=true", "--config.study.resume=never", "--quiet"], "--quiet"),
        (
            ["--config.study.storage=postgresql://me:secret@host/nas?password=secret"],
            "--config.study.storage=postgresql://me@host/nas",
        ),
        (["--config.study.storage", "postgresql://me:secret@host/nas"], None),
        (["--config.study.storage=sqlite:///a.db"], "--config.study.storage=sqlite:///a.db"),
    ],
)
def test_the_command_to_go_on_neither_begins_again_nor_tells_a_password(arguments, kept):
    command = resume_command(["scripts/run_joint.py", *arguments])
    assert "secret" not in command
    if kept:
        assert command == f"python scripts/run_joint.py {kept}"


def test_the_command_is_told_once_something_is_saved():
    interrupt = Interrupt()
    assert interrupt.farewell() == str(InterruptedStudyError())
    interrupt.command = "python scripts/run_joint.py"
    assert interrupt.farewell().endswith("saved:\n  python scripts/run_joint.py")
