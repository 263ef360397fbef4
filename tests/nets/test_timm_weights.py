"""Weights in timm's layout, without timm; `tests/bench/test_timm.py` compares with it."""

import pickle
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jointnas_jax.errors import ModelError
from jointnas_jax.nets import timm_weights, zoo
from jointnas_jax.nets.init import variable_shapes
from jointnas_jax.nets.timm_weights import class_count, from_timm, read_safetensors, timm_shapes
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

TINY = ArchSpec(
    resolution=16,
    image_channels=3,
    num_classes=5,
    stem=Stem(8),
    stages=(
        Stage(8, 2, expand_first=1, expand_rest=1),
        Stage(16, 2, 5, 3, expand_first=4, expand_rest=2, stride=2, se=True),
        Stage(24, 1, 5, 5, se=True),
    ),
    head=Head(32),
)


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {n: np.float32(rng.uniform(0.5, 1.5, s)) for n, s in timm_shapes(TINY).items()}


# Read off `timm.create_model("fbnetv3_b").state_dict()`, timm 1.0.20.
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv_stem.weight", (16, 3, 3, 3)),
        ("bn1.running_mean", (16,)),
        ("blocks.0.1.conv_dw.weight", (16, 1, 3, 3)),
        ("blocks.0.1.bn2.bias", (16,)),
        ("blocks.1.0.conv_pw.weight", (64, 16, 1, 1)),
        ("blocks.2.0.se.conv_reduce.weight", (24 // 3, 120, 1, 1)),
        ("blocks.2.0.se.conv_expand.bias", (120,)),
        ("blocks.5.6.conv_dw.weight", (1104, 1, 5, 5)),
        ("blocks.5.6.bn3.running_var", (224,)),
        ("blocks.6.0.conv.weight", (1344, 224, 1, 1)),
        ("blocks.6.0.bn1.weight", (1344,)),
        ("conv_head.weight", (1984, 1344, 1, 1)),
        ("classifier.weight", (1000, 1984)),
    ],
)
def test_names_and_shapes_are_those_of_the_published_files(name, shape):
    assert timm_shapes(zoo.fbnetv3("b", plain_padding=True))[name] == shape


# Output channel, input channel, row, column.
N, C, Y, X = 4, 2, 0, 1


@pytest.mark.parametrize(
    ("path", "place", "name", "there"),
    [
        ("params/stem", (Y, X, C, N), "conv_stem.weight", (N, C, Y, X)),
        ("params/stem_bn/scale", (N,), "bn1.weight", (N,)),
        # Without expansion.
        ("params/stage1_block1/depthwise/kernel", (Y, X, N), "0.1.conv_dw.weight", (N, 0, Y, X)),
        ("batch_stats/stage1_block1/depthwise_bn/mean", (N,), "0.1.bn1.running_mean", (N,)),
        ("params/stage1_block1/project/kernel", (C, N), "0.1.conv_pw.weight", (N, C, 0, 0)),
        ("params/stage1_block1/project_bn/bias", (N,), "0.1.bn2.bias", (N,)),
        # With it.
        ("params/stage2_block1/expand/kernel", (C, N), "1.1.conv_pw.weight", (N, C, 0, 0)),
        ("params/stage2_block1/expand_bn/scale", (N,), "1.1.bn1.weight", (N,)),
        ("params/stage2_block1/depthwise/kernel", (Y, X, N), "1.1.conv_dw.weight", (N, 0, Y, X)),
        ("batch_stats/stage2_block1/depthwise_bn/var", (N,), "1.1.bn2.running_var", (N,)),
        (
            "params/stage2_block1/se/reduce/kernel",
            (C, N),
            "1.1.se.conv_reduce.weight",
            (N, C, 0, 0),
        ),
        ("params/stage2_block1/se/expand/bias", (N,), "1.1.se.conv_expand.bias", (N,)),
        ("params/stage2_block1/project/kernel", (C, N), "1.1.conv_pwl.weight", (N, C, 0, 0)),
        ("batch_stats/stage2_block1/project_bn/mean", (N,), "1.1.bn3.running_mean", (N,)),
        # The last stage's blocks follow on those of the stage before, here two.
        ("params/stage3_block0/expand/kernel", (C, N), "1.2.conv_pw.weight", (N, C, 0, 0)),
        ("params/head_expand/kernel", (C, N), "2.0.conv.weight", (N, C, 0, 0)),
        ("batch_stats/head_bn/var", (N,), "2.0.bn1.running_var", (N,)),
        ("params/head_project/kernel", (C, N), "conv_head.weight", (N, C, 0, 0)),
        ("params/classifier/kernel", (C, N), "classifier.weight", (N, C)),
    ],
)
def test_a_variable_comes_from_the_tensor_of_its_name(tensors, path, place, name, there):
    leaf = from_timm(tensors, TINY)
    for part in path.split("/"):
        leaf = leaf[part]
    if name[0].isdigit():
        name = f"blocks.{name}"
    assert leaf[place] == tensors[name][there]


