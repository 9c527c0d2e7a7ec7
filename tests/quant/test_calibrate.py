import copy
import itertools

import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.assignment import assignment
from flatbit.quant.calibrate import Calibration, calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.optimal_step import midrise_step, unsigned_step
from flatbit.quant.presets import policy
from flatbit.quant.statistics import percentile
from flatbit.quant.table import quantized_layers, quantizers_of


def made(model, name="uniq", weights=4, activations=4, **options):
    quantize_(model, policy(name, weights=weights, activations=activations, **options))
    return model


def test_sets_every_step_from_weights_and_data(net, images):
    report = calibrate_(made(net), [(images, torch.zeros(4))])
    assert (report.num_batches, report.num_samples) == (1, 4)
    assert all(q.calibrated for _, q in quantizers_of(net))
    w = net.layers[0][0].conv1
    assert float(w.weight_quantizer.step.detach()) == pytest.approx(
        midrise_step(4) * float(w.weight.detach().std()), rel=1e-5
    )


def test_leaves_everything_else_as_it_was(net, images):
    made(net).train()
    net.layers.eval()
    modes = [m.training for m in net.modules()]
    state = {k: v.clone() for k, v in net.state_dict().items() if "_quantizer." not in k}
    random = torch.get_rng_state()
    calibrate_(net, [images] * 3)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_float_methods_see_the_float_network(net, images):
    """FAQ's percentile is of what the float net has there, not of what quantized layers before make of it."""
    twin = copy.deepcopy(net)
    seen = []
    twin.layers[2][0].relu2.register_forward_hook(lambda module, args, out: seen.append(percentile(out, 99.9)))
    twin(images)
    calibrate_(made(net, "faq", 2, 2), [images])
    expected = 2.0 ** (torch.ceil(torch.log2(seen[0])) - 2)
    assert float(net.layers[2][0].relu2.output_quantizer.step) == float(expected)


@pytest.mark.parametrize(("count", "batch_statistics"), [(4, True), (2, True), (1, False)])
def test_uniq_sees_the_quantized_network_with_batch_statistics(small, images, count, batch_statistics):
    """Recompute by hand: the second convolution's input is what the quantized first one and BN in train mode give."""
    made(small, "uniq", 2, 2)
    calibrate_(small, [images[:count]])
    twin = copy.deepcopy(small).train(batch_statistics)
    with torch.no_grad():
        h = twin[2](twin[1](twin[0](images[:count])))
    expected = unsigned_step(2) * float((2 * h.square().mean()).sqrt())
    assert float(small[3].input_quantizer.step.detach()) == pytest.approx(expected, rel=1e-5)


def test_each_method_uses_its_own_number_of_batches(small):
    batches = [torch.randn(2, 1, 8, 8) * (i + 1) for i in range(8)]
    quantize_(small, policy("lsq", weights=4, activations=4).override("3", activation_method="pact"))
    report = calibrate_(small, iter(batches))
    assert report.num_batches == 5  # PACT asks for 5
    first = small[0].input_quantizer
    assert float(first.step.detach()) == pytest.approx(
        2 * float(batches[0].abs().mean()) / 127**0.5, rel=1e-5
    )  # LSQ: the first alone


def test_number_of_batches_can_be_given(small):
    quantize_(small, policy("faq", weights=4, activations=4))
    assert calibrate_(small, (torch.randn(2, 1, 8, 8) for _ in range(9)), num_batches=7).num_batches == 7
    assert calibrate_(small, [torch.randn(2, 1, 8, 8)] * 2).num_batches == 2  # all there are


@pytest.mark.parametrize("count", [1, 3])
def test_uniq_sees_no_more_batches_than_it_is_given(small, count):
    quantize_(small, policy("uniq", weights=2, activations=2))
    seen = calibrate_(small, [torch.randn(4, 1, 8, 8) for _ in range(5)], num_batches=count)
    assert seen == Calibration(num_batches=count, num_samples=4 * count)


def test_weights_alone_need_no_batches(small):
    quantize_(small, policy("sqwa", weights=2))
    assert calibrate_(small, []) == Calibration(num_batches=0, num_samples=0)


