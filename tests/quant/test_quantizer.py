import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from flatbit.quant import quantizer as module
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.candidates import observe_at_each_
from flatbit.quant.convert import quantize_
from flatbit.quant.grid import midrise, midtread
from flatbit.quant.passes import read_is_free
from flatbit.quant.presets import policy
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.quantizers.dq import DqWeight
from flatbit.quant.quantizers.faq import FaqWeight
from flatbit.quant.quantizers.lsq_plus import LsqPlusActivation
from flatbit.quant.quantizers.uniq import UniqActivation, UniqWeight
from flatbit.quant.recompute import recomputed_outputs
from flatbit.quant.site import Site

SITE = Site(layer="stem", role="weight", step_shape=(4, 1))


def test_state_is_nan_until_observed():
    quantizer = UniqWeight(2, SITE)
    assert not quantizer.calibrated
    assert quantizer.step.isnan()
    assert "uncalibrated" in repr(quantizer)
    quantizer.observe_(torch.randn(8))
    assert quantizer.calibrated
    assert repr(quantizer) == "UniqWeight(2 bit, tensor)"
    quantizer.reset_()
    assert not quantizer.calibrated


def test_observing_writes_in_place_so_optimizers_keep_the_step():
    quantizer = UniqWeight(2, SITE)
    step = quantizer.step
    quantizer.observe_(torch.randn(8))
    assert quantizer.step is step


def test_loading_an_uncalibrated_state_uncalibrates():
    calibrated, fresh = UniqWeight(2, SITE), UniqWeight(2, SITE)
    calibrated.observe_(torch.randn(8))
    calibrated.load_state_dict(fresh.state_dict())
    assert not calibrated.calibrated


@pytest.mark.parametrize("bits", [0, 9, 32])
def test_bits_out_of_range_name_the_layer(bits):
    with pytest.raises(ValueError, match=rf"weight of layer 'stem': method 'uniq' takes 1 to 8 bits, got {bits}"):
        UniqWeight(bits, SITE)


def test_granularity_a_method_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"'stem'.*'faq' takes one step per tensor, got 'channel'"):
        FaqWeight(4, SITE, "channel")


def test_number_of_steps():
    assert UniqWeight(2, SITE).num_steps == 1
    assert UniqWeight(2, SITE, "channel").num_steps == 4


def test_grid_step_is_a_copy():
    quantizer = UniqWeight(2, SITE)
    quantizer.observe_(torch.randn(8))
    grid = quantizer.grid(torch.zeros(1))
    grid.step.zero_()
    assert float(quantizer.step.detach()) > 0


def test_a_state_of_bits_that_the_method_does_not_have_is_refused():
    quantizer = FaqWeight(4, SITE)
    state = quantizer.state_dict() | {"bits": torch.tensor(1)}
    with pytest.raises(RuntimeError, match="weight of layer 'stem': method 'faq' takes 2 to 8 bits, got 1"):
        quantizer.load_state_dict(state)
    assert quantizer.stated_bits == 4


class Forgetful(Quantizer):
    """Declares two pieces of state, and sets what it is told to."""

    method = "forgetful"
    surrogate = "identity"
    sets = ("step", "origin")

    def __init__(self, bits, site, granularity="tensor"):
        super().__init__(bits, site, granularity)
        self.add_state("step", learned=True)
        self.add_state("origin", (3,), learned=False)

    def code_range(self, x):
        return midrise(self.whole_bits())

    def step_of(self, x, codes):
        return self.current("step").abs() + 0 * self.current("origin").sum()

    def observe_(self, x):
        for name in self.sets:
            self.set_state_(name, x.detach().abs().max().expand(3) if name == "origin" else x.detach().abs().max())


def test_state_is_declared_once_and_is_nan_until_set():
    quantizer = Forgetful(2, SITE)
    assert [name for name, _ in quantizer.named_parameters()] == ["step"]
    assert [name for name, _ in quantizer.named_buffers()] == ["bits", "origin"]
    assert quantizer.step.isnan()
    assert quantizer.origin.isnan().all()
    assert quantizer.origin.shape == (3,)
    observe_at_each_(quantizer, torch.randn(8))
    assert quantizer(torch.randn(8)).isfinite().all()


@pytest.mark.parametrize("forgotten", ["step", "origin"])
def test_a_quantizer_that_forgets_to_set_its_state_raises(forgotten):
    quantizer = Forgetful(2, SITE)
    quantizer.sets = tuple(name for name in Forgetful.sets if name != forgotten)
    observe_at_each_(quantizer, torch.randn(8))
    for call in (quantizer, quantizer.grid, quantizer.codes):
        with pytest.raises(RuntimeError, match="weight of layer 'stem': the 'forgetful' quantizer has no step yet"):
            call(torch.randn(8))


class ByHand(Quantizer):
    """Registers its state itself, beside a table of whole numbers that is no state."""

    method = "by_hand"
    surrogate = "identity"

    def __init__(self, bits, site, granularity="tensor"):
        super().__init__(bits, site, granularity)
        self.register_buffer("spacing", torch.tensor(float("nan")))
        self.register_parameter("nothing", None)
        self.register_buffer("table", torch.arange(4))

    def code_range(self, x):
        return midtread(self.whole_bits())

    def step_of(self, x, codes):
        return self.spacing

    def observe_(self, x):
        self.spacing.copy_(x.detach().abs().mean())


