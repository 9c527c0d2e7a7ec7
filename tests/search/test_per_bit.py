import copy

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.quant.table import quantized_layers
from flatbit.search.per_bit import PerBitBatchNorm1d, PerBitBatchNorm2d, SharedNet
from flatbit.search.space import space_of

from .cases import WIDTHS, preresnet, shared


@pytest.fixture
def net(blobs):
    model, space, _ = shared(blobs)
    return SharedNet(model, space)


def x_of(blobs):
    return next(iter(blobs.train_batches(16, seed=0)))


def tagged_(net):
    """Give every copy of every norm an affine of its own."""
    with torch.no_grad():
        for name, p in net.model.named_parameters():
            if ".per_bit." in name:
                p.add_(0.1 * torch.randn(p.shape))


def test_keys_of_each_width_stand_beside_the_float_keys(net, blobs):
    keys = net.model.state_dict().keys()
    float_keys = preresnet(num_classes=3).state_dict().keys()
    assert float_keys <= keys
    narrowed = {name for name, module in net.model.named_modules() if isinstance(module, PerBitBatchNorm2d)}
    assert narrowed == {
        "layers.0.0.bn2", "layers.1.0.bn1", "layers.1.0.bn2", "layers.2.0.bn1", "layers.2.0.bn2", "bn",
    }  # fmt: skip
    for name in narrowed:
        for width in WIDTHS:
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                assert f"{name}.per_bit.{width}.{part}" in keys
    assert not any(key.startswith("layers.0.0.bn1.per_bit") for key in keys)  # fed by the first convolution


def test_all_copies_start_from_the_norm(blobs):
    model, space, _ = shared(blobs)
    before = copy.deepcopy(model.state_dict())
    for key, tensor in SharedNet(model, space).model.state_dict().items():
        if ".per_bit." in key:
            name, _, rest = key.partition(".per_bit.")
            assert torch.equal(tensor, before[f"{name}.{rest.split('.', 1)[1]}"])


def test_a_width_computes_what_the_assigned_net_does(blobs):
    model, space, _ = shared(blobs)
    alone = copy.deepcopy(model)
    net, (x, _) = SharedNet(model, space), x_of(blobs)
    for bits in ({choice.name: width for choice in space.choices} for width in WIDTHS):
        net.switch_(bits)
        fb.assign_bits_(alone, space.assignment(bits))
        assert torch.equal(model.eval()(x), alone.eval()(x))