def test_mixed_methods_need_one_pass_over_a_stream(small):
    """A generator can be read once: the first batches serve both passes."""
    quantize_(small, policy("uniq", weights=4, activations=4).override("3", activation_method="faq"))
    report = calibrate_(small, (torch.randn(2, 1, 8, 8) for _ in range(12)))
    assert (report.num_batches, report.num_samples) == (12, 24)
    assert all(q.calibrated for _, q in quantizers_of(small))


def test_again_starts_afresh(net, images):
    calibrate_(made(net), [100 * images])
    calibrate_(net, [images])
    twin = copy.deepcopy(net)
    calibrate_(twin, [images])
    for (_, a), (_, b) in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(a, b)


def test_saqs_batch_statistics_make_rescaled_weights_harmless(net, images):
    calibrate_(made(net, "saq", 4, 4), [images])
    assert net.train()(images).isfinite().all()


@pytest.mark.parametrize("name", ["uniq", "faq", "lsq", "pact"])
def test_one_image_is_enough(net, images, name):
    calibrate_(made(net, name), [images[:1]])
    assert net(images).isfinite().all()


def test_one_sample_through_a_flat_net_with_batch_norm():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    calibrate_(made(model), [torch.randn(1, 4)])
    assert model(torch.randn(3, 4)).isfinite().all()


@pytest.mark.parametrize("batches", [[], iter(())])
def test_no_batches_is_an_error(net, batches):
    with pytest.raises(ValueError, match="calibration got no batches"):
        calibrate_(made(net), batches)


def test_float_model_is_an_error(net, images):
    with pytest.raises(ValueError, match=r"not quantized: call flatbit\.quantize_"):
        calibrate_(net, [images])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_names_the_layer(net, images, bad):
    net.layers[1][0].conv1.weight.data[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"weight of layer 'layers\.1\.0\.conv1' has 1 NaN or infinite values"):
        calibrate_(made(net), [images])


@pytest.mark.parametrize("name", ["uniq", "faq", "saq", "sqwa", "dorefa", "dq"])
def test_all_zero_weight_names_the_layer_and_the_mend(small, images, name):
    nn.init.zeros_(small[3].weight)
    quantize_(small, policy(name, weights=4))
    with pytest.raises(ValueError, match=r"weight of layer '3' is all zero.*override\('3', weights=32\)"):
        calibrate_(small, [images])


@pytest.mark.parametrize("name", ["uniq", "lsq", "lsq_plus"])
def test_zero_channel_and_constant_weights_work(small, images, name):
    small[3].weight.data[1] = 0
    small[0].weight.data.fill_(0.5)
    model = made(small, name, 4, 4, granularity="channel")
    calibrate_(model, [images])
    assert model(images).isfinite().all()
    assert float(model[3].weight_quantizer.step.detach().min()) > 0


@pytest.mark.parametrize("name", ["uniq", "saq", "faq", "sqwa", "lsq", "lsq_plus", "dorefa", "dq"])
def test_constant_weights_work_per_tensor(small, images, name):
    small[3].weight.data.fill_(-0.25)
    quantize_(small, policy(name, weights=4))
    calibrate_(small, [images])
    assert small(images).isfinite().all()


def test_all_zero_input_names_the_layer(small, images):
    nn.init.constant_(small[1].bias, -1e6)  # a dead ReLU
    for name in ("uniq", "lsq", "faq"):
        model = made(copy.deepcopy(small), name)
        with pytest.raises(ValueError, match=r"layer '(2|3)'.*constant zero, or never reached.*activations=32"):
            calibrate_(model, [images])


def test_unreached_layer_is_named():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match=r"the model does not run them.*\n  idle: the model never calls it"):
        calibrate_(made(Skips()), [torch.randn(3, 4)])


def test_data_that_is_not_finite_names_layer_and_batch(net, images):
    with pytest.raises(ValueError, match=r"input of layer 'conv1' is NaN or infinite in calibration batch 1"):
        calibrate_(made(net), [images, images / 0])


def test_batches_must_be_tensors(net):
    with pytest.raises(ValueError, match=r"batches of tensors.*got int"):
        calibrate_(made(net), [{"x": 1}])


