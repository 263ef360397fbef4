"""Our networks with timm's weights, beside timm (extra `bench`)."""

import dataclasses

import jax
import numpy as np
import pytest

from jointnas_jax import zoo
from jointnas_jax.nets.network import Network
from jointnas_jax.nets.timm_weights import timm_shapes
from jointnas_jax.study import published

torch = pytest.importorskip("torch")
try:
    import timm
except (ImportError, RuntimeError) as error:  # its torchvision is for another build of torch
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)
safetensors_torch = pytest.importorskip("safetensors.torch")

NAMES = [
    "fbnetv3_b",
    pytest.param("fbnetv3_d", marks=pytest.mark.slow),
    pytest.param("fbnetv3_g", marks=pytest.mark.slow),
]
# Maps of even and of odd sides on the way down: 36, 18, 9, 5, 3.
RESOLUTION = 72
IMAGES = 8


def randomise(model):
    """Draws weights and BN statistics that all matter, and keep activations near unit variance."""
    generator = torch.Generator().manual_seed(0)

    def draw(low, high, shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    def normal(shape):
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(draw(0.5, 1.5, module.weight.shape))
                module.bias.copy_(0.3 * normal(module.bias.shape))
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(normal(module.weight.shape) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(0.3 * normal(module.bias.shape))


def batch_statistics(model, images):
    """Sets the BN statistics to those of a batch, each then off by a random tenth or so.

    Statistics that have nothing to do with the activations let these grow or vanish over a hundred
    layers, and with them every error.
    """
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        model.train()(images)
    generator = torch.Generator().manual_seed(1)
    for norm in norms:
        noise = torch.rand((2, norm.num_features), generator=generator)
        norm.running_mean += 0.2 * (noise[0] - 0.5) * norm.running_var.sqrt()
        norm.running_var *= 0.8 + 0.4 * noise[1]


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_timms(name, tmp_path):
    """Within 1e-4 of the logits' standard deviation over images: more than the absolute 1e-4.

    The deviation over images is what a class is decided by; a bias common to all images would only
    hide an error behind large logits.
    """
    reference = timm.create_model(name, pretrained=False)
    images = torch.randn(
        (IMAGES, 3, RESOLUTION, RESOLUTION), generator=torch.Generator().manual_seed(2)
    )
    randomise(reference)
    batch_statistics(reference, images)
    file = tmp_path / "model.safetensors"
    safetensors_torch.save_file(reference.state_dict(), file)
    with torch.no_grad():
        expected = reference.eval()(images).numpy()

    model = published.import_timm(name, file)
    arch = dataclasses.replace(model.arch, resolution=RESOLUTION)
    inputs = images.numpy().transpose(0, 2, 3, 1)
    logits = np.asarray(jax.jit(Network(arch).apply)(model.variables, inputs))
    scale = expected.std(axis=0).mean()
    deviation = abs(logits - expected).max() / scale
    print(f"{name}: deviation {deviation:.1e} of {scale:.2f}")
    assert deviation <= 1e-4


@pytest.mark.parametrize("name", ["fbnetv3_b", "fbnetv3_d", "fbnetv3_g"])
def test_tensors_and_images_are_as_timm_has_them(name):
    with torch.device("meta"):
        reference = timm.create_model(name, pretrained=False)
    shapes = {n: tuple(t.shape) for n, t in reference.state_dict().items()}
    assert timm_shapes(zoo.fbnetv3(name[-1], plain_padding=True)) == {
        n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")
    }
    default = reference.default_cfg
    assert default["test_input_size"] == (3, published.SIDES[name], published.SIDES[name])
    assert (default["crop_pct"], default["interpolation"]) == (published.CROP, "bilinear")
    for ours, theirs in ((published.MEAN, "mean"), (published.STD, "std")):
        assert ours == pytest.approx([255 * value for value in default[theirs]])
