"""`scripts/describe.py` as a user meets it."""

import functools
import json

import pytest
from calls import assert_one_line_and_exit_2, script

describe = functools.partial(script, "describe")


def test_json_has_integer_costs_and_the_table_the_same():
    done = json.loads(describe("fbnetv3_a", "--json").stdout)
    assert (done["flops"], done["params"]) == (356_598_280, 8_542_224)
    assert isinstance(done["macs"], int)
    assert isinstance(done["params_total"], int)
    text = describe("fbnetv3_a").stdout
    assert "356,598,280" in text
    assert "224 x 224 x 3" in text


def test_a_scaled_network_can_be_written_and_described_again(tmp_path):
    file = tmp_path / "f.json"
    assert describe("fbnetv3_e", "--scale_to=1.2G", f"--out={file}").returncode == 0
    done = json.loads(describe(str(file), "--json").stdout)
    assert 1.1e9 < done["flops"] <= 1.2e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fbnetv3_x"], "did you mean"),
        (["missing.json"], "not a readable JSON file"),
        ([], "name one network"),
        (["fbnetv3_b", "--scale_to=1x"], "units K, M, G"),
        (["fbnetv3_b", "--scale_to=1"], "cannot be scaled"),
        (["fbnetv3_a", "--resolution=0"], "above 0"),
        (["fbnetv3_a", "--out=missing/a.json"], "missing/a.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message):
    done = describe(*arguments)
    assert_one_line_and_exit_2(done, message)
