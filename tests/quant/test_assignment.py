import copy
import json
from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.nn import functional as F

import flatbit as fb
from flatbit.files import load_, save
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.grids import grids
from flatbit.quant.optimal_step import midrise_step, unsigned_step
from flatbit.quant.presets import policy, preset_names
from flatbit.quant.proof import QuantizationError, prove
from flatbit.quant.table import bits_of, quantizers_of


def conventions():
    """Every convention that has 4 bits, and what it has for activations."""
    for name in preset_names():
        for activations in (4, 32):
            try:
                made = policy(name, weights=4, activations=activations)
            except ValueError:  # a method of weights alone, or of 1 bit
                continue
            yield pytest.param(name, activations, id=f"{name}-{made.base.activations}")
            break


each_convention = pytest.mark.parametrize(("name", "activations"), list(conventions()))


def widths_of(model, slot):
    """The widths that a quantizer takes, those of layer 3 or of the activation that it reads."""
    if slot == "weight":
        return [b for b in model[3].weight_quantizer.supported_bits if b <= 8]
    quantizer = model[3].input_quantizer or getattr(model[2], "output_quantizer", None)
    if quantizer is None:
        return [32]
    found = []
    for bits in range(1, 9):
        try:
            quantizer.check_assignable(bits)
        except ValueError:
            continue
        found.append(bits)
    return found


def state(model):
    """Everything that a change of bits may touch."""
    specs = {name: layer.spec for name, layer in fb.quant.quantized_layers(model)}
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}, specs


def same(before, after):
    tensors = all(torch.equal(tensor, after[0][key]) for key, tensor in before[0].items())
    return tensors and before[0].keys() == after[0].keys() and before[1] == after[1]


def pairs(model):
    """Widths of weights and activations in turn, every one of each at least once."""
    weights, activations = widths_of(model, "weight"), widths_of(model, "input")
    count = max(len(weights), len(activations))
    return [(weights[i % len(weights)], activations[-1 - i % len(activations)]) for i in range(count)]


@each_convention
def test_all_that_speaks_of_bits_agrees_afterwards(tmp_path, small, images, quantized, name, activations):
    twin = copy.deepcopy(small)
    quantized(small, name, 4, activations)
    for bits in pairs(small):
        assign_bits_(small, {"3": bits})
        assert assignment(small)["3"] == bits_of(small[3]) == bits
        assert small[3].spec.weight.bits == small[3].weight_quantizer.stated_bits == bits[0]
        assert small[3].spec.input_bits == bits[1]
        assert convention(small).inner == "W{}/A{}".format(*bits)
        found = {layer.name: layer for layer in cost(small, (1, 8, 8)).layers}["3"]
        assert (found.weight_bits, found.activation_bits, found.bitops) == (*bits, found.macs * bits[0] * bits[1])
        assert grids(small)["3"].weight.num_levels <= 2 ** bits[0]
        assert prove(small, images).usage["3.weight_quantizer"].allowed <= 2 ** bits[0]
        save(small, tmp_path / "m.safetensors")
        again = copy.deepcopy(twin)
        load_(again, tmp_path / "m.safetensors")
        assert assignment(again) == assignment(small)
        assert torch.equal(again(images), small(images))
        assert prove(again, images).as_dict() == prove(small, images).as_dict()


@each_convention
def test_what_it_has_already_changes_nothing(small, images, quantized, name, activations):
    quantized(small, name, 4, activations)
    before = state(small)
    assign_bits_(small, assignment(small))
    assert same(before, state(small))


@each_convention
def test_there_and_back_is_the_same_step(small, images, quantized, name, activations):
    quantized(small, name, 4, activations)
    first, objects = assignment(small)["3"], [id(p) for p in small.parameters()]
    before = state(small)
    for bits in pairs(small):
        assign_bits_(small, {"3": bits})
        assign_bits_(small, {"3": first})
        after = state(small)
        assert before[1] == after[1]
        for key, tensor in before[0].items():
            assert torch.allclose(after[0][key], tensor, rtol=1e-6), key
    assert [id(p) for p in small.parameters()] == objects


