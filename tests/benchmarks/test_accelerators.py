"""What is read of a compiled program, from texts of a few lines, and the report of a CPU."""

import json

import calls
import pytest

from benchmarks.hlo import Program

# A step has a fusion, a loop of 3 rounds, a branch, a gather without a price, and a library's call.
TEXT = """HloModule jit_f, is_scheduled=true

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(3)
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p.1), index=1
  ROOT %double = f32[8]{0} fusion(%x), calls=%f, backend_config={"estimated_cycles":"10"}
}

%small (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %copy = f32[8]{0} copy(%q), backend_config={"estimated_cycles":"5"}
}

%large (q.1: f32[8]) -> f32[8] {
  %q.1 = f32[8]{0} parameter(0)
  ROOT %other = f32[8]{0} copy(%q.1), backend_config={"estimated_cycles":"7"}
}

%step (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0:T(128)}, /*index=2*/pred[]) parameter(0)
  %v = bf16[4,2]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %a = (f32[8]{0:T(128)}, f32[2]{0}) fusion(%v), calls=%f, backend_config={"estimated_cycles":"100"}
  %loop = (s32[], f32[8]{0}) while(%a), condition=%condition, body=%body
  %which = f32[8]{0} conditional(%v, %v, %v), branch_computations={%small, %large}
  %rows = f32[8]{0} gather(%v, %v), offset_dims={1}
  %call = f32[8]{0} custom-call(%v), custom_call_target="__cudnn$convForward"
  %room = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"
  %sum = f32[8]{0} all-reduce-start(%v), to_apply=%f
  %done = f32[8]{0} all-reduce-done(%sum)
  ROOT %t = (s32[], f32[8]{0}) tuple(%v, %v)
}

ENTRY %main (e: f32[8]) -> f32[8] {
  %e = f32[8]{0} parameter(0)
  %before = f32[8]{0} copy(%e), backend_config={"estimated_cycles":"1000"}
  ROOT %steps = (s32[], f32[8]{0}) while(%before), condition=%unknown, body=%step
}
"""


def test_a_step_counts_loops_as_often_as_they_run_and_the_dearer_branch():
    step = Program(TEXT, "tpu").step
    assert step.cycles == 100 + 3 * 10 + 7
    assert step.operations == 1 + 3 + 1
    assert step.unpriced == 2  # the gather and the sum
    assert step.traffic == (16 + 40) + 3 * 64 + 64


def test_on_gpu_every_operation_that_starts_is_a_kernel():
    step = Program(TEXT, "gpu").step
    assert step.operations == 1 + 3 + 1 + 1 + 1 + 1
    assert step.calls == 1


def test_the_whole_has_what_comes_before_the_loop():
    program = Program(TEXT, "tpu")
    assert program.whole.cycles == 1000 + program.step.cycles
    assert [i.opcode for i in program.collectives()] == ["all-reduce-start"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--cases=letters"], "`--cases` must be of"), (["--lanes=0"], "`--lanes` must be integers")],
)
def test_bad_input_is_one_line_and_exit_2(flags, message, tmp_path):
    done = calls.module("benchmarks.accelerators", *flags, cwd=tmp_path)
    calls.assert_one_line_and_exit_2(done, message)


@pytest.mark.slow
def test_here_measures_steps(tmp_path):
    flags = ["--target=here", "--cases=digits", "--steps=50", "--out=a.json"]
    done = calls.module("benchmarks.accelerators", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert 0 < row["measured_candidate_step_seconds"] < 10
    assert row["useful"] == 1
