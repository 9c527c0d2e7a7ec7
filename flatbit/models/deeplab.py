"""DeepLabV3 with a MobileNetV2 backbone at output stride 16 and no ASPP: HOL's segmentation net.

Chen et al., Rethinking atrous convolution for semantic image segmentation, 2017; the backbone's last
stride is replaced by dilation, as in Sandler et al., CVPR 2018, section 6.3.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import MODELS
from .mobilenet_v2 import (
    ROWS,
    STEM_CHANNELS,
    InvertedResidual,
    conv_bn,
    rounded,
)
from .resnet_cifar import initialize_

STRIDED_LAST = 5  # the row whose stride 2 becomes dilation 2


class DeepLabMobileNetV2(nn.Module):
    """MobileNetV2 to stride 16, one 1x1 head, logits resized to the image.

    The paper gives no head: here it is a 1x1 convolution to 256 channels with BN and ReLU, then the
    classifier (what remains of DeepLabV3's head without ASPP and image pooling). The backbone has
    torchvision's names (``features.*``), without its last 1x1 to 1280 channels.

    Args:
        num_classes: outputs per pixel.
        in_channels: image channels.
        width: of the backbone (``MobileNetV2``).
        head_width: channels of the head.
    """

    def __init__(
        self, *, num_classes: int = 21, in_channels: int = 3, width: float = 1.0, head_width: int = 256
    ) -> None:
        super().__init__()
        if width <= 0 or head_width < 1:
            raise ValueError(f"width={width}, head_width={head_width}: expected both positive")
        in_width = rounded(STEM_CHANNELS * width)
        layers: list[nn.Module] = [conv_bn(in_channels, in_width, 3, 2, act=nn.ReLU6)]
        for row, (t, c, n, s) in enumerate(ROWS):
            out_width = rounded(c * width)
            for index in range(n):
                stride = s if index == 0 and row != STRIDED_LAST else 1
                dilation = 2 if row >= STRIDED_LAST and (row, index) != (STRIDED_LAST, 0) else 1
                layers.append(
                    InvertedResidual(
                        in_width,
                        out_width,
                        stride,
                        t,
                        projects=False,
                        expands=t != 1,
                        act=nn.ReLU6,
                        dilation=dilation,
                    )
                )
                in_width = out_width
        self.features = nn.Sequential(*layers)
        self.head = conv_bn(in_width, head_width, 1, 1, act=nn.ReLU)
        self.classifier = nn.Conv2d(head_width, num_classes, 1)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) of images (N, in_channels, H, W)."""
        logits = self.classifier(self.head(self.features(x)))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


MODELS.add("deeplab_mobilenet_v2", DeepLabMobileNetV2)
