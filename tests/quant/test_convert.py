import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from flatbit.files import load_, save
from flatbit.metrics.evaluation import evaluate
from flatbit.metrics.health import range_use
from flatbit.quant.assignment import assign_bits_
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.candidates import observe_at_each_
from flatbit.quant.convention import convention
from flatbit.quant.convert import (
    apply_specs_,
    quantize_,
    restore_,
)
from flatbit.quant.grids import grids
from flatbit.quant.layers import QConv2d, QLinear, QReLU
from flatbit.quant.presets import policy
from flatbit.quant.proof import prove
from flatbit.quant.quantizers import make_quantizer
from flatbit.quant.site import Site
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.quant.switched import as_float
from flatbit.quant.table import quantizers_of

UNIQ = policy("uniq", weights=2, activations=2)


def test_narrows_classes_and_keeps_parameters(small, images):
    before = {name: id(p) for name, p in small.named_parameters()}
    keys = list(small.state_dict())
    quantize_(small, UNIQ)
    assert isinstance(small[0], QConv2d)
    assert isinstance(small[7], QLinear)
    after = {name: id(p) for name, p in small.named_parameters() if "quantizer" not in name}
    assert after == before
    assert [key for key in small.state_dict() if "_quantizer." not in key] == keys


def test_an_optimizer_made_before_still_holds_the_weights(small, images, quantized):
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    quantized(small)
    before = small[3].weight.detach().clone()
    small(images).sum().backward()
    optimizer.step()
    assert not torch.equal(small[3].weight, before)


def test_restore_gives_the_float_model_back(net, images):
    expected, state, classes = net(images), copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    quantize_(net, policy("faq", weights=4, activations=4))
    calibrate_(net, [images])
    restore_(net)
    assert [type(m) for m in net.modules()] == classes
    assert list(net.state_dict()) == list(state)
    assert torch.equal(net(images), expected)
    restore_(net)  # a float model stays as it is
    quantize_(net, UNIQ)  # and it can be quantized again


def test_float_checkpoint_loads_with_exactly_the_quantizer_keys_missing(net):
    state = copy.deepcopy(net.state_dict())
    quantize_(net, UNIQ)
    own = {key for key in net.state_dict() if "_quantizer." in key}
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert set(missing) == own
    assert not unexpected
    quantized_state = net.state_dict()
    restore_(net)
    missing, unexpected = net.load_state_dict(quantized_state, strict=False)
    assert not missing
    assert set(unexpected) == own


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 3), (5, 6)),
        (nn.Linear(6, 3, bias=False), (5, 2, 6)),
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2, padding="valid"), (2, 4, 7, 7)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 7, 7)),
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 5, 5)),
    ],
)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_every_layer_type_computes_with_quantized_weight_and_input(layer, shape, granularity):
    """The reference is the float layer itself, given the quantized tensors."""
    model = nn.Sequential(copy.deepcopy(layer))
    x = torch.randn(shape)
    quantize_(
        model,
        policy("uniq", weights=3, activations=3, granularity=granularity).override(
            "0", weights=3, activations=3, granularity=granularity
        ),
    )
    calibrate_(model, [x])
    reference = copy.deepcopy(layer)
    with torch.no_grad():
        reference.weight.copy_(model[0].quantized_weight())
        expected = reference(model[0].input_quantizer(x))
    assert torch.equal(model(x), expected)
    assert not torch.equal(model(x), layer(x))
    steps = model[0].weight_quantizer.step
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert steps.numel() == (channels if granularity == "channel" else 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 8, 2, groups=2, bias=False),
        nn.ConvTranspose2d(8, 4, 2, groups=4, bias=False),
        nn.ConvTranspose2d(4, 12, 3, groups=2, bias=False),
        nn.ConvTranspose1d(6, 6, 3, groups=6, bias=False),
    ],
)
@pytest.mark.parametrize(("method", "bits"), [("uniq", 4), ("lsq", 3), ("lsq_plus", 4), ("xnor", 1)])
def test_each_output_channel_of_a_grouped_transposed_convolution_has_its_step(layer, method, bits):
    """The reference quantizes each output channel's own weights by itself, per tensor."""
    model = nn.Sequential(copy.deepcopy(layer))
    by_channel = model[0].weight.data.unflatten(0, (layer.groups, -1)).movedim(2, 1)  # groups, outputs, inputs, kernel
    scales = 10.0 ** torch.linspace(-1, 1, layer.out_channels).reshape(layer.groups, -1, 1)
    by_channel.mul_(scales.reshape(*scales.shape[:2], *[1] * (by_channel.ndim - 2)))
    spec = TensorSpec(method=method, bits=bits, granularity="channel")
    apply_specs_(model, {"0": LayerSpec(policy="test", role="first", tensors={"weight": spec})})
    x = torch.randn(2, layer.in_channels, *[5] * (layer.weight.ndim - 2))
    calibrate_(model, [x])
    quantizer, weight = model[0].weight_quantizer, model[0].weight
    assert quantizer.num_steps == layer.out_channels
    quantized = quantizer(weight)
    found = quantized.unflatten(0, (layer.groups, -1)).movedim(2, 1).flatten(0, 1)
    spans = []
    for channel, own in zip(found, by_channel.flatten(0, 1), strict=True):
        alone = make_quantizer(replace(spec, granularity="tensor"), Site(role="weight", step_shape=()))
        observe_at_each_(alone, own)
        torch.testing.assert_close(channel, alone(own))
        spans.append(range_use(alone, own).span)
    grid = grids(model)["0"].weight
    assert torch.equal(grid.value(quantizer.codes(weight)), quantized)
    assert grid.step.broadcast_to(weight.shape).shape == weight.shape
    assert prove(model, x).usage["0.weight_quantizer"].allowed == grid.num_levels
    assert range_use(quantizer, weight).span == pytest.approx(min(spans))
    quantized.square().sum().backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_steps_of_a_grouped_transposed_convolution_switch_and_load(tmp_path):
    def make():
        torch.manual_seed(0)
        up = nn.ConvTranspose2d(8, 8, 2, groups=2)
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(8, 2, 1))

    model, x = make(), torch.randn(2, 3, 5, 5)
    quantize_(model, policy("uniq", weights=4, activations=4, granularity="channel"), candidates=(3, 4))
    calibrate_(model, [x])
    assign_bits_(model, {"2": (3, 4)})
    expected = model(x)
    save(model, tmp_path / "m.safetensors")
    load_(loaded := make(), tmp_path / "m.safetensors")
    assert torch.equal(loaded(x), expected)


