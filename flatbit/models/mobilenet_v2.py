"""MobileNetV2: for ImageNet, in two variants, and in the three that papers train on CIFAR.

Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks, CVPR 2018. Layer names are
torchvision's, so that its checkpoints load into the ImageNet net as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from . import MODELS
from .resnet_cifar import initialize_

# Each row: expansion t, channels c, blocks n, stride of the first s (Table 2 of the paper).
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STRIDES = (2, *(row[3] for row in ROWS))  # the stem's first
ACTIVATIONS = {"relu6": nn.ReLU6, "relu": nn.ReLU}
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
Variant = Literal["standard", "hol", "saq"]


class MobileNetV2(nn.Module):
    """Inverted residual blocks between a 3x3 stem and a 1x1 head.

    Args:
        num_classes: outputs.
        in_channels: image channels.
        width: multiplies all channels, rounded to multiples of 8; the head only above 1.
        dropout: before the classifier.
        strides: of the first convolution, and of the seven rows of blocks.
        shortcut: ``identity`` where stride is 1 and widths agree; ``projection`` adds a 1x1
            convolution with BN where the stride is 1 and the width changes.
        variant: ``expanded`` keeps the 1x1 expansion also where it widens by 1, in the first block
            (SAQ's CIFAR net); ``uniq`` does too, and has no bias in its last layer: the net of UNIQ's
            authors, pytorchcv's.
        activation: ``relu6`` or ``relu``.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.2,
        strides: Sequence[int] = STRIDES,
        shortcut: Literal["identity", "projection"] = "identity",
        variant: Literal["standard", "expanded", "uniq"] = "standard",
        activation: Literal["relu6", "relu"] = "relu6",
    ) -> None:
        super().__init__()
        if len(strides) != len(STRIDES):
            raise ValueError(f"strides={list(strides)}: expected {len(STRIDES)}, the stem's and one per row of blocks")
        if width <= 0:
            raise ValueError(f"width={width}: expected a positive multiplier")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: expected relu6 or relu")
        if shortcut not in ("identity", "projection"):
            raise ValueError(f"shortcut={shortcut!r}: expected identity or projection")
        if variant not in ("standard", "expanded", "uniq"):
            raise ValueError(f"variant={variant!r}: expected standard, expanded or uniq")
        act = ACTIVATIONS[activation]
        in_width = rounded(STEM_CHANNELS * width)
        layers: list[nn.Module] = [conv_bn(in_channels, in_width, 3, strides[0], act=act)]
        for (t, c, n, _), first_stride in zip(ROWS, strides[1:], strict=True):
            out_width = rounded(c * width)
            for index in range(n):
                stride = first_stride if index == 0 else 1
                layers.append(
                    InvertedResidual(
                        in_width,
                        out_width,
                        stride,
                        t,
                        projects=shortcut == "projection",
                        expands=t != 1 or variant != "standard",
                        act=act,
                    )
                )
                in_width = out_width
        head = rounded(HEAD_CHANNELS * max(1.0, width))
        self.features = nn.Sequential(*layers, conv_bn(in_width, head, 1, 1, act=act))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes, bias=variant != "uniq"))
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        return self.classifier(self.flatten(self.pool(self.features(x))))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; a sum where stride is 1.

    The block's output, signed, passes an ``nn.Identity`` named ``residual``, where a policy can quantize
    it for both its readers: the next block's convolution and its sum.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        stride: int,
        t: int,
        *,
        projects: bool,
        expands: bool,
        act: type[nn.Module],
        dilation: int = 1,
    ) -> None:
        super().__init__()
        hidden = t * in_width
        layers: list[nn.Module] = [conv_bn(in_width, hidden, 1, 1, act=act)] if expands else []
        layers.append(conv_bn(hidden, hidden, 3, stride, act=act, groups=hidden, dilation=dilation))
        layers += [nn.Conv2d(hidden, out_width, 1, bias=False), nn.BatchNorm2d(out_width)]
        self.conv = nn.Sequential(*layers)
        self.sums = stride == 1 and (in_width == out_width or projects)
        if self.sums:
            self.shortcut: nn.Module = nn.Identity()
            if in_width != out_width:
                self.shortcut = nn.Sequential(nn.Conv2d(in_width, out_width, 1, bias=False), nn.BatchNorm2d(out_width))
        self.residual = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return self.residual(out + self.shortcut(x) if self.sums else out)


def conv_bn(
    in_width: int,
    out_width: int,
    kernel: int,
    stride: int,
    *,
    act: type[nn.Module],
    groups: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """Convolution without bias, BN, activation; "same" padding."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(in_width, out_width, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_width), act())


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8, at least 8, and not below 90 % of ``channels`` (the authors' rule)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def mobilenet_v2_cifar(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    variant: Variant = "standard",
    width: float = 1.0,
    dropout: float = 0.0,
) -> MobileNetV2:
    """MobileNetV2 for 32 x 32 images.

    ``saq``: strides 1 | 1, 1, 2, 2, 1, 2, 1, the first block keeps its 1x1 expansion, 1x1 shortcuts
    with BN where the stride is 1 and the width changes, ReLU (SAQ's counts are met only so).
    ``hol``: the ImageNet net with only the stem's stride set to 1. ``standard``: the strides of
    ``saq``, all else as on ImageNet.
    """
    common = {"num_classes": num_classes, "in_channels": in_channels, "width": width, "dropout": dropout}
    strides = (1, 1, 1, 2, 2, 1, 2, 1)
    if variant == "saq":
        return MobileNetV2(**common, strides=strides, shortcut="projection", variant="expanded", activation="relu")
    if variant == "hol":
        return MobileNetV2(**common, strides=(1, *STRIDES[1:]))
    if variant == "standard":
        return MobileNetV2(**common, strides=strides)
    raise ValueError(f"variant={variant!r}: expected 'saq', 'hol' or 'standard'")


MODELS.add("mobilenet_v2", MobileNetV2)
MODELS.add("mobilenet_v2_cifar", mobilenet_v2_cifar)
