"""The same networks and recipes in eager PyTorch, at its fastest settings on a CPU.

Measured to be faster, and on: channels_last (a third), `Pool` (4 to 8 %), `Pointwise` (2 to 8 %),
fused SGD and foreach RMSProp, foreach EMA. In-place activations are off but for ReLU: PyTorch
clones the input of the others. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ at 10^9, set
before Python starts, save the page faults of a step and with them a few percent.

RMSProp and running variances are PyTorch's own, not to the last detail those of the JAX side.

Shapes: N images, B = batch size, H x W x C = stored image, R = resolution, L classes. A map is
`float32[B, D, H, W]` of D channels in channels_last memory format.
"""

import operator
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial, reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jointnas_jax.space import ArchSpec, Block, Recipe
from jointnas_jax.train.recipe_arrays import RecipeArrays

ACTIVATIONS = {"hswish": nn.Hardswish, "relu": partial(nn.ReLU, inplace=True), "swish": nn.SiLU}

# Flax's names of PyTorch's variables; the weight of a BN is called `scale`.
_NAMES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}
# Axes of a Flax variable in PyTorch's order: of a vector, of dense and 1x1, of depthwise, of stem.
_AXES = {1: (0,), 2: (1, 0), 3: (2, 0, 1), 4: (3, 2, 0, 1)}
# Rows up to which a matmul beats oneDNN's 1x1 convolution: below, its overhead shows.
_MATMUL_ROWS = 4096


class Pointwise(nn.Linear):
    """1x1 convolution, a matmul for small maps: map -> map of D channels. Has no bias."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > _MATMUL_ROWS * self.in_features:
            return F.conv2d(x, self.weight[:, :, None, None])
        return F.linear(x.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2)


class Pool(nn.Module):
    """Global average: map -> `float32[B, D]`. Mean's own gradient leaves channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


class SqueezeExcite(nn.Sequential):
    """Scales each channel of a map by a hard-sigmoid gate computed from the channels' means."""

    def __init__(self, channels: int, squeezed: int):
        layers = dict(pool=Pool(), reduce=nn.Linear(channels, squeezed), act=nn.Hardswish())
        layers |= dict(expand=nn.Linear(squeezed, channels), sigmoid=nn.Hardsigmoid())
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x)[:, :, None, None]


def _norm_act(name: str, width: int, activation: str) -> dict[str, nn.Module]:
    return {f"{name}_bn": nn.BatchNorm2d(width), f"{name}_act": ACTIVATIONS[activation]()}