def test_transposed_convolution_takes_an_output_size():
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 3, stride=2))
    quantize_(model, UNIQ)
    calibrate_(model, [torch.randn(1, 2, 4, 4)])
    assert model[0](torch.randn(1, 2, 4, 4), output_size=[10, 10]).shape[2:] == (10, 10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_quantized_batch_norm_is_batch_norm_with_fixed_point_affine(training, momentum):
    norm = nn.BatchNorm2d(3, momentum=momentum)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(norm), nn.ReLU())
    quantize_(model, policy("faq", weights=4, activations=4))
    q = model[1].train(training)
    reference = norm.train(training)
    with torch.no_grad():
        reference.weight.copy_((reference.weight * 16).round().clamp(-127, 127) / 16)
        reference.bias.copy_((reference.bias * 65536).round() / 65536)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5) + 1
        assert torch.allclose(q(x), reference(x), atol=1e-6)
    for name, buffer in reference.named_buffers():
        assert torch.equal(dict(q.named_buffers())[name], buffer)


def test_batch_norm_without_statistics_or_affine():
    for norm in (nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2, affine=False), nn.BatchNorm1d(2)):
        x = torch.randn(4, 2) if isinstance(norm, nn.BatchNorm1d) else torch.randn(4, 2, 3, 3)
        first = nn.Linear(2, 2) if x.ndim == 2 else nn.Conv2d(2, 2, 1)
        model = nn.Sequential(first, norm, nn.ReLU())
        quantize_(model, policy("faq", weights=4, activations=4))
        calibrate_(model, [x])
        with as_float(model):
            expected = nn.Sequential(*copy.deepcopy(model)).train()(x)
            assert torch.allclose(model.train()(x), expected)


def test_weight_only_and_activation_only(small, images):
    quantize_(small, policy("uniq", weights=2))
    assert small[3].input_quantizer is None
    calibrate_(small, [])  # no activations, so no data is needed
    assert small(images).isfinite().all()
    restore_(small)
    quantize_(small, policy("uniq", activations=2))
    assert small[3].weight_quantizer is None
    assert small[3].quantized_weight() is small[3].weight


def test_output_placement_quantizes_activations_once(small, images, quantized):
    quantized(small, "uniq", placement="output")
    assert isinstance(small[2], QReLU)
    assert small[3].input_quantizer is None
    h = small[2](small[1](small[0](images)))
    assert h.unique().numel() <= 4


