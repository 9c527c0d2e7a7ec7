"""Residual networks for small images: post-activation (basic) and pre-activation, any depth and width.

Three stages of ``(depth - 2)/6`` blocks at widths 16, 32, 64 times ``width``; stages 2 and 3 begin
with stride 2. Every ReLU is its own module, so that each has its own range, and the tensor that
enters a residual sum passes an ``nn.Identity`` named ``residual``, where a policy can quantize it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from . import MODELS

NAMED_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
ACTIVATIONS = {"relu": nn.ReLU, "hardtanh": nn.Hardtanh}


class ResNetCifar(nn.Module):
    """Post-activation ResNet (He et al., CVPR 2016) for images of about 32 x 32.

    Args:
        depth: 6n + 2, counting convolutions and the linear layer.
        num_classes: outputs.
        in_channels: image channels.
        shortcut: at a change of width, ``"A"`` pads the identity with zero channels and has no
            parameters; ``"B"`` is a 1x1 convolution with batch norm.
        width: multiplies 16, 32, 64; ``first_width`` gives the 16 itself instead.
        activation: ``relu``, or ``hardtanh`` for nets whose activations are signs.
    """

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        shortcut: Literal["A", "B"] = "A",
        width: float = 1.0,
        first_width: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut={shortcut!r}: expected 'A' (zero channels) or 'B' (1x1 convolution)")
        blocks, base = num_blocks(depth), base_width(width, first_width)
        act = activation_named(activation)
        self.conv1 = nn.Conv2d(in_channels, base, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = act()
        self.layers = stages(partial(BasicBlock, shortcut=shortcut, act=act), base, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * base, num_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.flatten(self.pool(self.layers(x))))


class BasicBlock(nn.Module):
    """conv, BN, ReLU, conv, BN, sum, ReLU."""

    def __init__(
        self, in_width: int, out_width: int, stride: int, opens: bool, *, shortcut: str, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.relu1 = act()
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        changes = stride != 1 or in_width != out_width
        if not changes:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.shortcut = ZeroChannels(stride, out_width - in_width)
        else:
            conv = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_width))
        self.residual = nn.Identity()
        self.relu2 = act()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.residual(self.shortcut(x)))


class ZeroChannels(nn.Module):
    """Option A: the identity, subsampled, with zero channels added on both sides."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))


class PreResNetCifar(nn.Module):
    """Pre-activation ResNet (He et al., ECCV 2016) for images of about 32 x 32, in the papers' variants.

    All variants end in BN, ReLU, pooling and a linear layer, and take a 1x1 convolution without BN as
    shortcut at the two changes of width, fed by the block's first BN and ReLU. ``saq``: the first
    block of the first stage takes its identity from there too ("half pre-activation"). ``uniq`` and
    ``hol`` are this net without that; they differ in what their policies quantize.

    Args: as ``ResNetCifar``.
    """

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        variant: Literal["saq", "uniq", "hol"] = "uniq",
        width: float = 1.0,
        first_width: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if variant not in ("saq", "uniq", "hol"):
            raise ValueError(f"variant={variant!r}: expected 'saq', 'uniq' or 'hol'")
        blocks, base = num_blocks(depth), base_width(width, first_width)
        act = activation_named(activation)
        self.conv1 = nn.Conv2d(in_channels, base, 3, padding=1, bias=False)
        self.layers = stages(partial(PreactBlock, variant=variant, act=act), base, blocks)
        self.bn = nn.BatchNorm2d(4 * base)
        self.relu = act()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * base, num_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.relu(self.bn(self.layers(self.conv1(x))))
        return self.fc(self.flatten(self.pool(x)))


class PreactBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, sum."""

    def __init__(
        self, in_width: int, out_width: int, stride: int, opens: bool, *, variant: str, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = act()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.relu2 = act()
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        changes = stride != 1 or in_width != out_width
        self.after_relu = changes or (variant == "saq" and opens)
        self.shortcut: nn.Module = nn.Identity()
        if changes:
            self.shortcut = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)
        self.residual = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out + self.residual(self.shortcut(activated if self.after_relu else x))


def num_blocks(depth: int) -> int:
    """Blocks per stage of a net of ``depth = 6n + 2``. Raises ValueError for other depths."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth={depth}: expected 6n + 2 with n >= 1 blocks per stage: 8, 14, 20, 26, 32, 38, 44, ...")
    return (depth - 2) // 6


def base_width(width: float, first_width: int | None) -> int:
    """Channels of the first stage: ``first_width``, or 16 times ``width``, rounded. Raises ValueError below 1."""
    base = first_width if first_width is not None else round(16 * width)
    if base < 1:
        raise ValueError(f"width={width}, first_width={first_width}: gives {base} channels, expected at least 1")
    return base


def activation_named(name: str) -> type[nn.Module]:
    """The activation class of a name. Raises ValueError for unknown ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def stages(block: Callable[[int, int, int, bool], nn.Module], base: int, blocks: int) -> nn.Sequential:
    """Three stages of blocks: ``block(in_width, out_width, stride, opens)``, opens for a stage's first."""
    built, in_width = [], base
    for out_width, stride in ((base, 1), (2 * base, 2), (4 * base, 2)):
        first = block(in_width, out_width, stride, True)
        rest = (block(out_width, out_width, 1, False) for _ in range(blocks - 1))
        built.append(nn.Sequential(first, *rest))
        in_width = out_width
    return nn.Sequential(*built)


def initialize_(model: nn.Module) -> None:
    """He initialization of the convolutions, in place (fan out, as the ResNet papers)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


MODELS.add("resnet_cifar", ResNetCifar)
MODELS.add("preresnet_cifar", PreResNetCifar)
for _depth in NAMED_DEPTHS:
    MODELS.add(f"resnet{_depth}", partial(ResNetCifar, depth=_depth))
    MODELS.add(f"preresnet{_depth}", partial(PreResNetCifar, depth=_depth))
