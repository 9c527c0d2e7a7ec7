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


def counted(depth, first_width, expanded):
    """Millions of parameters and statistics; ``expanded(in_width, out_width)`` is a block's hidden width."""
    blocks, total, in_width = (depth - 2) // 9, 27 * first_width + 4 * first_width, first_width
    for stage in range(3):
        out_width = first_width * 2**stage
        for _ in range(blocks):
            hidden = expanded(in_width, out_width)
            total += in_width * hidden + 9 * hidden + hidden * out_width + 4 * (2 * hidden + out_width)
            total += in_width * out_width + 4 * out_width if in_width != out_width else 0
            in_width = out_width
    return (total + 10 * in_width + 10) / 1e6


def test_expansion_of_the_input_width_is_the_rejected_reading():
    """Spec 4.5: six times the block's *output* width gives the printed counts, its *input* width never does."""
    assert [counted(*size, lambda _, out: 6 * out) for size, _ in HOL] == pytest.approx([m for _, m in HOL], abs=5e-5)
    rejected = [counted(*size, lambda width, _: 6 * width) for size, _ in HOL]
    assert all(abs(other - printed) > 0.01 for other, (_, printed) in zip(rejected, HOL, strict=True))