def test_hooks_are_gone_after_an_error(net, images):
    made(net)
    with pytest.raises(ValueError, match="NaN"):
        calibrate_(net, [images * float("nan")])
    assert all(not q._forward_pre_hooks and q.enabled for _, q in quantizers_of(net))
    calibrate_(net, [images])


def interrupted(*batches):
    yield from batches
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["uniq", "faq", "lsq_plus", "dq", "saq"])
def test_a_failed_run_leaves_the_calibration_before_it(net, images, name):
    quantize_(net, policy(name, weights=4, activations=4))
    calibrate_(net, [images])
    before, specs = {k: v.clone() for k, v in net.state_dict().items()}, [q.spec for _, q in quantized_layers(net)]
    for batches, error in (
        ([], ValueError), ([images * float("nan")], ValueError), (["x"], ValueError),
        (interrupted(), KeyboardInterrupt), (interrupted(2 * images), KeyboardInterrupt),
    ):  # fmt: skip
        with pytest.raises(error):
            calibrate_(net, batches, num_batches=3)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert [q.spec for _, q in quantized_layers(net)] == specs
    quantize_(fresh := models.build("preresnet8", in_channels=1, first_width=4), policy(name, weights=4, activations=4))
    with pytest.raises(KeyboardInterrupt):
        calibrate_(fresh, interrupted(images), num_batches=3)
    assert not all(q.calibrated for _, q in quantizers_of(fresh))


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_batches_below_one_is_an_error(net, images, count):
    with pytest.raises(ValueError, match=rf"num_batches={count}: expected 1 or more, or None"):
        calibrate_(made(net), [images], num_batches=count)


def test_a_constant_input_is_called_constant_where_that_gives_no_range(small, images):
    with torch.no_grad():
        small[1].weight.zero_()
        small[1].bias.fill_(2.0)  # the ReLU gives 2 everywhere
    with pytest.raises(ValueError, match=r"input of layer '3': it was constant, or never reached"):
        calibrate_(made(small, "lsq_plus"), [images])


@pytest.mark.parametrize("name", ["uniq", "lsq", "faq"])
def test_notes_which_activation_each_layer_reads(small, images, name):
    """Also where all methods calibrate with quantizers active, in the pass of their own (UNIQ)."""
    calibrate_(made(small, name, placement="output"), [images])
    assert small[3].spec.producers == ("2",)
    assert assignment(small)["3"] == (4, 4)


def test_uniq_alone_runs_the_float_network_on_nothing(small):
    quantize_(small, policy("uniq", weights=4, activations=4))
    calls = []
    small.register_forward_hook(lambda *args: calls.append(any(q.enabled for _, q in quantizers_of(small))))
    assert calibrate_(small, [torch.randn(2, 1, 8, 8)] * 3).num_batches == 3
    assert calls == [True] * 3


def test_every_row_of_a_table_is_filled(small, images):
    quantize_(small, policy("uniq", weights=4, activations=4), candidates=(1, 2, 4))
    calibrate_(small, [images])
    rows = {name: q.step for name, q in quantizers_of(small) if q.site.candidates}
    assert {tuple(step.shape) for step in rows.values()} == {(3,)}
    assert all(bool((step[:-1] > step[1:]).all()) for step in rows.values())
    assert all(q.stated_bits == 4 for _, q in quantizers_of(small) if q.site.candidates)


def test_no_more_is_read_of_what_never_ends_than_is_asked_for(small):
    quantize_(small, policy("faq", weights=4, activations=4))
    numbers = itertools.count()
    assert calibrate_(small, (torch.randn(2, 1, 8, 8) for _ in numbers), 3).num_batches == 3
    assert next(numbers) == 3
    assert calibrate_(small, itertools.cycle([torch.randn(2, 1, 8, 8)])).num_batches == 5


def test_a_model_of_several_inputs_is_named_with_the_wrapper():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, left, right):
            return self.left(left) + self.right(right)

    with pytest.raises(ValueError, match=r"calibrate_: Sum needs left, right, expected one input: several inputs go"):
        calibrate_(made(Sum()), [(torch.randn(3, 4), torch.randn(3, 4))])