@each_convention
@pytest.mark.parametrize("wrong", [0, 9, 16, -1])
def test_a_width_that_none_has_changes_nothing_at_all(small, images, quantized, name, activations, wrong):
    quantized(small, name, 4, activations)
    before = state(small)
    for asked in ({"0": assignment(small)["0"], "3": (wrong, activations)}, {"3": (3, wrong)}):
        with pytest.raises(ValueError, match=rf"assign_bits_\('3'\): (weights|activations)={wrong}: expected 1 to 8"):
            assign_bits_(small, asked)
    assert same(before, state(small))


def test_a_width_that_the_method_does_not_have_changes_nothing_at_all(small, images, quantized):
    quantized(small, "lsq", 4, 4)
    before = state(small)
    with pytest.raises(ValueError, match="weight of layer '3': method 'lsq' takes 2 to 8 bits, got 1"):
        assign_bits_(small, {"0": (4, 4), "3": (1, 2)})
    with pytest.raises(ValueError, match="input of layer '0': signed inputs take no 1 bit by 'lsq'"):
        assign_bits_(small, {"3": (2, 1), "0": (2, 1)})
    assert same(before, state(small))
    assign_bits_(small, {"3": (2, 1)})  # what follows a ReLU is unsigned, and has 1 bit


def test_an_unknown_layer_is_named(small, quantized):
    quantized(small)
    with pytest.raises(ValueError, match="no convolution or linear layer '33': did you mean 3"):
        assign_bits_(small, {"33": (2, 2)})
    with pytest.raises(ValueError, match="no convolution or linear layer '2'"):  # a ReLU
        assign_bits_(small, {"2": (2, 2)})
    with pytest.raises(ValueError, match=r"no convolution or linear layer 'module\.3\.weight': did you mean 3\?"):
        assign_bits_(small, {"module.3.weight": (2, 2)})
    with pytest.raises(ValueError, match=r"assign_bits_: got \[\('3', \(4, 4\)\)\]: expected pairs by layer"):
        assign_bits_(small, [("3", (4, 4))])


def test_pairs_may_come_from_json(small, images, quantized):
    quantized(small)
    wanted = json.loads(json.dumps({"3": [4, 3]}))
    assert assign_bits_(small, wanted) == {"3": (4, 3)}
    assert json.loads(json.dumps(assignment(small)))["3"] == [4, 3]
    for wrong in ([4], [4, 3, 2], 4, "44", {4, 3}):
        with pytest.raises(ValueError, match=r"assign_bits_\('3'\): got .*: expected a pair"):
            assign_bits_(small, {"3": wrong})


@pytest.mark.parametrize("pair", [2, [2], (2,), (2, 2, 2)])
def test_what_is_no_pair_changes_nothing(small, quantized, pair):
    quantized(small)
    before = state(small)
    with pytest.raises(ValueError, match=r"assign_bits_\('3'\): got .*: expected a pair, \(weights, activations\)"):
        assign_bits_(small, {"3": pair})
    assert same(before, state(small))


def test_float_stays_float_and_quantized_quantized(small, quantized):
    quantized(small, "uniq", 4, 32)
    before = state(small)
    with pytest.raises(ValueError, match=r"input of layer '3' is float, asked for 4 bits: bits change, but what is"):
        assign_bits_(small, {"0": (2, 32), "3": (4, 4)})
    with pytest.raises(ValueError, match=r"weight of layer '3' is 4 bit, asked for 32 bits.*restore_"):
        assign_bits_(small, {"3": (32, 32)})
    assert same(before, state(small))
    assign_bits_(small, {"3": (2, 32)})
    restore_(small)
    with pytest.raises(ValueError, match="weight of layer '3' is float, asked for 2 bits"):
        assign_bits_(small, {"3": (2, 32)})
    assign_bits_(small, {"3": (32, 32)})


def test_lists_every_weighted_layer_and_32_for_float(net, quantized):
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert assignment(net) == dict.fromkeys(names, (32, 32))
    quantized(net, "saq", 3, 2)
    found = assignment(net)
    assert list(found) == names
    assert found["conv1"] == (8, 32)  # the image stays float, whatever it is counted with
    assert found["fc"] == (8, 8)
    assert {found[name] for name in names[1:-1]} == {(3, 2)}
    restore_(net)
    quantized(net, "hol", 2, 2)
    assert assignment(net)["conv1"] == assignment(net)["fc"] == (32, 32)


