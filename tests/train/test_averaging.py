import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit import models
from flatbit.quant.table import quantized_layers
from flatbit.train import QuantizedAverage, freeze_weight_steps_
from flatbit.train.averaging import averaged, requantize_

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(8) % 10


def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    ).eval()  # fmt: skip


def quantized(name="sqwa-all", weights=2, activations=32, model=None, **options):
    """A calibrated model without 8-bit edges, whose average would not fit."""
    model = model or net()
    policy = fb.policy(name, weights=weights, activations=activations, **options)
    for edge in ("@first", "@last"):
        policy = policy.override(edge, weights=weights, activations=activations)
    fb.quantize_(model, policy)
    fb.calibrate_(model, [(IMAGES,)] * 3)
    return model


@torch.no_grad()
def train_a_little_(model, seed, amount=0.3):
    """Move all that training moves, and nothing that it does not."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            size = parameter.abs().mean() + 0.01 if parameter.ndim else 0.1 * parameter.abs()
            parameter.add_(amount * size * torch.randn(parameter.shape, generator=generator))
    model.train()(IMAGES + seed)  # running statistics
    model.eval()


def captured(model, count, seeds=None):
    """The average of captures while the model 'trains', and what each capture was."""
    average, seen = QuantizedAverage(model), []
    for seed in seeds or range(count):
        train_a_little_(model, seed)
        seen.append(copy.deepcopy(model))
        average.add()
    return average, seen


def assert_is_mean(weight, seen, name, rtol=3e-7):
    """To rounding: of a level, and of a sum of levels that may cancel."""
    expected = mean_of(seen, name)
    torch.testing.assert_close(weight.double(), expected, rtol=rtol, atol=rtol * expected.abs().max().item())


def weights_of(model):
    return {name: layer.quantized_weight().detach() for name, layer in quantized_layers(model) if layer.weight.ndim > 1}


def mean_of(seen, name):
    return torch.stack([weights_of(model)[name].double() for model in seen]).mean(0)


def check_average(model, seen):
    """On its grid exactly, the mean of what was captured, proven, and computing with it."""
    for name, layer in quantized_layers(model):
        grid = layer.weight_quantizer.grid(layer.weight)
        assert grid.contains(layer.weight)
        assert torch.equal(layer.quantized_weight(), layer.weight)
        assert torch.equal(grid.value(grid.codes(layer.weight)), layer.weight)
        assert_is_mean(layer.weight, seen, name)
        assert layer.spec.weight.method == layer.weight_quantizer.method == "sqwa"
        assert layer.spec.weight.bits == layer.weight_quantizer.bit_width()
    fb.quant.prove(model, IMAGES)


@pytest.mark.parametrize(("count", "bits"), [(3, 3), (7, 4), (15, 5), (31, 6)])
def test_averages_of_ternary_captures_have_the_papers_bits(count, bits):
    model = quantized()
    average, seen = captured(model, count)
    average.apply_(model)
    check_average(model, seen)
    metrics = fb.evaluate(model, [(IMAGES, LABELS)])
    assert metrics.convention.inner == f"W{bits}/A32"
    assert {layer.weight_bits for layer in fb.cost(model, (1, 8, 8)).layers if layer.macs} == {bits}
    grid = fb.grids(model)["0"].weight
    assert grid.step == fb.grids(seen[0])["0"].weight.step / count
    assert len(model[0].weight.unique()) > 3  # else nothing was averaged


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("name", "bits", "activations"),
    [("sqwa-all", 1, 32), ("sqwa-all", 3, 32), ("uniq", 1, 1), ("uniq", 2, 2), ("lsq", 2, 2), ("saq", 2, 2),
     ("dorefa", 2, 2), ("hol-imagenet", 2, 32)],
)  # fmt: skip
def test_any_grid_that_stays_is_averaged_exactly(name, bits, activations, count):
    model = quantized(name, bits, activations, **({"activation_method": "uniq"} if name == "dorefa" else {}))
    freeze_weight_steps_(model)
    average, seen = captured(model, count)
    average.apply_(model)
    check_average(model, seen)
    kinds = {layer.spec.weight.options["grid"] for _, layer in quantized_layers(model) if layer.spec.weight}
    whole = name in ("lsq",) or (name.startswith("sqwa") and bits > 1) or count % 2 == 0
    assert kinds == {"midtread" if whole else "midrise"}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([("sqwa-all", 1), ("sqwa-all", 2), ("sqwa-all", 3), ("uniq", 2)]),
    st.permutations(range(5)),
    st.integers(1, 5),
)
def test_the_mean_whatever_the_order(method, order, count):
    def result(seeds):
        model = nn.Sequential(nn.Linear(6, 5))
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
            model[0].bias.zero_()
        fb.quantize_(model, fb.policy(method[0], weights=method[1]).override("0", weights=method[1]))
        fb.calibrate_(model, [])
        freeze_weight_steps_(model)
        start = copy.deepcopy(model.state_dict())
        average, seen = QuantizedAverage(model), []
        for seed in seeds:
            model.load_state_dict(start)
            with torch.no_grad():
                model[0].weight.add_(0.5 * torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)))
                model[0].bias.fill_(seed)
            seen.append(copy.deepcopy(model))
            average.add()
        average.apply_(model)
        return model, seen

    (model, seen), (other, _) = result(order[:count]), result(sorted(order[:count]))
    assert_is_mean(model[0].weight, seen, "0")
    assert fb.grids(model)["0"].weight.contains(model[0].weight)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sqwa-all", "uniq", "saq", "lsq"])
def test_one_capture_is_the_model_itself(name):
    model = quantized(name, 2, 32 if name == "sqwa-all" else 2)
    expected, bits = model(IMAGES), {n: layer.spec.weight for n, layer in quantized_layers(model)}
    average = QuantizedAverage(model)
    average.add()
    average.apply_(model)
    assert torch.equal(model(IMAGES), expected)
    assert {n: layer.spec.averaged_from["weight"] for n, layer in quantized_layers(model)} == bits
    assert averaged(model)


def test_float_parameters_and_learned_steps_are_the_mean_and_statistics_the_latest():
    model = quantized("uniq", 2, 2)
    freeze_weight_steps_(model)
    average, seen = captured(model, 3)
    average.apply_(model)
    for pick in (
        lambda m: m[0].bias, lambda m: m[1].weight, lambda m: m[1].bias, lambda m: m[3].input_quantizer.step
    ):  # fmt: skip
        torch.testing.assert_close(pick(model), torch.stack([pick(m) for m in seen]).mean(0))
        assert not torch.equal(pick(model), pick(seen[-1]))
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[1], buffer), getattr(seen[-1][1], buffer))
        assert not torch.equal(getattr(model[1], buffer), getattr(seen[0][1], buffer))


def test_a_float_models_average_is_swa():
    model = net()
    reference, average = torch.optim.swa_utils.AveragedModel(model), QuantizedAverage(model)
    for seed in range(5):
        train_a_little_(model, seed)
        reference.update_parameters(model)
        average.add()
    average.apply_(model)
    for mine, theirs in zip(model.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert average.capacity is None
    assert not averaged(model)


def test_sums_do_not_lose_what_float32_would():
    model = nn.Linear(1, 1, bias=False)
    average = QuantizedAverage(model)
    for value in (2.0**24, 1.0, 1.0, 2.0):
        nn.init.constant_(model.weight, value)
        average.add()
    average.apply_(model)
    assert model.weight.item() == 2.0**22 + 1


def test_calibrated_steps_of_activations_are_averaged_too():
    model = quantized("hol-synthetic", 2, 2, activation_method="faq")
    average = QuantizedAverage(model)
    for step in (0.25, 0.5):
        model[2].output_quantizer.step.fill_(step)
        average.add()
    average.apply_(model)
    assert model[2].output_quantizer.step == 0.375


def test_layers_left_in_float_are_averaged_plainly():
    model = net()
    fb.quantize_(model, fb.policy("sqwa", weights=2))
    fb.calibrate_(model, [])
    average, seen = captured(model, 4)
    average.apply_(model)
    torch.testing.assert_close(model[7].weight, torch.stack([m[7].weight for m in seen]).mean(0))
    assert [name for name, layer in quantized_layers(model) if layer.spec.averaged_from] == ["3"]


def test_scales_in_fixed_point_are_averaged_as_parameters():
    model = net()
    fb.quantize_(
        model, fb.policy("faq", weights=2, activations=8).override("@first", weights=2).override("@last", weights=2)
    )
    fb.calibrate_(model, [(IMAGES,)] * 5)
    average = QuantizedAverage(model)
    for scale in (1.0, 1.5, 1.25):
        nn.init.constant_(model[1].weight, scale)
        average.add()
    average.apply_(model)
    assert torch.equal(model[1].weight, torch.full((4,), 1.25))
    assert model[1].spec.weight.method == "fixed_point"
    fb.quant.prove(model, IMAGES)


def moved_captures(model, count):
    """An average of captures between which all parameters moved, and what each capture was."""
    average, seen = QuantizedAverage(model), []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_((0.3 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
        seen.append(copy.deepcopy(model))
        average.add()
    return average, seen


def test_tied_weights_stay_tied():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model[2].weight = model[1].weight
    fb.quantize_(model, fb.policy("sqwa-all", weights=2))
    fb.calibrate_(model, [])
    average, seen = moved_captures(model, 3)
    average.apply_(model)
    for name, weight in weights_of(model).items():
        assert_is_mean(weight, seen, name)
    assert model[1].weight_quantizer is model[2].weight_quantizer
    assert model[1].weight is model[2].weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_lie_on_their_grid_too(dtype):
    model = nn.Sequential(nn.Linear(6, 50)).to(dtype)
    fb.quantize_(model, fb.policy("sqwa-all", weights=2))
    fb.calibrate_(model, [])
    average, seen = moved_captures(model, 31)
    average.apply_(model)
    layer = model[0]
    assert layer.weight.dtype == dtype
    assert fb.grids(model)["0"].weight.contains(layer.weight)
    assert torch.equal(layer.quantized_weight(), layer.weight)
    assert_is_mean(layer.weight, seen, "0", rtol=4 * torch.finfo(dtype).eps)


def state_of(average):
    return copy.deepcopy(average.state_dict())


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize(("name", "mend"), [("uniq", "freeze_weight_steps_"), ("saq", "fixed_weight_steps")])
def test_a_learned_step_that_moved_is_refused_and_nothing_is_added(name, mend):
    model = quantized(name, 2, 2)
    average, _ = captured(model, 1)
    before = state_of(average)
    train_a_little_(model, 9)
    with pytest.raises(ValueError, match=rf"weight of layer '0': capture 2 has the grid .*the first one .*{mend}"):
        average.add()
    assert same(average.state_dict(), before)


def test_steps_that_follow_the_weights_are_refused():
    model = nn.Sequential(nn.Linear(6, 5))
    fb.quantize_(model, fb.policy("dorefa", weights=1).override("0", weights=1))
    fb.calibrate_(model, [])
    with pytest.raises(ValueError, match=r"layer '0': capture 2 .*Method 'dorefa' computes its step from the weights"):
        moved_captures(model, 2)


def test_one_step_per_channel_is_refused_at_once():
    model = quantized("uniq", 2, 2, granularity="channel")
    with pytest.raises(
        ValueError, match=r"weight of layer '0' has 4 steps.*policy\.override\('0', granularity='tensor'"
    ):
        QuantizedAverage(model)


def test_what_needs_more_than_eight_bits_is_refused_and_nothing_is_added():
    model = quantized("uniq", 7, 2)
    average = QuantizedAverage(model)
    assert average.capacity == 2
    average.add()
    average.add()
    before = state_of(average)
    with pytest.raises(ValueError, match=r"layer '0': the average of 3 captures .* 2 fit.*override\('0', weights=32\)"):
        average.add()
    assert same(average.state_dict(), before)
    assert QuantizedAverage(quantized("uniq", 2, 2)).capacity == 85


def test_weights_of_eight_bits_are_averaged_before_quantization_and_keep_their_grid():
    model = net()
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))  # edges at 8 bits
    fb.calibrate_(model, [(IMAGES,)])
    average, latent, grid = QuantizedAverage(model), [], fb.grids(model)["0"].weight
    for seed in range(3):
        with torch.no_grad():
            model[0].weight.add_(
                0.1 * torch.randn(model[0].weight.shape, generator=torch.Generator().manual_seed(seed))
            )
        latent.append(model[0].weight.detach().clone())
        average.add()
    average.apply_(model)
    assert torch.allclose(model[0].weight, sum(latent) / 3, atol=1e-6)
    assert (model[0].spec.averaged_from, model[3].weight_quantizer.bit_width()) == ({}, 4)
    assert str(fb.grids(model)["0"].weight) == str(grid)
    fb.evaluate(model, [(IMAGES, torch.zeros(len(IMAGES), dtype=torch.int64))])
    fb.requantize_(model)
    assert torch.allclose(model[0].weight, sum(latent) / 3, atol=1e-6)


def test_a_diverged_model_is_refused():
    model = quantized()
    with torch.no_grad():
        model[3].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"weight of layer '3' has NaN or infinite values"):
        QuantizedAverage(model).add()


def test_another_model_is_refused_and_left_as_it_was():
    average, _ = captured(quantized(), 2)
    for other, words in (
        (quantized(weights=3), r"weight '0.weight' is 3 bit sqwa per tensor here, 2 bit sqwa"),
        (net(), r"weight '0.weight' is float here, 2 bit sqwa"),
        (quantized(model=nn.Sequential(*net(), nn.Linear(10, 10))), r"weight '8.weight' is 2 bit sqwa.* here, float"),
    ):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match=words):
            average.apply_(other)
        assert same(dict(other.state_dict()), dict(before))
    wide = nn.Sequential(*net())
    wide[7] = nn.Linear(4, 11)
    with pytest.raises(ValueError, match=r"of another model: '7.weight' is \(10, 4\) in them, \(11, 4\) in this one"):
        average.apply_(quantized(model=wide))
    with pytest.raises(ValueError, match=r"call add\(\) at least once"):
        QuantizedAverage(net()).apply_(net())


def test_a_model_quantized_after_its_average_began_is_refused():
    model = net()
    average = QuantizedAverage(model)
    quantized(model=model)
    with pytest.raises(
        ValueError, match=r"'0.weight' is 2 bit .* here, float in the model that QuantizedAverage was made for"
    ):
        average.add()


def test_the_average_goes_into_another_model_of_the_kind():
    average, _ = captured(quantized(), 3)
    other = quantized()
    average.apply_(other)
    average.apply_(average.model)
    assert same(dict(other.state_dict()), dict(average.model.state_dict()))
    assert torch.equal(other(IMAGES), average.model(IMAGES))
    average.apply_(other)  # once more changes nothing
    assert torch.equal(other(IMAGES), average.model(IMAGES))


@pytest.mark.parametrize("name", ["sqwa-all", "uniq", None])
def test_interrupted_in_the_middle_it_gives_the_same(name):
    make = net if name is None else lambda: quantized(name, 2, 32 if name == "sqwa-all" else 2)
    torch.manual_seed(1)
    whole = make()
    freeze_weight_steps_(whole)
    torch.manual_seed(1)
    halves = make()
    freeze_weight_steps_(halves)
    average, _ = captured(whole, 4)
    first, _ = captured(halves, 2)
    file = io.BytesIO()
    torch.save({"average": first.state_dict(), "model": halves.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    second = QuantizedAverage(halves)
    second.load_state_dict(content["average"])
    for seed in (2, 3):
        train_a_little_(halves, seed)
        second.add()
    assert second.count == 4
    assert same(second.state_dict(), average.state_dict())
    average.apply_(whole)
    second.apply_(halves)
    assert same(dict(whole.state_dict()), dict(halves.state_dict()))


def test_an_empty_state_is_one_too():
    average = QuantizedAverage(quantized())
    average.load_state_dict(QuantizedAverage(quantized()).state_dict())
    assert average.count == 0


def test_captures_of_another_model_are_refused():
    average, _ = captured(quantized(), 2)
    other = QuantizedAverage(quantized(model=nn.Sequential(*net(), nn.Linear(10, 10))))
    with pytest.raises(ValueError, match=r"captures are of another model: '8.weight' is missing in them, \(10, 10\)"):
        other.load_state_dict(average.state_dict())
    assert other.count == 0


def test_a_state_does_not_follow_the_model_it_came_from():
    model = quantized()
    average, _ = captured(model, 1)
    before = state_of(average)
    train_a_little_(model, 4)
    assert same(average.state_dict(), before)


def test_saved_and_loaded_an_average_scores_the_same(tmp_path):
    model = models.build("preresnet8", in_channels=1, first_width=4).eval()
    quantized("uniq", 2, 2, model=model)
    freeze_weight_steps_(model)
    average, _ = captured(model, 3)
    average.apply_(model)
    fb.save(model, tmp_path / "m.safetensors")
    again = fb.load(tmp_path / "m.safetensors")
    assert fb.evaluate(again, [(IMAGES, LABELS)]) == fb.evaluate(model, [(IMAGES, LABELS)])
    assert averaged(again)
    requantize_(again)
    assert {layer.spec.weight.method for _, layer in quantized_layers(again) if layer.spec.weight} == {"uniq"}


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_requantizing_equal_captures_finds_the_captured_model_again(count, bits):
    model = quantized(weights=bits)
    expected, specs = weights_of(model), {n: layer.spec for n, layer in quantized_layers(model)}
    average = QuantizedAverage(model)
    for _ in range(count):
        average.add()
    average.apply_(model)
    fb.requantize_(model)
    assert {n: layer.spec for n, layer in quantized_layers(model)} == specs
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=0)
    assert not averaged(model)
    fb.quant.prove(model, IMAGES)


def test_requantized_weights_have_the_step_of_least_squared_error():
    model = quantized(weights=2)
    average, _ = captured(model, 7)
    average.apply_(model)
    latent = model[3].weight.detach().clone()
    fb.requantize_(model)
    assert torch.equal(model[3].weight, latent)  # training goes on from the average

    def error(step):
        return (latent - step * (latent / step).round().clamp(-1, 1)).square().sum()

    steps = torch.linspace(0.2, 3, 20_000) * latent.std()
    best = min(error(step) for step in steps)
    torch.testing.assert_close(error(model[3].weight_quantizer.step), best, rtol=1e-5, atol=0)


def test_activations_keep_their_learned_steps_and_parameters_stay_the_same_objects():
    model = quantized("uniq", 2, 2)
    freeze_weight_steps_(model)
    average, _ = captured(model, 3)
    average.apply_(model)
    kept = {name: (q, q.step.item()) for name, q in model.named_modules() if name.endswith("input_quantizer")}
    weights = {name: layer.weight for name, layer in quantized_layers(model)}
    fb.requantize_(model)
    for name, (quantizer, step) in kept.items():
        assert model.get_submodule(name) is quantizer
        assert quantizer.step.item() == step
    assert all(layer.weight is weights[name] for name, layer in quantized_layers(model))
    assert model[3].weight_quantizer.step.requires_grad  # made afresh: freeze again to capture again
    assert torch.isfinite(model(IMAGES)).all()


def test_requantized_to_another_policy():
    model = quantized("uniq", 2, 2)
    freeze_weight_steps_(model)
    average, _ = captured(model, 3)
    average.apply_(model)
    steps = model[3].input_quantizer
    target = fb.policy("uniq", weights=3, activations=2).override("@first", activations=2)
    fb.requantize_(model, target.override("@last", weights=32, activations=32))
    assert [(n, layer.spec.weight.bits) for n, layer in quantized_layers(model)] == [("0", 8), ("3", 3)]
    assert model[3].input_quantizer is steps
    assert type(model[7]) is nn.Linear
    fb.quant.prove(model, IMAGES)


def test_a_changed_activation_must_be_calibrated():
    model = quantized("uniq", 2, 2)
    weight = model[3].weight_quantizer
    fb.requantize_(model, fb.policy("uniq", weights=2, activations=4))
    assert model[3].weight_quantizer is weight
    with pytest.raises(RuntimeError, match="no step yet"):
        model(IMAGES)
    fb.calibrate_(model, [(IMAGES,)])
    fb.quant.prove(model, IMAGES)


def test_a_layer_that_was_float_may_be_quantized_now():
    model = net()
    fb.quantize_(model, fb.policy("sqwa", weights=2))
    fb.calibrate_(model, [])
    fb.requantize_(model, fb.policy("sqwa-all", weights=2))
    assert [name for name, _ in quantized_layers(model)] == ["0", "3", "7"]
    fb.quant.prove(model, IMAGES)


def test_what_cannot_be_requantized_says_why_and_stays():
    with pytest.raises(ValueError, match=r"is not quantized: call flatbit\.quantize_"):
        fb.requantize_(net())
    with pytest.raises(ValueError, match=r"is not quantized: call flatbit\.quantize_"):
        fb.requantize_(net(), fb.policy("sqwa", weights=2))
    model = quantized()
    with pytest.raises(
        ValueError, match=r"no weight of the model is an average.*apply_\(model\).*requantize_\(model, pol"
    ):
        fb.requantize_(model)
    before = {name: layer.spec for name, layer in quantized_layers(model)}
    with pytest.raises(ValueError, match="takes 2 to 8 bits"):
        fb.requantize_(model, fb.policy("lsq", weights=2).override("3", weights=1))
    assert {name: layer.spec for name, layer in quantized_layers(model)} == before
    fb.quant.prove(model, IMAGES)


def test_refused_layers_are_refused_again_unless_not_strict():
    class Odd(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(4, 4), Odd(4, 4), nn.Linear(4, 4))
    fb.quantize_(model, fb.policy("sqwa-all", weights=2), strict=False)
    fb.calibrate_(model, [])
    with pytest.raises(ValueError, match="1 layers cannot be quantized"):
        fb.requantize_(model, fb.policy("sqwa-all", weights=3))
    fb.requantize_(model, fb.policy("sqwa-all", weights=3), strict=False)
    assert [layer.spec.weight.bits for _, layer in quantized_layers(model)] == [3, 3]


def test_averages_of_averages_go_back_to_the_first_bits():
    model = quantized(weights=2)
    average, _ = captured(model, 3)
    average.apply_(model)
    second, seen = captured(model, 3)
    second.apply_(model)
    check_average(model, seen)
    assert {layer.spec.averaged_from["weight"].bits for _, layer in quantized_layers(model)} == {2}
    fb.requantize_(model)
    assert {layer.spec.weight.bits for _, layer in quantized_layers(model)} == {2}


@pytest.mark.parametrize("name", ["uniq", "saq", "lsq", "dq"])
def test_frozen_weight_steps_do_not_train(name):
    model = quantized(name, 2, 2)
    freeze_weight_steps_(model)
    steps = {n: p.clone() for n, p in model.named_parameters() if "weight_quantizer" in n}
    assert steps
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], step) for n, step in steps.items())
    assert all(p.grad is not None for n, p in after.items() if "input_quantizer" in n)


def test_freezing_after_a_backward_leaves_no_gradient_to_go_on_with():
    model = quantized("uniq", 2, 2)
    model(IMAGES).sum().backward()
    freeze_weight_steps_(model)
    step = model[3].weight_quantizer.step
    before = step.item()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert step.item() == before