def test_finish_leaves_the_chosen_norms_and_clips_in_a_plain_net(net, blobs):
    tagged_(net)
    bits = {choice.name: WIDTHS[index % 3] for index, choice in enumerate(net.space.choices)}
    x, _ = x_of(blobs)
    net.switch_(bits)
    expected = net.model.eval()(x)
    state = copy.deepcopy(net.model.state_dict())
    fed = {name: norm for name, norms in net.norms.items() for norm in norms}
    names = {module: name for name, module in net.model.named_modules()}
    chosen = {names[norm]: bits[name] for name, norm in fed.items()}
    net.finish_(bits)
    assert torch.equal(net.model(x), expected)
    assert not any("per_bit" in key for key in net.model.state_dict())
    assert {type(m) for m in net.model.modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}
    norms = [m for m in net.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(hasattr(norm, "per_bit") or hasattr(norm, "width") for norm in norms)
    for name, width in chosen.items():
        norm = net.model.get_submodule(name)
        for part, tensor in norm.state_dict().items():
            assert torch.equal(tensor, state[f"{name}.per_bit.{width}.{part}"])


def test_assignment_specs_bits_and_proof_agree_afterwards(net, blobs):
    bits = {choice.name: WIDTHS[-1 - index % 3] for index, choice in enumerate(net.space.choices)}
    net.finish_(bits)
    expected = net.space.assignment(bits)
    found = fb.assignment(net.model)
    assert {name: found[name] for name in expected} == expected
    for name, layer in quantized_layers(net.model):
        if name in expected:
            assert (layer.spec.weight.bits, layer.spec.input_bits) == expected[name]
            assert layer.weight_quantizer.stated_bits == layer.input_quantizer.stated_bits == expected[name][0]
    counted = {row.name: (row.weight_bits, row.activation_bits) for row in fb.cost(net.model, (1, 4, 4)).layers}
    assert {name: counted[name] for name in expected} == expected
    assert fb.evaluate(net.model, blobs.test_batches()).top1 >= 0


def test_it_is_saved_and_loaded_as_any_other_net(net, blobs, tmp_path):
    net.finish_({choice.name: 3 for choice in net.space.choices})
    fb.save(net.model, tmp_path / "m.safetensors")
    again = preresnet(num_classes=3)
    fb.load_(again, tmp_path / "m.safetensors")
    x, _ = x_of(blobs)
    assert torch.equal(again.eval()(x), net.model.eval()(x))


def test_training_at_a_width_changes_nothing_of_others(net, blobs):
    bits = {choice.name: 3 for choice in net.space.choices}
    net.switch_(bits)
    before = copy.deepcopy(net.model.state_dict())
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    x, y = x_of(blobs)
    nn.functional.cross_entropy(net.model.train()(x), y).backward()
    optimizer.step()
    after = net.model.state_dict()
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert {key for key in moved if ".per_bit." in key} <= {key for key in after if ".per_bit.3." in key}
    assert any(".per_bit.3.running_mean" in key for key in moved)
    assert any(".per_bit.3.weight" in key for key in moved)
    for parameter, other in net.unused_rows():
        assert parameter.grad is None or not parameter.grad[other].any()


def test_switching_alone_moves_the_bits_and_no_more(net):
    before = copy.deepcopy(net.model.state_dict())
    net.switch_({choice.name: 2 for choice in net.space.choices})
    for key, tensor in net.model.state_dict().items():
        assert torch.equal(tensor, before[key]) or key.endswith("quantizer.bits")


def test_rows_that_are_not_in_use_are_those_of_other_widths(net):
    net.switch_({choice.name: 3 for choice in net.space.choices})
    rows = net.unused_rows()
    assert len(rows) == 2 * 8  # weight and input of eight convolutions: six that choose alone or last, two shortcuts
    assert all(other.tolist() == [True, False, True] for _, other in rows)


def test_a_fixed_choice_needs_no_norm_of_its_own(blobs):
    model, space, _ = shared(blobs)
    name = space.choices[1].name
    net = SharedNet(model, space.with_fixed({name: 3}))
    assert name not in net.norms
    assert net.bits[name] == 3


@pytest.mark.parametrize("policy", ["saq", "lsq", "pact", "uniq"])
def test_a_net_without_steps_for_each_width_is_refused_with_the_mend(policy, blobs):
    model = preresnet(num_classes=3)
    fb.quantize_(model, fb.policy(policy, weights=4, activations=4))
    fb.calibrate_(model, blobs.train_batches(16, seed=0))
    words = r"no step of its own at \[2, 3, 4\] bits.*quantize_\(model, policy, candidates=\(2, 3, 4\)\)"
    with pytest.raises(ValueError, match=words):
        SharedNet(model, space_of(model, WIDTHS))
    assert not any("per_bit" in key for key in model.state_dict())


def test_a_step_that_is_fixed_by_calibration_counts_too(blobs):
    model = preresnet(num_classes=3)
    fb.quantize_(model, fb.policy("faq", weights=4, activations=4, placement="input"))
    fb.calibrate_(model, blobs.train_batches(16, seed=0))
    with pytest.raises(ValueError, match=r"no step of its own at \[2, 3, 4\] bits"):
        SharedNet(model, space_of(model, WIDTHS))


def test_norms_of_vectors_are_narrowed_too():
    model = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    ).eval()  # fmt: skip
    fb.quantize_(model, fb.policy("saq", weights=4, activations=4), candidates=WIDTHS)
    fb.calibrate_(model, [torch.randn(8, 6)])
    net, x = SharedNet(model, space_of(model, WIDTHS)), torch.randn(8, 6)
    assert isinstance(model[3], PerBitBatchNorm1d)
    net.switch_({"2": 2})
    expected = model(x)
    net.finish_({"2": 2})
    assert type(model[3]) is nn.BatchNorm1d
    assert torch.equal(model(x), expected)