RATIOS = {
    "lsq": (lambda b: (2 ** (b - 1) - 1) ** -0.5, lambda b: (2**b - 1) ** -0.5),
    "lsq_plus": (lambda b: 2.0 ** -(b - 1), lambda b: 1 / (2**b - 1)),
    "uniq": (midrise_step, unsigned_step),
    "saq": (lambda b: 1 / (2**b - 1), lambda b: 1 / (2**b - 1)),  # the clip stays, and so its 2^b - 1 steps shrink
    "pact": (lambda b: 1 / (2**b - 1), lambda b: 1 / (2**b - 1)),
    "dorefa": (lambda b: 1 / (2**b - 1), lambda b: 1 / (2**b - 1)),
}


@pytest.mark.parametrize("name", RATIOS)
def test_the_step_follows_the_closed_form(small, images, quantized, name):
    quantized(small, name, 4, 4)
    before = grids(small)["3"]
    for bits in (2, 3, 5, 8):
        assign_bits_(small, {"3": (bits, bits)})
        after, (weight, read) = grids(small)["3"], RATIOS[name]
        assert float(after.weight.step / before.weight.step) == pytest.approx(weight(bits) / weight(4), rel=1e-6)
        assert float(after.input.step / before.input.step) == pytest.approx(read(bits) / read(4), rel=1e-6)
        assign_bits_(small, {"3": (4, 4)})


def test_signed_inputs_scale_by_their_own_unit_steps(small, images, quantized):
    for name, unit in (("uniq", midrise_step), ("lsq", lambda b: (2 ** (b - 1) - 1) ** -0.5)):
        model = copy.deepcopy(small)
        quantized(model, name, 4, 4)
        before = float(model[0].input_quantizer.step.detach())  # 8 bits, the image
        assign_bits_(model, {"0": (8, 3)})
        after = float(model[0].input_quantizer.step.detach())
        assert after / before == pytest.approx(unit(3) / unit(8), rel=1e-6)


def test_clips_and_shifts_stay(small, images, quantized):
    for name, kept in (("saq", "clip"), ("pact", "clip"), ("lsq_plus", "shift")):
        model = copy.deepcopy(small)
        quantized(model, name, 4, 4)
        before = getattr(model[3].input_quantizer, kept).detach().clone()
        assign_bits_(model, {"3": (2, 2)})
        assert torch.equal(getattr(model[3].input_quantizer, kept), before)


def test_steps_per_channel_scale_alike(small, images, quantized):
    quantized(small, "lsq", 4, 4, granularity="channel")
    before = small[3].weight_quantizer.step.detach().clone()
    assign_bits_(small, {"3": (2, 4)})
    assert torch.allclose(small[3].weight_quantizer.step, before * 7**0.5)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_a_fixed_step_computed_from_the_weight_is_computed_anew(small, quantized, bits):
    for name in ("sqwa", "sqwa-all", "hol-imagenet"):
        fresh = quantized(copy.deepcopy(small), name, bits, 32)
        model = quantized(copy.deepcopy(small), name, 4, 32)
        assign_bits_(model, {"3": (bits, 32)})
        assert torch.equal(model[3].weight_quantizer.step, fresh[3].weight_quantizer.step)


def test_a_fixed_step_stays_where_the_width_does(small, quantized):
    """Captures share it: it does not follow a weight that trained on."""
    quantized(small, "sqwa", 4, 32)
    step = small[3].weight_quantizer.step.clone()
    small[3].weight.data.mul_(2)
    assign_bits_(small, {"3": (4, 32)})
    assert torch.equal(small[3].weight_quantizer.step, step)
    assign_bits_(small, {"3": (3, 32)})
    assign_bits_(small, {"3": (4, 32)})
    assert not torch.equal(small[3].weight_quantizer.step, step)


def test_fixed_activations_keep_the_range_that_calibration_found(small, images, quantized):
    quantized(small, "faq", 4, 4)
    y_max = 2**4 * float(small[2].output_quantizer.step)
    for bits in (2, 3, 8):
        assign_bits_(small, {"3": (4, bits)})
        assert 2**bits * float(small[2].output_quantizer.step) == y_max


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_faqs_control_without_calibration_takes_its_own_step_at_each_width(small, quantized, bits):
    options = {"activation_options": {"calibrate": False}}
    fresh = quantized(copy.deepcopy(small), "faq", 4, bits, **options)
    quantized(small, "faq", 4, 4, **options)
    assign_bits_(small, {"3": (4, bits)})
    assert torch.equal(small[2].output_quantizer.step, fresh[2].output_quantizer.step)