def test_copies_pickles_and_moves(net, images, quantized):
    quantized(net, "faq", 4, 4)
    expected = net(images)
    assert torch.equal(copy.deepcopy(net)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), expected)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(images), expected)
    double = copy.deepcopy(net).double()
    assert double.layers[0][0].conv1.weight_quantizer.stated_bits == 4
    assert torch.allclose(double(images.double()).float(), expected, atol=0.2)
    half = copy.deepcopy(net).bfloat16()
    assert half(images.bfloat16()).dtype == torch.bfloat16


def test_half_precision_model_quantizes_in_its_dtype(small, images):
    small = small.bfloat16()
    quantize_(small, UNIQ)
    calibrate_(small, [images.bfloat16()])
    assert small[3].weight_quantizer.step.dtype == torch.bfloat16
    assert small(images.bfloat16()).isfinite().all()


def test_autocast_keeps_steps_in_float32(net, images, quantized):
    quantized(net).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(images)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
    steps = [q.step for _, q in quantizers_of(net)]
    assert all(step.dtype == torch.float32 and step.grad.isfinite().all() for step in steps)


def test_shared_module_is_quantized_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), shared, nn.Linear(4, 2))
    report = quantize_(model, UNIQ)
    calibrate_(model, [torch.randn(8, 4)])
    assert model[1] is model[3]
    assert [layer.name for layer in report.quantized] == ["0", "1", "4"]
    assert model(torch.randn(2, 4)).isfinite().all()


def test_tied_weights_share_one_quantizer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[3].weight = model[1].weight
    quantize_(model, UNIQ)
    assert model[1].weight_quantizer is model[3].weight_quantizer
    assert model[1].input_quantizer is not model[3].input_quantizer
    calibrate_(model, [torch.randn(8, 4)])
    assert torch.equal(model[1].quantized_weight(), model[3].quantized_weight())


def test_nested_containers_and_dicts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.ModuleDict({"a": nn.Linear(4, 4)})
            self.body = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])

        def forward(self, x):
            x = self.stem["a"](x)
            for part in self.body:
                x = part(x)
            return x

    model = Net()
    report = quantize_(model, UNIQ)
    assert [layer.name for layer in report.quantized] == ["stem.a", "body.0.0", "body.1.0"]


def test_compiles_whole_once_for_all_bits(net, images, quantized):
    torch._dynamo.reset()
    quantized(net)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for bits in (2, 4, 8, 1):
        for _, quantizer in quantizers_of(net):
            quantizer.bits.fill_(bits)
        assert torch.allclose(compiled(images), net(images), atol=1e-4)
    assert counter.frame_count == 1


def test_compiled_training_step_is_the_eager_one(net, images, quantized):
    torch._dynamo.reset()
    quantized(net).train()
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for model in (net, compiled):
        torch.nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    for (name, a), (_, b) in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4), name


@pytest.mark.parametrize("method", ["uniq", "faq", "saq", "sqwa"])
def test_exports_through_torch_export(net, images, quantized, method):
    quantized(net, method, 4, 4 if method != "sqwa" else 32)
    program = torch.export.export(net, (images,))
    assert torch.allclose(program.module()(images), net(images), atol=1e-5)


def test_refused_bits_leave_the_model_untouched(small):
    with pytest.raises(ValueError, match=r"weight of layer '3'.*2 to 8 bits, got 1"):
        quantize_(small, policy("faq", weights=4, activations=4).override("3", weights=1))
    assert type(small[0]) is nn.Conv2d
    assert all("quantizer" not in key for key in small.state_dict())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.ReLU(), nn.Flatten()), r"finds nothing to quantize in Sequential"),
        (nn.Embedding(3, 3), r"finds nothing to quantize"),
    ],
)
def test_nothing_to_quantize_is_an_error(model, words):
    with pytest.raises(ValueError, match=words):
        quantize_(model, UNIQ)


def test_a_policy_that_leaves_all_float_is_an_error(small):
    with pytest.raises(ValueError, match="nothing to quantize"):
        quantize_(small, UNIQ.override("*", weights=32, activations=32))


def test_quantizing_twice_is_an_error(small):
    quantize_(small, UNIQ)
    with pytest.raises(ValueError, match=r"already: call flatbit\.restore_"):
        quantize_(small, UNIQ)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_wrapped_models_are_refused(small):
    with pytest.raises(ValueError, match=r"OptimizedModule.*quantize first"):
        quantize_(torch.compile(small), UNIQ)
    with pytest.raises(ValueError, match=r"DataParallel.*quantize first"):
        quantize_(nn.DataParallel(small), UNIQ)


def test_functional_activations_are_named_when_outputs_are_wanted():
    with pytest.raises(ValueError, match=r"has none \(does it call F\.relu\?\).*placement='input'"):
        quantize_(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
            policy("hol", weights=2, activations=2).override("*", weights=2, activations=2),
        )