class MBConv(nn.Sequential):
    """Inverted bottleneck: expand, depthwise, squeeze-and-excitation, project, residual."""

    def __init__(self, block: Block, drop_rate: float):
        hidden, k, layers = block.hidden, block.kernel, {}
        if block.expands:
            layers["expand"] = Pointwise(block.in_channels, hidden, bias=False)
            layers |= _norm_act("expand", hidden, block.activation)
        stride, padding = block.stride, k // 2 - block.trim
        layers["depthwise"] = nn.Conv2d(
            hidden, hidden, k, stride, padding, groups=hidden, bias=False
        )
        layers |= _norm_act("depthwise", hidden, block.activation)
        if block.se_channels:
            layers["se"] = SqueezeExcite(hidden, block.se_channels)
        layers["project"] = Pointwise(hidden, block.out_channels, bias=False)
        layers["project_bn"] = nn.BatchNorm2d(block.out_channels)
        super().__init__(OrderedDict(layers))
        self.residual = block.residual
        self.drop_rate = drop_rate
        if block.residual:  # the block starts as the identity
            nn.init.zeros_(self.project_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not (self.residual and self.training and self.drop_rate):
            return x + y if self.residual else y
        keep = 1 - self.drop_rate
        return torch.addcmul(x, y, y.new_empty(len(y), 1, 1, 1).bernoulli_(keep).div_(keep))


def build_network(
    arch: ArchSpec, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> nn.Sequential:
    """Builds `nets.network.Network` of an architecture, initialised by the same rules.

    It maps normalised images `float32[B, C, R, R]` to logits `float32[B, L]`; modules have Flax's
    names. The drop rate of block l of L is l / L of `stochastic_depth`.
    """
    stem, head, blocks, width = arch.stem, arch.head, list(arch.blocks()), arch.head_hidden
    convolution = partial(nn.Conv2d, arch.image_channels, stem.channels, stem.kernel, stem.stride)
    layers: dict[str, nn.Module] = {"stem": convolution(padding=stem.kernel // 2, bias=False)}
    layers |= _norm_act("stem", stem.channels, stem.activation)
    for i, block in enumerate(blocks, start=1):
        layers[block.name] = MBConv(block, stochastic_depth * i / len(blocks))
    layers["head_expand"] = Pointwise(blocks[-1].out_channels, width, bias=False)
    layers |= _norm_act("head", width, head.activation) | {"pool": Pool()}
    layers["head_project"] = nn.Linear(width, head.channels, bias=False)
    layers |= {"project_act": ACTIVATIONS[head.activation](), "dropout": nn.Dropout(dropout)}
    layers["classifier"] = nn.Linear(head.channels, arch.num_classes)
    network = nn.Sequential(OrderedDict(layers)).to(memory_format=torch.channels_last)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network


def load_flax(network: nn.Module, variables: Mapping[str, Mapping]) -> None:
    """Copies Flax variables of `Network` (nested dicts of NumPy arrays) into its twin."""
    for path, tensor in network.state_dict().items():
        *modules, name = path.split(".")
        if name not in _NAMES:  # the number of batches that a BN has seen
            continue
        part = variables["batch_stats" if name.startswith("running") else "params"]
        leaf = reduce(operator.getitem, modules, part)
        if isinstance(leaf, Mapping):  # the stem is its kernel
            leaf = leaf.get(_NAMES[name], leaf.get("scale"))
        value = torch.tensor(np.asarray(leaf))
        tensor.copy_(value.permute(_AXES[value.ndim]).reshape(tensor.shape))


def train(
    arch: ArchSpec,
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    steps_per_epoch: int,
    crop_padding: int,
    flip: bool,
    mean: np.ndarray,
    std: np.ndarray,
    seed: int,
    threads: int,
) -> dict[str, float]:
    """Trains a network by a recipe, step for step what `train.step.train_step` does.

    Args:
      arch, recipe: the candidate.
      images, labels: `uint8[N, H, W, C]` and `int32[N]`.
      steps, batch_size, steps_per_epoch: number of steps; B; for the learning rate.
      crop_padding, flip: fields of `data.augment.Augmentation`.
      mean, std: `float32[C]`, statistics of the pixels in [0, 255].
      seed, threads: settings of PyTorch, in the whole process.

    Returns:
      `seconds` of it all, building included; median `ms_per_step` after 5 steps; last `loss`.
    """
    start = time.perf_counter()
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network = build_network(arch, recipe.dropout, recipe.stochastic_depth)
    optimizer = _optimizer(recipe, network)
    schedule = RecipeArrays.of(recipe, -(-steps // steps_per_epoch))
    current = [t for t in network.state_dict().values() if t.is_floating_point()]
    averaged = [t.clone() for t in current]
    data = [torch.tensor(np.asarray(array)) for array in (images, labels, mean, std)]
    batches = _batches(arch, recipe, data, batch_size=batch_size, padding=crop_padding, flip=flip)
    ends = [time.perf_counter()]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(schedule, step, steps_per_epoch)
        inputs, targets = next(batches)
        loss = F.cross_entropy(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recipe.ema:
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        ends.append(time.perf_counter())
    typical = float(np.median(np.diff(ends)[min(5, steps - 1) :]))
    return dict(seconds=ends[-1] - start, ms_per_step=1e3 * typical, loss=loss.item())


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Kernels alone have weight decay. The learning rate is set at every step."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [dict(params=kernels, weight_decay=recipe.weight_decay), dict(params=others)]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
    return torch.optim.RMSprop(groups, lr=0.0, alpha=0.9, momentum=0.9, foreach=True)


def _learning_rate(recipe: RecipeArrays, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up times exponential decay per epoch."""
    warmup = min(1.0, (step + 1) / max(float(recipe.warmup_epochs) * steps_per_epoch, 1.0))
    return float(recipe.lr) * warmup * float(recipe.lr_decay) ** (step // steps_per_epoch)


def _batches(
    arch: ArchSpec, recipe: Recipe, data: list[Tensor], *, batch_size: int, padding: int, flip: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images `float32[B, C, R, R]` and targets `float32[B, L]`; `data` as `train` has it."""
    images, labels, mean, std = data
    count = len(images) // batch_size * batch_size
    assert count, f"{len(images)} images are no batch of {batch_size}"
    rng = np.random.default_rng(torch.initial_seed())
    classes, smoothing = arch.num_classes, recipe.label_smoothing
    targets_of = (1 - smoothing) * torch.eye(classes) + smoothing / classes
    while True:
        for members in torch.randperm(len(images))[:count].split(batch_size):
            x = _cropped(images, members, padding, flip)
            x = x.float().sub_(mean).div_(std).permute(0, 3, 1, 2)
            if x.shape[2:] != (arch.resolution, arch.resolution):
                x = F.interpolate(x, [arch.resolution] * 2, mode="bilinear", antialias=True)
            targets = targets_of[labels[members]]
            if recipe.mixup:
                weight = rng.beta(recipe.mixup, recipe.mixup)
                x, targets = (torch.lerp(t.flip(0), t, weight) for t in (x, targets))
            yield x, targets


def _cropped(images: Tensor, members: Tensor, padding: int, flip: bool) -> Tensor:
    """Picks `uint8[B, H, W, C]`, each image shifted and mirrored at random, edges repeated."""
    height, width, channels = images.shape[1:]
    shifts = torch.randint(-padding, padding + 1, (2, len(members), 1))
    rows = (shifts[0] + torch.arange(height)).clamp_(0, height - 1)
    columns = (shifts[1] + torch.arange(width)).clamp_(0, width - 1)
    if flip:
        columns = torch.where(torch.rand(len(members), 1) < 0.5, columns.flip(1), columns)
    # One index per pixel: half the time of indexing with three tensors.
    pixels = ((members[:, None] * height + rows) * width)[:, :, None] + columns[:, None, :]
    picked = images.view(-1, channels).index_select(0, pixels.view(-1))
    return picked.view(*pixels.shape, channels)