@pytest.mark.parametrize("start", [4, 7])
def test_dq_gets_exactly_that_width_wherever_its_training_led(small, images, quantized, start):
    quantized(small, "dq", start, start)
    with torch.no_grad():
        small[3].weight_quantizer.reach.mul_(0.4)  # learned, one bit less
        small[3].input_quantizer.step.mul_(3)
    assert assignment(small)["3"] == (start - 1, start - 1)
    for bits in (2, 3, 5, 8):
        before = float(small[3].weight_quantizer.reach.detach())
        assign_bits_(small, {"3": (bits, bits)})
        assert assignment(small)["3"] == (bits, bits)
        assert grids(small)["3"].weight.num_levels == 2**bits - 1
        assert grids(small)["3"].input.num_levels == 2**bits
        assert 0.7 < float(small[3].weight_quantizer.reach.detach()) / before < 1.42  # the nearest power of two
        assert prove(small, images).usage


def test_dq_keeps_the_step_of_a_width_that_it_learned_itself(small, quantized):
    quantized(small, "dq", 4, 4)
    with torch.no_grad():
        small[3].weight_quantizer.reach.mul_(0.4)
    reach = small[3].weight_quantizer.reach.detach().clone()
    assign_bits_(small, {"3": (3, 4)})
    assert torch.equal(small[3].weight_quantizer.reach, reach)
    assert small[3].spec.weight.bits == small[3].weight_quantizer.stated_bits == 3


@pytest.mark.parametrize("name", ["lsq", "sqwa-all", "dq", "saq", "uniq"])
def test_before_calibration_only_the_width_changes(small, images, name):
    activations = 32 if name == "sqwa-all" else 4
    quantize_(small, policy(name, weights=4, activations=activations))
    assign_bits_(small, {"3": (2, activations)})
    assert not small[3].weight_quantizer.calibrated
    with pytest.raises(RuntimeError, match="no step yet"):
        small(images)
    calibrate_(small, [images])
    assert assignment(small)["3"] == (2, activations)
    fresh = copy.deepcopy(small)
    calibrate_(fresh, [images])
    assert torch.equal(fresh(images), small(images))


def test_an_optimizer_made_before_goes_on_with_the_same_parameters(small, images, quantized):
    quantized(small.train(), "lsq", 4, 4)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.05, momentum=0.9)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(small(images), torch.arange(4)).backward()
        optimizer.step()

    step()
    assign_bits_(small, {"3": (2, 3)})
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in small.parameters()} == held
    before = small[3].weight_quantizer.step.detach().clone()
    step()
    assert not torch.equal(small[3].weight_quantizer.step, before)
    assert prove(small, images).usage


def test_a_compiled_model_is_compiled_once(net, images, quantized):
    torch._dynamo.reset()
    quantized(net, "lsq", 4, 4)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for bits in (4, 2, 8, 3):
        assign_bits_(
            net, {f"layers.{stage}.0.{conv}": (bits, bits) for stage in range(3) for conv in ("conv1", "conv2")}
        )
        assert torch.allclose(compiled(images), net(images), atol=1e-4)
        F.cross_entropy(compiled(images), torch.arange(4)).backward()
    assert counter.frame_count == 1


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[3].weight = model[1].weight
    return model


@pytest.mark.parametrize("name", ["lsq", "sqwa-all"])
def test_layers_that_share_a_weight_share_its_bits(name):
    model, x = tied(), torch.randn(8, 4)
    activations = 32 if name == "sqwa-all" else 4
    quantize_(model, policy(name, weights=4, activations=activations))
    calibrate_(model, [x])
    assert assign_bits_(model, {"1": (2, activations)}) == {"1": (2, activations), "3": (2, activations)}
    assert assign_bits_(model, {"1": (2, activations)}) == {}
    assert assignment(model)["1"] == assignment(model)["3"] == (2, activations)
    assert model[1].spec.weight == model[3].spec.weight
    assert prove(model, x).usage
    fresh = tied()
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if "quantizer" not in k})
    quantize_(fresh, policy(name, weights=2, activations=activations))
    calibrate_(fresh, [x])
    if name == "sqwa-all":
        assert torch.equal(fresh[3].weight_quantizer.step, model[3].weight_quantizer.step)
    with pytest.raises(ValueError, match="'1' asks for 2 bits, '3' for 3, and both share the weight of layer '1'"):
        assign_bits_(model, {"1": (2, activations), "3": (3, activations)})
    assign_bits_(model, {"1": (3, activations), "3": (3, activations)})


