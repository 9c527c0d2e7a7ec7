"""HOL's depthwise CIFAR net: bottlenecks of 1x1, 3x3 depthwise and 1x1 convolutions, any depth and width."""

from __future__ import annotations

from torch import Tensor, nn

from . import MODELS
from .mobilenet_v2 import conv_bn
from .resnet_cifar import base_width, initialize_, stages

EXPANSION = 6


class DepthwiseResNet(nn.Module):
    """Three stages of depthwise blocks at widths 16, 32, 64 times ``width`` (HOL, Table 5).

    Args:
        depth: 9n + 2: three convolutions a block, n blocks a stage, stem and linear layer.
        num_classes: outputs.
        in_channels: image channels.
        width: multiplies 16, 32, 64; ``first_width`` gives the 16 itself instead.
    """

    def __init__(
        self,
        *,
        depth: int = 29,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        first_width: int | None = None,
    ) -> None:
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={depth}: expected 9n + 2 with n >= 1 blocks per stage: 11, 20, 29, 38, ...")
        base = base_width(width, first_width)
        self.stem = conv_bn(in_channels, base, 3, 1, act=nn.ReLU)
        self.layers = stages(DepthwiseBlock, base, (depth - 2) // 9)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * base, num_classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        return self.fc(self.flatten(self.pool(self.layers(self.stem(x)))))


class DepthwiseBlock(nn.Module):
    """1x1 to six times the block's *output* width, 3x3 depthwise, linear 1x1; 1x1 shortcut at a change.

    The sum, signed, passes an ``nn.Identity`` named ``residual``, where a policy can quantize it for its readers.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, opens: bool) -> None:
        super().__init__()
        hidden = EXPANSION * out_width
        self.conv = nn.Sequential(
            conv_bn(in_width, hidden, 1, 1, act=nn.ReLU),
            conv_bn(hidden, hidden, 3, stride, act=nn.ReLU, groups=hidden),
            nn.Conv2d(hidden, out_width, 1, bias=False),
            nn.BatchNorm2d(out_width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_width != out_width:
            conv = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_width))
        self.residual = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(self.conv(x) + self.shortcut(x))


MODELS.add("depthwise_resnet", DepthwiseResNet)
