"""Residual networks for ImageNet, in both orders, at any depths and width; ResNet-18 for CIFAR.

Four stages at widths 64, 128, 256, 512 (times 4 after a bottleneck), times ``width``. The
post-activation net has torchvision's layer names, so that its checkpoints load as they are. A
bottleneck strides at its 3x3 convolution: HOL's counts are met so, and only so (spec of Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from . import MODELS
from .resnet_cifar import initialize_

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK_FROM = 50
Stem = Literal["imagenet", "cifar"]
Block = Literal["basic", "bottleneck"]


class ResNet(nn.Module):
    """Post-activation ResNet (He et al., CVPR 2016), named as torchvision's.

    Args:
        depths: blocks in each of the four stages.
        block: ``basic`` (two 3x3) or ``bottleneck`` (1x1, 3x3, 1x1 to four times the width).
        num_classes: outputs.
        in_channels: image channels.
        width: multiplies 64, 128, 256, 512; ``first_width`` gives the 64 itself instead.
        stem: ``imagenet`` is 7x7 of stride 2 and a max pool; ``cifar`` one 3x3 of stride 1.

    Depth in the papers' names is ``2 sum(depths) + 2`` (basic) or ``3 sum(depths) + 2``.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 2, 2),
        block: Block = "basic",
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        first_width: int | None = None,
        stem: Stem = "imagenet",
    ) -> None:
        super().__init__()
        base = _checked_base(depths, block, width, first_width, stem)
        self.conv1 = _stem_conv(in_channels, base, stem)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(BasicBlock, Bottleneck, block, base, depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(8 * base * expansion(block), num_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


class PreResNet(nn.Module):
    """Pre-activation ResNet (He et al., ECCV 2016): UNIQ's and HOL's ImageNet nets.

    The stem is convolution, BN, ReLU and pool; a block's 1x1 shortcut has no BN and reads the block's
    first ReLU; a last BN and ReLU precede the pooling (as pytorchcv's).

    Args: as ``ResNet``.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 2, 2),
        block: Block = "basic",
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        first_width: int | None = None,
        stem: Stem = "imagenet",
    ) -> None:
        super().__init__()
        base = _checked_base(depths, block, width, first_width, stem)
        self.conv1 = _stem_conv(in_channels, base, stem)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        stages = _stages(PreactBasicBlock, PreactBottleneck, block, base, depths)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        out_width = 8 * base * expansion(block)
        self.bn = nn.BatchNorm2d(out_width)
        self.relu_out = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(out_width, num_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(self.relu_out(self.bn(x)))))


class BasicBlock(nn.Module):
    """conv, BN, ReLU, conv, BN, sum, ReLU."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_width, width, stride)
        self.residual = nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.residual(self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width; BN after each, ReLU after all but the sum."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(in_width, 4 * width, stride)
        self.residual = nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        return self.relu3(out + self.residual(self.downsample(x)))


class PreactBasicBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, sum."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.downsample = _projection(in_width, width, stride, batchnorm=False)
        self.residual = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        return out + self.residual(_shortcut(self.downsample, x, activated))


class PreactBottleneck(nn.Module):
    """BN, ReLU, 1x1, BN, ReLU, 3x3 (with the stride), BN, ReLU, 1x1, sum."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.downsample = _projection(in_width, 4 * width, stride, batchnorm=False)
        self.residual = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        out = self.conv3(self.relu3(self.bn3(out)))
        return out + self.residual(_shortcut(self.downsample, x, activated))


def expansion(block: Block) -> int:
    """How much wider a block's output is than its stage."""
    return 4 if block == "bottleneck" else 1


def _shortcut(downsample: nn.Module, x: Tensor, activated: Tensor) -> Tensor:
    """A projection reads the activated input, an identity the raw one."""
    return x if isinstance(downsample, nn.Identity) else downsample(activated)


def _projection(in_width: int, out_width: int, stride: int, *, batchnorm: bool = True) -> nn.Module:
    if stride == 1 and in_width == out_width:
        return nn.Identity()
    conv = nn.Conv2d(in_width, out_width, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_width)) if batchnorm else conv


def _stem_conv(in_channels: int, base: int, stem: Stem) -> nn.Conv2d:
    if stem == "imagenet":
        return nn.Conv2d(in_channels, base, 7, 2, 3, bias=False)
    return nn.Conv2d(in_channels, base, 3, 1, 1, bias=False)


def _stages(
    basic: type[nn.Module], bottleneck: type[nn.Module], block: Block, base: int, depths: Sequence[int]
) -> list[nn.Sequential]:
    make = bottleneck if block == "bottleneck" else basic
    stages, in_width = [], base
    for index, count in enumerate(depths):
        width, blocks = base * 2**index, []
        for position in range(count):
            blocks.append(make(in_width, width, 2 if index and not position else 1))
            in_width = width * expansion(block)
        stages.append(nn.Sequential(*blocks))
    return stages


def _checked_base(depths: Sequence[int], block: str, width: float, first_width: int | None, stem: str) -> int:
    """Channels of the first stage. Raises ValueError for arguments that describe no net."""
    if len(depths) != 4 or min(depths) < 1:
        raise ValueError(f"depths={list(depths)}: expected four numbers of blocks, each at least 1, as (3, 4, 6, 3)")
    if block not in ("basic", "bottleneck"):
        raise ValueError(f"block={block!r}: expected 'basic' or 'bottleneck'")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem={stem!r}: expected 'imagenet' or 'cifar'")
    base = first_width if first_width is not None else round(64 * width)
    if base < 1:
        raise ValueError(f"width={width}, first_width={first_width}: gives {base} channels, expected at least 1")
    return base


for _depth, _blocks in DEPTHS.items():
    _block: Block = "bottleneck" if _depth >= BOTTLENECK_FROM else "basic"
    MODELS.add(f"resnet{_depth}", partial(ResNet, depths=_blocks, block=_block))
    MODELS.add(f"preresnet{_depth}", partial(PreResNet, depths=_blocks, block=_block))
MODELS.add("resnet_imagenet", ResNet)
MODELS.add("preresnet_imagenet", PreResNet)
MODELS.add("resnet18_cifar", partial(ResNet, depths=DEPTHS[18], num_classes=10, stem="cifar"))