class Branches(nn.Module):
    """Two readers of one ReLU, one of two ReLUs at once."""

    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.relu_left, self.relu_right = nn.ReLU(), nn.ReLU()
        self.both, self.relu_both = nn.Conv2d(8, 4, 1), nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = torch.cat([self.relu_left(self.left(x)), self.relu_right(self.right(x))], 1)
        return self.fc(F.adaptive_avg_pool2d(self.relu_both(self.both(x)), 1).flatten(1))


@pytest.fixture
def branches(images):
    model = Branches().eval()
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [images])
    return model


def test_at_outputs_the_bits_are_the_producers(branches, images):
    assert assignment(branches)["left"] == assignment(branches)["both"] == (4, 4)
    assign_bits_(branches, {"left": (2, 3), "right": (5, 3), "both": (4, 6)})
    assert branches.relu.output_quantizer.stated_bits == branches.relu.spec.output.bits == 3
    assert branches.relu_left.output_quantizer.stated_bits == branches.relu_right.output_quantizer.stated_bits == 6
    found = assignment(branches)
    assert (found["left"], found["right"], found["both"]) == ((2, 3), (5, 3), (4, 6))
    assert {layer.name: layer.activation_bits for layer in cost(branches, (1, 8, 8)).layers}["both"] == 6
    assert prove(branches, images).usage["relu.output_quantizer"].allowed == 8


def test_a_reader_that_is_not_named_follows_its_producer(branches, images):
    assert assign_bits_(branches, {"left": (4, 2)}) == {"left": (4, 2), "right": (4, 2)}
    assert assignment(branches)["right"] == (4, 2)
    assert branches.right.spec.input_bits == 2
    assert branches.both.spec.input_bits == 4
    assert prove(branches, images).usage


class Skips(Branches):
    """``both`` reads the first ReLU too, which ``left`` and ``right`` read."""

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = torch.cat([x[:, :2], self.relu_left(self.left(x)), self.relu_right(self.right(x))[:, :2]], 1)
        return self.fc(F.adaptive_avg_pool2d(self.relu_both(self.both(x)), 1).flatten(1))


def test_a_reader_of_several_widths_counts_with_the_widest(images):
    model = Skips().eval()
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [images])
    for asked, counted in ((2, 4), (6, 6)):
        assign_bits_(model, {"left": (4, asked)})
        assert model.both.spec.input_bits == counted


def test_a_new_width_forgets_what_that_weight_was_averaged_from(small, quantized):
    quantized(small, "uniq", 4, 4)
    spec = small[3].spec.weight
    small[3].spec = replace(small[3].spec, averaged_from={"weight": spec, "bias": spec})
    assign_bits_(small, {"3": (4, 2)})
    assert small[3].spec.averaged_from == {"weight": spec, "bias": spec}
    assign_bits_(small, {"3": (2, 2)})
    assert small[3].spec.averaged_from == {"bias": spec}


def test_two_readers_that_disagree_are_named(branches):
    before = state(branches)
    with pytest.raises(
        ValueError, match=r"'left' asks for 2 bits, 'right' for 3, and both read the output of layer 'relu': give them"
    ):
        assign_bits_(branches, {"left": (4, 2), "right": (4, 3)})
    with pytest.raises(ValueError, match=r"output of layer 'relu' is 4 bit, asked for 32 bits"):
        assign_bits_(branches, {"left": (4, 32)})
    assert same(before, state(branches))


def test_before_calibration_nobody_knows_what_a_layer_reads(images):
    model = Branches().eval()
    quantize_(model, policy("faq", weights=4, activations=4))
    assert assignment(model)["left"] == (4, 4)  # as the policy states
    for activations in (2, 32):
        with pytest.raises(ValueError, match=r"activations of layer 'left' count as 4 bit.*: call calibrate_ first"):
            assign_bits_(model, {"left": (2, activations)})
    assert assign_bits_(model, {"left": (2, 4)}) == {"left": (2, 4)}
    calibrate_(model, [images])
    assert assignment(model)["left"] == (2, 4)