def test_state_that_a_quantizer_registers_by_hand_is_judged_too():
    quantizer = ByHand(3, SITE)
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(torch.randn(8))
    observe_at_each_(quantizer, torch.randn(8))
    assert quantizer(torch.randn(8)).isfinite().all()
    quantizer.reset_()
    assert quantizer.table.tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(torch.randn(8))


def test_state_is_read_from_the_tensors_however_it_comes():
    x, source = torch.randn(8), UniqWeight(2, SITE)
    source.observe_(x)
    ways = {
        "copy_": lambda step: step.copy_(source.step),
        "data": lambda step: step.data.copy_(source.step.data),
        "fill_": lambda step: step.fill_(float(source.step)),
    }
    for way in ways.values():
        target = UniqWeight(2, SITE)
        with pytest.raises(RuntimeError, match="no step yet"):
            target(x)
        with torch.no_grad():
            way(target.step)
        assert torch.equal(target(x), source(x))
    target = UniqWeight(2, SITE)
    target.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(target(x), source(x))
    target.load_state_dict(UniqWeight(2, SITE).state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="no step yet"):
        target(x)
    target.step = torch.nn.Parameter(source.step.detach().clone())
    assert torch.equal(target(x), source(x))


def test_a_step_that_became_nan_in_training_raises():
    quantizer = UniqWeight(2, SITE)
    quantizer.observe_(torch.randn(8))
    quantizer(torch.randn(8))
    with torch.no_grad():
        quantizer.step.mul_(float("nan"))
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(torch.randn(8))


def test_trained_then_reset_raises_again():
    quantizer, x = UniqWeight(2, SITE), torch.randn(8)
    quantizer.observe_(x)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    quantizer(x).sum().backward()
    optimizer.step()
    assert quantizer(x).isfinite().all()
    quantizer.reset_()
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(x)


def test_where_a_read_waits_it_is_read_until_found_set_and_after_a_reset(monkeypatch):
    """On a device: once per calibration, not in every step."""
    quantizer, x = UniqWeight(2, SITE), torch.randn(8)
    monkeypatch.setattr(module, "read_is_free", lambda tensor: False)
    reads = []
    calibrated = UniqWeight.calibrated.fget
    monkeypatch.setattr(UniqWeight, "calibrated", property(lambda self: reads.append(1) or calibrated(self)))
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(x)
    quantizer.observe_(x)
    expected = quantizer(x)
    before = len(reads)
    with torch.no_grad():
        quantizer.step.mul_(1.0)  # an optimizer's step
    assert torch.equal(quantizer(x), expected)
    assert len(reads) == before
    quantizer.reset_()
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(x)
    quantizer.observe_(x)
    assert torch.equal(quantizer(x), expected)


def test_a_quantizer_moved_is_judged_anew():
    quantizer, x = UniqWeight(2, SITE), torch.randn(8)
    quantizer.observe_(x)
    quantizer(x)
    moved = copy.deepcopy(quantizer).double()
    assert moved(x.double()).dtype == torch.float64
    assert moved._judged != quantizer._judged


def test_works_in_inference_mode_where_tensors_count_no_versions():
    quantizer, x = UniqWeight(2, SITE), torch.randn(8)
    quantizer.observe_(x)
    with torch.inference_mode():
        twin, fresh = copy.deepcopy(quantizer), UniqWeight(2, SITE)
        assert torch.equal(twin(x), quantizer(x))
        with pytest.raises(RuntimeError, match="no step yet"):
            fresh(x)
        observe_at_each_(fresh, x)
        assert torch.equal(fresh(x), quantizer(x))
    with torch.no_grad():
        assert torch.equal(twin(x), quantizer(x))


def test_bits_are_a_whole_number_in_floating_point_that_averages_leave():
    quantizer = UniqWeight(3, SITE)
    quantizer.observe_(torch.randn(8))
    x = torch.linspace(-5, 5, 8)
    expected = quantizer(x)
    assert quantizer.bits.is_floating_point()
    quantizer.bits.mul_(1 - 1e-4)  # what an exponential average makes of it
    assert quantizer.stated_bits == quantizer.bit_width() == 3
    assert torch.equal(quantizer(x), expected)
    assert torch.equal(torch.func.vmap(quantizer)(x[None])[0], expected)
    again = UniqWeight(3, SITE)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again(x), expected)
    whole = UniqWeight(3, SITE)
    whole.load_state_dict({"bits": torch.tensor(3), "step": quantizer.step.detach()})  # of an older checkpoint
    assert torch.equal(whole(x), expected)


def test_scaled_state_is_the_learned_range_or_a_fixed_step():
    assert UniqWeight(2, SITE).scaled_state() == ("step",)
    assert LsqPlusActivation(2, SITE).scaled_state() == ("step",)
    assert FaqWeight(2, SITE).scaled_state() == ()
    assert ByHand(2, SITE).scaled_state() == ()


