import pytest
import torch
from torch import nn

from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.candidates import observe_at_each_
from flatbit.quant.convert import quantize_
from flatbit.quant.grid import midtread
from flatbit.quant.presets import policy
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.site import Site
from flatbit.quant.table import quantizers_of


def test_candidates_go_to_every_tensor_whose_width_is_one_of_them(net):
    quantize_(net, policy("faq", weights=4, activations=2), candidates=[8, 4])
    by_name = {name: quantizer.site.candidates for name, quantizer in quantizers_of(net)}
    assert by_name["conv1.input_quantizer"] == by_name["fc.input_quantizer"] == (4, 8)
    assert by_name["layers.0.0.conv1.weight_quantizer"] == ()  # its step follows the weight
    assert by_name["layers.0.0.relu1.output_quantizer"] == ()  # 2 bits
    assert by_name["layers.0.0.bn1.weight_quantizer"] == ()  # 8 bits, of fixed point: not a width to choose
    assert (net.conv1.spec.input.candidates, net.conv1.spec.weight.candidates) == ((4, 8), ())


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ((2, 9), "candidates=9: expected 1 to 8 bits"),
        ((2, True), "candidates=True: expected 1 to 8 bits"),
        ((5, 6), r"candidates=\(5, 6\): no layer has a step at one of these widths"),
        ((1, 4), "method 'lsq' takes 2 to 8 bits, got 1"),
        ((4, 32), "candidates=32: expected 1 to 8 bits: what is float has no step"),
        ((2, 2), r"candidates=\(2, 2\): expected two different widths or more"),
        ((2, 4, 2), r"candidates=\(2, 4, 2\): expected two different widths or more, each once"),
        ((4,), r"candidates=\(4,\): expected two different widths or more"),
        (3, "candidates=3: expected several bit-widths"),
        (0, "candidates=0: expected several bit-widths"),
        ({2, 4}, r"candidates=\{2, 4\}: expected several bit-widths"),
        ("24", "candidates='24': expected several bit-widths"),
    ],
)
def test_candidates_that_cannot_be_leave_the_model_untouched(small, candidates, words):
    with pytest.raises(ValueError, match=words):
        quantize_(small, policy("lsq", weights=4, activations=4), candidates=candidates)
    assert type(small[0]) is nn.Conv2d
    assert all("quantizer" not in key for key in small.state_dict())


def test_a_candidate_that_a_signed_input_does_not_have_is_refused_by_calibration(small, images):
    made = policy("lsq", weights=4, activations=4).override("3", weights=32).override("*", activation_method="pact")
    quantize_(small, made.override("0", weights=32, activations=4), candidates=(1, 4))
    with pytest.raises(ValueError, match=r"input of layer '0': the input has negative values.* at 1 bit"):
        calibrate_(small, [images])
    assert small[0].input_quantizer.stated_bits == 4


def test_none_are_none(small):
    quantize_(small, policy("lsq", weights=4, activations=4), candidates=[])
    assert not any(quantizer.site.candidates for _, quantizer in quantizers_of(small))


@pytest.mark.parametrize("name", ["faq", "dorefa"])
def test_a_step_that_is_computed_anew_takes_any_width(small, images, name):
    quantize_(small, policy(name, weights=4, activations=4), candidates=(4, 8) if name == "faq" else ())
    calibrate_(small, [images])
    assign_bits_(small, {"3": (3, 4)})
    assert assignment(small)["3"] == (3, 4)


def test_candidates_of_a_method_without_steps_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="no layer has a step at one of these widths"):
        quantize_(model, policy("dorefa", weights=4, activations=4), candidates=(2, 4))


class Plain(Quantizer):
    """Writes and reads its state past the table."""

    method, surrogate, learned_ranges = "plain", "learned", ("step",)
    writes, reads = True, True

    def __init__(self, bits, site, granularity="tensor"):
        super().__init__(bits, site, granularity)
        self.add_state("step", learned=True)

    def code_range(self, x):
        return midtread(self.whole_bits())

    def step_of(self, x, codes):
        return self.step if self.reads else self.current("step")

    def observe_(self, x):
        if self.writes:
            self.step.copy_(x.abs().max() / (2**self.stated_bits))
        else:
            self.set_state_("step", x.abs().max() / (2**self.stated_bits))


@torch.no_grad()
def test_state_that_is_written_or_read_past_its_row_is_refused(monkeypatch):
    x = torch.randn(3, 2)
    alone, tabled = (Plain(3, Site(layer="a", role="weight", candidates=widths)) for widths in ((), (2, 3)))
    observe_at_each_(alone, x)
    assert alone(x).shape == x.shape
    with pytest.raises(RuntimeError, match=r"weight of layer 'a': observe_ of Plain wrote .*set_state_"):
        observe_at_each_(tabled, x)
    assert tabled.stated_bits == 3
    monkeypatch.setattr(Plain, "writes", False)
    tabled.reset_()
    observe_at_each_(tabled, x)
    for call in (tabled, tabled.grid):
        with pytest.raises(RuntimeError, match=r"step_of of Plain gives a step of shape \(2,\).*self\.current"):
            call(x)
    monkeypatch.setattr(Plain, "reads", False)
    assert torch.equal(tabled(x), alone(x))