def test_where_activations_are_float_no_activation_module_is_asked_for():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    quantize_(model, policy("faq", weights=4))
    assert [layer.spec.weight.bits for layer in model] == [8, 8]


def test_no_activation_modules_are_needed_where_layers_quantize_their_own_inputs():
    made = policy("hol", weights=2, activations=2)
    for at_inputs in (
        made.override("*", placement="input"),
        policy("hol", weights=2, activations=2, placement="input"),
    ):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        quantize_(model, at_inputs)
        assert model[1].input_quantizer is not None
    with pytest.raises(ValueError, match="placement='input'"):
        quantize_(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)), made)


def test_no_activation_modules_are_needed_where_activations_are_float():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    assert [layer.name for layer in quantize_(model, policy("hol", weights=2)).quantized] == ["1"]


def test_unknown_option_suggests_the_nearest(small):
    with pytest.raises(ValueError, match="no option 'strat': did you mean start"):
        quantize_(small, policy("uniq", weights=2, weight_options={"strat": 0.1}))
    with pytest.raises(ValueError, match="does not quantize outputs"):
        make_quantizer(TensorSpec(method="sqwa", bits=2), Site(role="output"))


def test_integer_images_are_refused_by_name(net, images, quantized):
    quantized(net)
    with pytest.raises(TypeError, match=r"input of layer 'conv1'.*uint8"):
        net((images * 10).byte())


def test_specs_of_a_quantized_model_apply_to_a_float_twin(net, images, quantized):
    twin = copy.deepcopy(net)
    quantized(net, "faq", 4, 4)
    apply_specs_(
        twin, {name: m.spec for name, m in net.named_modules() if isinstance(getattr(m, "spec", None), LayerSpec)}
    )
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(images), net(images))


@pytest.mark.parametrize("name", ["lsq", "uniq", "saq", "lsq_plus", "dq", "pact", "dorefa", "sqwa", "faq", "hol"])
def test_stacked_models_under_vmap_are_each_of_them(net, images, quantized, name):
    activations = 32 if name == "sqwa" else 4
    nets = [quantized(copy.deepcopy(net), name, 4, activations)]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    nets.append(quantized(net, name, 4, activations))
    parameters, buffers = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")
    run = lambda p, b, x: torch.func.functional_call(base, (p, b), (x,))  # noqa: E731
    out = torch.func.vmap(run, (0, 0, None))(parameters, buffers, images)
    for found, model in zip(out, nets, strict=True):
        assert torch.allclose(found, model(images), atol=1e-5)
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("decay", [None, 0.9, 0.9995])
@pytest.mark.parametrize("name", ["lsq", "saq", "faq", "dq"])
def test_torchs_averages_with_buffers_are_quantized_as_the_model_is(net, images, quantized, name, decay):
    quantized(net, name, 3, 3)
    average = AveragedModel(net, avg_fn=None if decay is None else get_ema_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), torch.arange(4)).backward()
        optimizer.step()
        average.update_parameters(net)
    assert {q.stated_bits for _, q in quantizers_of(average)} == {q.stated_bits for _, q in quantizers_of(net)}
    assert prove(average.module, images).usage.keys() == prove(net, images).usage.keys()
    assert evaluate(average, [(images, torch.arange(4))]).convention == convention(net)


def test_tensors_copied_into_an_uncalibrated_model_calibrate_it(net, images, quantized):
    twin = copy.deepcopy(net)
    quantized(net, "lsq", 4, 4)
    quantize_(twin, policy("lsq", weights=4, activations=4))
    with pytest.raises(RuntimeError, match="no step yet"):
        twin(images)
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            tensor.copy_(net.state_dict()[name])
    assert torch.equal(twin(images), net(images))
    assert all(q.calibrated for _, q in quantizers_of(twin))


def test_a_spec_of_a_tensor_that_the_layer_does_not_have_is_refused(small):
    spec = LayerSpec(policy="x", tensors={"weigth": TensorSpec(method="uniq", bits=2)})
    with pytest.raises(ValueError, match=r"layer '3' \(Conv2d\) has no tensor 'weigth' to quantize"):
        apply_specs_(small, {"3": spec})
    assert type(small[3]) is nn.Conv2d


@pytest.mark.parametrize("given", ["uniq", None, 2])
def test_a_policy_is_a_policy(small, given):
    with pytest.raises(ValueError, match=r"expected a policy, as flatbit\.policy\('uniq', .*got"):
        quantize_(small, given)
