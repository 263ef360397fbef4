import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec, Head, Recipe, Stage, Stem

torch = pytest.importorskip("torch")

from benchmarks import torch_baseline  # noqa: E402  (needs torch)

ARCHITECTURES = {
    "se_residual_stride": ArchSpec(
        resolution=12,
        image_channels=3,
        num_classes=7,
        stem=Stem(channels=8, kernel=3, stride=2),
        stages=(
            Stage(channels=8, depth=2, expand_first=1, expand_rest=3),
            Stage(channels=16, depth=2, kernel_first=5, expand_first=4, stride=2, se=True),
        ),
        head=Head(channels=32, expand=2),
    ),
    "all_activations": ArchSpec(
        resolution=9,
        image_channels=1,
        num_classes=3,
        stem=Stem(channels=16, kernel=5, stride=1, activation="relu"),
        stages=(
            Stage(channels=16, depth=2, expand_first=1, expand_rest=1, activation="relu", se=True),
            Stage(channels=24, depth=2, kernel_rest=5, stride=2, activation="swish"),
        ),
        head=Head(channels=24, expand=3, activation="swish"),
    ),
}


@pytest.fixture(autouse=True)
def _restore_process():
    """What `train` sets is the whole process's, and other tests run in it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def _random_variables(arch):
    """Flax variables with nothing left at its initial constant, BN statistics and scales least."""
    shape = (1, arch.resolution, arch.resolution, arch.image_channels)
    shapes = jax.eval_shape(Network(arch, "conv").init, jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:2] if leaf.ndim == 3 else leaf.shape[:-1])
        std = np.sqrt(2 / fan_in) if leaf.ndim > 1 else 0.3
        return rng.normal(0.0, std, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("batch_size", [4, 64])  # pointwise as matmuls, and as convolutions
@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_same_logits_as_flax(arch, batch_size):
    variables = _random_variables(arch)
    shape = (batch_size, arch.resolution, arch.resolution, arch.image_channels)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    network = torch_baseline.build_network(arch).eval()
    torch_baseline.load_flax(network, variables)
    with torch.no_grad():
        logits = network(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    expected = Network(arch, "conv").apply(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_initial_network_has_the_spread_and_constants_of_flax():
    arch = ARCHITECTURES["se_residual_stride"]
    network = torch_baseline.build_network(arch)
    for block, module in zip(
        arch.blocks(), (network.get_submodule(b.name) for b in arch.blocks()), strict=True
    ):
        assert (module.project_bn.weight == (0.0 if block.residual else 1.0)).all()
    weight = network.head_project.weight
    assert weight.std().item() == pytest.approx(np.sqrt(2 / weight.shape[1]), rel=0.1)


def test_crops_shift_with_repeated_edges_and_mirror():
    images = torch.arange(2 * 4 * 4, dtype=torch.uint8).view(2, 4, 4, 1)
    padded = np.pad(images.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    members = torch.tensor([1, 0] * 100)
    torch.manual_seed(0)
    seen = set()
    crops = torch_baseline._cropped(images, members, padding=1, flip=True).numpy()
    for member, crop in zip(members.tolist(), crops, strict=True):
        matches = [
            (y, x, mirrored)
            for y in range(3)
            for x in range(3)
            for mirrored in (False, True)
            if (crop == padded[member, y : y + 4, x : x + 4][:, :: -1 if mirrored else 1]).all()
        ]
        assert len(matches) == 1
        seen |= set(matches)
    assert len(seen) == 18


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_training_lowers_the_loss(optimizer):
    """Images whose class is their brightness."""
    arch = ARCHITECTURES["all_activations"]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96).astype(np.int32)
    images = (60 + 60 * labels[:, None, None, None] + rng.integers(0, 40, (96, 9, 9, 1))).astype(
        np.uint8
    )
    lr = 0.05 if optimizer == "sgd" else 0.002
    recipe = Recipe(lr=lr, optimizer=optimizer, sgd_lr_scale=1.0, mixup=0.1, label_smoothing=0.05)

    def train(steps):
        return torch_baseline.train(
            arch,
            recipe,
            images,
            labels,
            steps=steps,
            batch_size=32,
            steps_per_epoch=3,
            crop_padding=1,
            flip=True,
            mean=images.mean((0, 1, 2), np.float32),
            std=images.std((0, 1, 2), np.float32),
            seed=0,
            threads=1,
        )

    first, last = train(1), train(40)
    assert last["loss"] < 0.6 * first["loss"]
    assert 0 < last["ms_per_step"] < 1e3 * last["seconds"]


def test_learning_rate_equals_the_jax_side():
    from jointnas_jax.train.optimizer import learning_rate
    from jointnas_jax.train.recipe_arrays import RecipeArrays

    recipe = Recipe(lr=0.01, optimizer="sgd", sgd_lr_scale=20.0, warmup=0.3, lr_end=0.24)
    schedule = RecipeArrays.of(recipe, 5)
    for step in (0, 3, 7, 8, 23):
        ours = torch_baseline._learning_rate(schedule, step, 5)
        assert ours == pytest.approx(float(learning_rate(schedule, step, 5)))
