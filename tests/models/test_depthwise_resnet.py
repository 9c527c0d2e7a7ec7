import pytest
import torch

from flatbit.models import build

# Spec 4.5, HOL's Table 5: (depth, first width), millions of parameters with all four BN vectors.
HOL = [((29, 38), 1.1077), ((38, 32), 1.0790), ((56, 26), 1.1065), ((74, 22), 1.0842), ((110, 18), 1.1256)]


@pytest.mark.parametrize(("size", "millions"), HOL)
def test_parameters_of_hol(size, millions):
    model = build("depthwise_resnet", depth=size[0], first_width=size[1])
    running = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    assert (sum(p.numel() for p in model.parameters()) + running) / 1e6 == pytest.approx(millions, abs=0.00005)


def test_depth_counts_convolutions_and_the_linear_layer():
    model = build("depthwise_resnet", depth=20, first_width=4).eval()
    main = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and "shortcut" not in n]
    assert len(main) + 1 == 20
    assert model.layers(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, 16, 8, 8)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 28, 30])
def test_depths_that_are_none(depth):
    with pytest.raises(ValueError, match="expected 9n"):
        build("depthwise_resnet", depth=depth)


def test_expansion_of_the_input_width_is_the_rejected_reading():
    """Spec 4.5: six times the block's *input* width gives .948 M and more, not the printed 1.11 M."""
    model = build("depthwise_resnet", depth=29, first_width=38)
    widths = [block.conv[0][0].out_channels for stage in model.layers for block in stage]
    assert widths == [6 * 38] * 3 + [6 * 76] * 3 + [6 * 152] * 3