def test_no_tensor_is_lost_and_none_is_used_twice(tensors):
    variables = from_timm(tensors, TINY)
    assert jax.tree.map(np.shape, variables) == variable_shapes(TINY)
    leaves = jax.tree.leaves(variables)
    sort = lambda arrays: np.sort(np.concatenate([a.ravel() for a in arrays]))
    np.testing.assert_array_equal(sort(leaves), sort(tensors.values()))
    assert all(leaf.dtype == np.float32 for leaf in leaves)


def test_batch_counters_are_passed_over(tensors):
    counted = tensors | {"bn1.num_batches_tracked": np.int64(7).reshape(())}
    assert jax.tree.all(
        jax.tree.map(np.array_equal, from_timm(counted, TINY), from_timm(tensors, TINY))
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_types_become_float32(tensors, dtype, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({name: t.astype(dtype) for name, t in tensors.items()}, file)
    stem = from_timm(read_safetensors(file), TINY)["params"]["stem"]
    assert stem.dtype == np.float32
    expected = tensors["conv_stem.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(stem, expected, rtol=2**-8)


BN = "blocks.1.0.bn2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{BN}.bias": None}, rf"lack the tensor `{BN}.bias` of shape \(32,\)"),
        ({f"{BN}.bias": np.zeros(8)}, rf"`{BN}.bias` must have the shape \(32,\), got \(8,\)"),
        ({f"{BN}.bias": np.zeros(32, np.int32)}, rf"`{BN}.bias` must be one of .*, got int32"),
        ({f"{BN}.bias": np.full(32, np.nan)}, rf"`{BN}.bias` must be finite"),
        ({f"{BN}.bias": np.full(32, 1e39)}, rf"`{BN}.bias` must be finite as float32"),
        ({f"{BN}.running_var": np.full(32, -1.0)}, rf"`{BN}.running_var`.*not be negative"),
        ({"conv_head.bias": np.zeros(32)}, r"a tensor `conv_head.bias` of shape \(32,\)"),
        ({"a\n\x1b[2J" + 999 * "b": np.zeros(2)}, r"a tensor `a \?\[2Jb{194}` of shape"),
    ],
)
def test_what_does_not_fit_is_named(tensors, change, message):
    changed = {n: t for n, t in (tensors | change).items() if t is not None}
    with pytest.raises(ModelError, match=message) as caught:
        from_timm(changed, TINY)
    assert str(caught.value).isprintable()


def test_the_file_says_how_many_classes_there_are(tensors):
    assert class_count(tensors) == 5
    for bias, message in ((None, "none"), (np.zeros(()), r"shape \(\)"), (np.zeros(0), r"\(0,\)")):
        found = {} if bias is None else {"classifier.bias": bias}
        with pytest.raises(ModelError, match=f"classifier.bias.*{message}"):
            class_count(found)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    trap = pickle.dumps({"conv_stem.weight": Trap(tmp_path / "sprung")})
    plain, zipped = tmp_path / "w.safetensors", tmp_path / "w.pth"
    plain.write_bytes(trap)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", trap)
    for file in (plain, zipped):
        with pytest.raises(ModelError, match="not a sound safetensors file.*can run code"):
            read_safetensors(file)
    assert not (tmp_path / "sprung").exists()


def test_missing_damaged_and_oversized_files_are_errors(tensors, tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    with pytest.raises(ModelError, match="cannot be read: .*No such file"):
        read_safetensors(file)
    save_file(tensors, file)
    monkeypatch.setattr(timm_weights, "_MAX_BYTES", file.stat().st_size - 1)
    with pytest.raises(ModelError, match="weights may have"):
        read_safetensors(file)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        read_safetensors(file)
