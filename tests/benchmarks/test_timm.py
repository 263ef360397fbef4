"""Our networks with timm's weights, beside timm (extra `bench`)."""

import dataclasses

import jax
import numpy as np
import pytest

from jointnas_jax.models import timm_import as published
from jointnas_jax.nets import zoo
from jointnas_jax.nets.network import Network
from jointnas_jax.nets.timm_weights import timm_shapes

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
    """Draws all weights and BN statistics.

    Kernels with He's gain of 2 and these statistics let activations grow over the hundred layers
    until float32 rounding alone moves the logits by a percent; with a gain of 1.1 they stay in
    range, and every tensor still moves the logits by far more than the tolerance.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                draw(module.weight, 0.5, 1.5)
                draw(module.bias, -0.5, 0.5)
                draw(module.running_mean, -0.5, 0.5)
                draw(module.running_var, 0.5, 1.5)
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                std = (1.1 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(std * torch.randn(module.weight.shape, generator=generator))
                if module.bias is not None:
                    draw(module.bias, -0.5, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_timms(name, tmp_path):
    """Within 1e-4 of the logits' standard deviation, which is about 0.4 here."""
    reference = timm.create_model(name, pretrained=False)
    randomise(reference)
    # Colours of their own, or noise would look alike to the last layer.
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((IMAGES, 3, RESOLUTION, RESOLUTION), generator=generator)
    images += 2 * torch.randn((IMAGES, 3, 1, 1), generator=generator)
    with torch.no_grad():
        expected = reference.eval()(images).numpy()
    file = tmp_path / "model.safetensors"
    safetensors_torch.save_file(reference.state_dict(), file)

    model = published.import_timm(name, file)
    arch = dataclasses.replace(model.arch, resolution=RESOLUTION)
    inputs = images.numpy().transpose(0, 2, 3, 1)
    logits = np.asarray(jax.jit(Network(arch).apply)(model.variables, inputs))
    deviation, scale = abs(logits - expected).max(), expected.std()
    print(f"{name}: largest deviation {deviation:.1e}, standard deviation of logits {scale:.2f}")
    assert deviation <= 1e-4 * scale


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