def test_outputs_that_are_no_longer_quantized_leave_their_readers_float(branches):
    branches.relu.output_quantizer = None
    assert assignment(branches)["left"] == (4, 32)
    assign_bits_(branches, {"left": (3, 32)})
    with pytest.raises(ValueError, match="input of layer 'left' is float"):
        assign_bits_(branches, {"left": (4, 4)})


def test_a_buffer_changed_past_the_verb_is_still_caught(small, images, quantized):
    quantized(small)
    small[3].weight_quantizer.bits.fill_(3)
    with pytest.raises(QuantizationError, match=r"weight of layer '3' has 3 bit uniq.*Call flatbit\.assign_bits_"):
        prove(small, images)


def test_candidates_are_rows_that_a_change_switches(small, images, quantized, tmp_path):
    twin = copy.deepcopy(small)
    quantize_(small, policy("lsq", weights=4, activations=4), candidates=(2, 4, 3))
    calibrate_(small, [images])
    assert small[3].weight_quantizer.step.shape == small[3].input_quantizer.step.shape == (3,)
    assert small[0].weight_quantizer.step.shape == ()  # 8 bits, not among them
    assert small[3].spec.weight.candidates == (2, 3, 4)
    expected, before = {}, state(small)
    for bits in (2, 3, 4):
        alone = copy.deepcopy(twin)
        quantize_(alone, policy("lsq", weights=bits, activations=bits))
        calibrate_(alone, [images])
        expected[bits] = alone(images)
        assign_bits_(small, {"3": (bits, bits)})
        assert torch.equal(small(images), expected[bits])
        save(small, tmp_path / "m.safetensors")
        again = copy.deepcopy(twin)
        load_(again, tmp_path / "m.safetensors")
        assert torch.equal(again(images), expected[bits])
        assert again[3].spec == small[3].spec
        assert prove(small, images).usage
    assert same(before, state(small))
    with pytest.raises(ValueError, match="weight of layer '3': it was quantized with steps for 2, 3, 4 bits, got 5"):
        assign_bits_(small, {"3": (5, 4)})
    assert same(before, state(small))


def test_rows_of_fixed_steps_are_kept_too(small, images, quantized):
    """A step that training keeps stays as calibration found it, whatever the weight did since."""
    quantize_(small, policy("sqwa", weights=3), candidates=(2, 3))
    calibrate_(small, [images])
    rows = small[3].weight_quantizer.step.clone()
    small[3].weight.data.mul_(3)
    for bits in (2, 3):
        assign_bits_(small, {"3": (bits, 32)})
        assert torch.equal(small[3].weight_quantizer.step, rows)
    assert rows[0] > rows[1]


def test_training_moves_only_the_row_in_use(small, images):
    quantize_(small, policy("lsq", weights=3, activations=3), candidates=(2, 3))
    calibrate_(small, [images])
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    before = small[3].weight_quantizer.step.detach().clone()
    F.cross_entropy(small.train()(images), torch.arange(4)).backward()
    optimizer.step()
    after = small[3].weight_quantizer.step.detach()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_the_verbs_are_public():
    assert fb.assign_bits_ is assign_bits_
    assert fb.assignment is assignment


def test_every_quantizer_is_reached(net, images, quantized):
    """All layers at once, at widths of their own."""
    quantized(net, "uniq", 4, 4)
    wanted = {name: (1 + i % 8, 8 - i % 8) for i, name in enumerate(assignment(net))}
    assign_bits_(net, wanted)
    assert assignment(net) == wanted
    stated = {q.site.layer: q.stated_bits for _, q in quantizers_of(net) if q.site.role == "weight"}
    assert stated == {name: bits for name, (bits, _) in wanted.items()}
    assert prove(net, images).usage


def test_an_output_that_the_model_does_not_have_is_named(branches):
    branches.left.spec = replace(branches.left.spec, producers=("gone",))
    with pytest.raises(ValueError, match=r"'left' reads the output of 'gone'.*note_producers_\(model, x\)"):
        assignment(branches)
