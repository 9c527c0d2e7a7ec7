import pytest
import torch

import flatbit as fb
from flatbit.models import build


@pytest.mark.parametrize(("height", "width"), [(120, 160), (65, 65), (32, 48)])
def test_logits_have_the_images_size(height, width):
    model = build("deeplab_mobilenet_v2", num_classes=11, width=0.3).eval()
    assert model(torch.randn(2, 3, height, width)).shape == (2, 11, height, width)


def test_the_output_stride_is_16_and_the_last_blocks_are_dilated():
    model = build("deeplab_mobilenet_v2").eval()
    assert model.features(torch.randn(1, 3, 64, 96)).shape == (1, 320, 4, 6)
    dilations = [block.conv[-3][0].dilation[0] for block in model.features[1:]]
    assert dilations == [1] * 14 + [2] * 3


def test_the_backbone_has_the_classifiers_names_and_shapes():
    backbone = {k: v.shape for k, v in build("deeplab_mobilenet_v2").features.state_dict().items()}
    classifier = {k: v.shape for k, v in build("mobilenet_v2").features.state_dict().items()}
    assert backbone.items() <= classifier.items()
    assert {key.split(".")[0] for key in classifier.keys() - backbone.keys()} == {"18"}


def test_quantizes_whole_as_hol():
    model = build("deeplab_mobilenet_v2", num_classes=3, width=0.3)
    assert not fb.quantize_(model, fb.policy("hol", weights=4, activations=4)).refused


@pytest.mark.parametrize("arguments", [{"width": -1}, {"width": 0}, {"head_width": 0}])
def test_widths_are_positive(arguments):
    with pytest.raises(ValueError, match="expected both positive"):
        build("deeplab_mobilenet_v2", **arguments)