TABLED = Site(layer="stem", role="weight", step_shape=(4, 1), candidates=(2, 3, 5))


def test_a_table_has_a_row_per_candidate():
    quantizer = UniqWeight(3, TABLED, "channel")
    assert quantizer.step.shape == (3, 4, 1)
    x = torch.randn(4, 8)
    observe_at_each_(quantizer, x)
    assert quantizer.stated_bits == 3
    for row, bits in enumerate((2, 3, 5)):
        alone = UniqWeight(bits, SITE, "channel")
        alone.observe_(x)
        assert torch.equal(quantizer.step[row], alone.step)
        quantizer.assign_(bits)
        assert torch.equal(quantizer.current("step"), alone.step)
        assert torch.equal(quantizer(x), alone(x))


def test_an_incomplete_table_is_not_calibrated():
    quantizer = UniqWeight(3, TABLED)
    quantizer.observe_(torch.randn(4, 8))  # at the present width alone
    assert quantizer.step.isnan().tolist() == [True, False, True]
    with pytest.raises(RuntimeError, match="no step yet"):
        quantizer(torch.randn(4, 8))


@pytest.mark.parametrize("candidates", [(2, 9), (0, 2), (2, 3)])
def test_candidates_must_be_widths_that_the_method_has_with_the_present_one(candidates):
    site = Site(layer="stem", candidates=candidates)
    wrong = {9: "got 9", 0: "got 0"}.get(next((b for b in candidates if b in (0, 9)), None), "for 2, 3 bits, got 4")
    with pytest.raises(ValueError, match=wrong):
        UniqWeight(4, site)


def test_a_start_that_fails_leaves_the_width_as_it_was():
    class Refuses(UniqActivation):
        signed_bits = range(3, 9)
        signed_refusal = "too few"

    quantizer = Refuses(3, Site(layer="act", candidates=(2, 3)))
    with pytest.raises(ValueError, match="too few"):
        observe_at_each_(quantizer, torch.tensor([-1.0, 1.0]))
    assert quantizer.stated_bits == 3


def test_a_state_of_a_width_without_a_row_is_refused():
    quantizer = UniqWeight(3, TABLED)
    with pytest.raises(RuntimeError, match="it was quantized with steps for 2, 3, 5 bits, got 4"):
        quantizer.load_state_dict(quantizer.state_dict() | {"bits": torch.tensor(4.0)})
    assert quantizer.stated_bits == 3


def test_the_perturbation_goes_where_the_quantizer_goes():
    quantizer, x = UniqWeight(2, SITE), torch.randn(8)
    quantizer.observe_(x)
    plain = quantizer(x)
    quantizer.perturbation = torch.full((8,), 0.5, requires_grad=True)
    assert torch.equal(quantizer(x), plain + 0.5)
    quantizer.double()
    assert quantizer.perturbation.dtype == torch.float64
    assert "perturbation" not in quantizer.state_dict()


def test_a_read_is_free_on_the_cpu_outside_transforms():
    assert read_is_free(torch.zeros(1))
    assert not read_is_free(torch.zeros(1, device="meta"))
    found = []
    torch.func.vmap(lambda x: found.append(read_is_free(x)) or x)(torch.zeros(2))
    assert found == [False]


def test_on_the_meta_device_nothing_is_set():
    quantizer = UniqWeight(2, SITE)
    quantizer.observe_(torch.randn(8))
    moved = copy.deepcopy(quantizer).to("meta")
    assert not moved.calibrated
    moved = copy.deepcopy(quantizer).to("meta").to_empty(device="cpu")
    moved.load_state_dict(quantizer.state_dict())
    x = torch.randn(8)
    assert torch.equal(moved(x), quantizer(x))


def test_widths_that_are_learned_are_those_stated_until_they_are_learned():
    quantizer = DqWeight(4, SITE).to("meta")
    quantizer.bits = torch.tensor(4.0)
    assert quantizer.bit_width() == 4


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("activation", [nn.SiLU, nn.LeakyReLU, nn.ReLU6])
@pytest.mark.parametrize("name", ["lsq", "hol", "faq"])
def test_a_sum_in_place_after_a_quantized_output_trains_as_one_on_a_copy(name, activation, recomputes):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act1, self.second, self.act2 = nn.Linear(6, 6), activation(), nn.Linear(6, 6), activation()
            self.head, self.in_place = nn.Linear(6, 3), True

        def forward(self, x):
            skip = self.act1(self.first(x))
            out = self.act2(self.second(skip))
            if self.in_place:
                out += skip
            else:
                out = out + skip
            return self.head(out)

    model, x = Residual(), torch.randn(8, 6)
    quantize_(model, policy(name, weights=4, activations=4, placement="output"))
    calibrate_(model, [x])
    gradients = []
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for model.in_place in (True, False):
        with recomputed_outputs(model) if recomputes else nullcontext():
            loss = model(x).square().sum()
        gradients.append(torch.autograd.grad(loss, trained, allow_unused=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))
