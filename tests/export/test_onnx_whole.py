import numpy as np
import pytest
import torch

from flatbit.export.onnx_graph import OnnxGraph
from flatbit.export.onnx_whole import BIAS, HeldCodes, WholeGraph
from flatbit.export.program import Coding

from .forms.cases import run


def computed(tmp_path, numbers, add):
    """What ONNX Runtime makes of int64 numbers (n, 1) by nodes that ``add`` adds."""
    graph = OnnxGraph()
    kind = graph.types["INT64"]
    graph.input = ("input", kind, ["n", 1])
    graph.outputs.append(("logits", kind, ["n", 1]))
    graph.renamed(add(WholeGraph(graph), "input"), "logits")
    path = tmp_path / "net.onnx"
    path.write_bytes(graph.model("net", {}, "0").SerializeToString())
    return run(path, numbers.reshape(-1, 1))["logits"].flatten()


@pytest.mark.parametrize("shift", [1, 7, 30, 60])
def test_shifting_rounds_down_whatever_the_sign(shift, tmp_path):
    most = 2**61
    numbers = torch.randint(-most, most, (200,), generator=torch.Generator().manual_seed(0))
    numbers = torch.cat([numbers, torch.tensor([0, 1, -1, most, -most, 2**shift, -(2**shift), -(2**shift) - 1])])

    def add(to, x):
        return to.plus(to.floor_shifted(to.plus(x, BIAS, "biased"), shift, "s"), -(BIAS >> shift), "back")

    assert torch.equal(computed(tmp_path, numbers, add), numbers >> shift)


@pytest.mark.parametrize(
    ("low", "high", "zero", "halved"),
    [(0, 255, 0, False), (-128, 127, 128, False), (-15, 15, 128, False), (-255, 255, 128, True), (1, 511, 0, True)],
)
def test_codes_are_held_in_8_bits(low, high, zero, halved, tmp_path):
    held = HeldCodes.of(Coding(step=1.0, offset=0.0, low=low, high=high), "l")
    assert held == HeldCodes(zero=zero, halved=halved)
    numbers = torch.arange(low, high + 1, 2 if halved else 1)
    codes = ((numbers - 1) // 2 if halved else numbers) + zero
    assert int(codes.min()) >= 0
    assert int(codes.max()) <= 255
    found = computed(tmp_path, codes, lambda to, x: to.whole(to.cast(x, "UINT8", "codes"), held, "n"))
    assert torch.equal(found, numbers)


@pytest.mark.parametrize(("low", "high"), [(-256, 255), (0, 256), (-255, 257), (-254, 255)])
def test_codes_beyond_8_bits_are_refused_by_layer(low, high):
    with pytest.raises(ValueError, match=rf"layer 'l': codes in \[{low}, {high}\] do not fit the 8 bits"):
        HeldCodes.of(Coding(step=1.0, offset=0.0, low=low, high=high), "l")


def test_ones_take_no_room(tmp_path):
    graph = OnnxGraph()
    WholeGraph(graph).ones((1, 512, 64, 64), "ones")
    assert graph.operators == {"ConstantOfShape": 1}
    assert np.prod((1, 512, 64, 64)) > 2_000_000
