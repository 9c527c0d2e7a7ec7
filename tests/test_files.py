import copy
import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flatbit import models
from flatbit.files import load, load_, load_any_, save
from flatbit.metrics.evaluation import evaluate
from flatbit.plain import to_plain
from flatbit.quant.assignment import assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.presets import policy, preset_names
from flatbit.quant.proof import prove
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.quant.table import quantized_layers
from flatbit.train.averaging import averaged


@pytest.mark.parametrize("name", preset_names())
def test_saved_and_loaded_computes_the_same(tmp_path, images, quantized, name):
    bits = 1 if name == "xnor" else 4
    model = models.build(
        "preresnet8", in_channels=1, first_width=4, activation="hardtanh" if bits == 1 else "relu"
    ).eval()
    quantized(model, name, bits, 32 if name.startswith("sqwa") else bits)
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert torch.equal(again(images), model(images))
    assert not again.training
    assert [(n, m.spec) for n, m in again.named_modules() if hasattr(m, "spec")] == [
        (n, m.spec) for n, m in model.named_modules() if hasattr(m, "spec")
    ]


def test_float_models_too(tmp_path, net, images):
    save(net, tmp_path / "m.safetensors")
    assert torch.equal(load(tmp_path / "m.safetensors")(images), net(images))


def test_a_users_own_model_loads_into_itself(tmp_path, small, images, quantized):
    quantized(small, "uniq", 2, 2)
    save(small, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"does not say how to build.*load_\(model, path\)"):
        load(tmp_path / "m.safetensors")
    expected = small(images)
    restore_(small)
    for p in small.parameters():
        nn.init.zeros_(p)
    load_(small, tmp_path / "m.safetensors")
    assert torch.equal(small(images), expected)


def test_loads_into_a_model_quantized_alike(tmp_path, net, images, quantized):
    quantized(net)
    save(net, tmp_path / "m.safetensors")
    twin = models.build("preresnet8", in_channels=1, first_width=4).eval()
    quantize_(twin, policy("uniq", weights=2, activations=2))
    load_(twin, tmp_path / "m.safetensors")
    assert torch.equal(twin(images), net(images))


def test_a_model_quantized_otherwise_is_refused(tmp_path, net, quantized):
    quantized(net)
    save(net, tmp_path / "m.safetensors")
    twin = models.build("preresnet8", in_channels=1, first_width=4)
    quantize_(twin, policy("uniq", weights=4, activations=2))
    with pytest.raises(ValueError, match=r"quantized otherwise than the model: flatbit\.restore_"):
        load_(twin, tmp_path / "m.safetensors")


def test_another_models_checkpoint_is_refused_before_anything_changes(tmp_path, net, quantized):
    quantized(net)
    save(net, tmp_path / "m.safetensors")
    other = models.build("resnet8", in_channels=1, first_width=4)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"checkpoint of another model than ResNetCifar: \d+ keys missing.*left over"):
        load_(other, tmp_path / "m.safetensors")
    wide = models.build("preresnet8", in_channels=1, first_width=8)
    with pytest.raises(
        ValueError, match=r"of another shape \['conv1\.weight is \(4, 1, 3, 3\), expected \(8, 1, 3, 3\)"
    ):
        load_(wide, tmp_path / "m.safetensors")
    assert list(other.state_dict()) == list(before)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04pickle"])
def test_a_file_that_is_none_is_refused(tmp_path, net, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.safetensors is not a safetensors file"):
        load_(net, path)


def test_truncated_and_missing_files(tmp_path, net):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="no such file"):
        load(path)
    save(net, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(path)


def test_plain_safetensors_of_others_load_by_name(tmp_path, net, images):
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "plain.safetensors")
    twin = models.build("preresnet8", in_channels=1, first_width=4).eval()
    load_(twin, tmp_path / "plain.safetensors")
    assert torch.equal(twin(images), net(images))


def test_tied_weights_are_written_once(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[2].weight = model[1].weight
        return model

    model = tied()
    quantize_(model, policy("sqwa-all", weights=2))
    calibrate_(model, [])
    save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert "2.weight" not in file.keys()  # noqa: SIM118
        assert json.loads(file.metadata()["aliases"])["2.weight"] == "1.weight"
    twin = tied()
    load_(twin, tmp_path / "m.safetensors")
    x = torch.randn(3, 4)
    assert torch.equal(twin(x), model(x))
    assert twin[2].weight is twin[1].weight


def test_a_failed_write_leaves_the_old_file(tmp_path, net, monkeypatch):
    path = tmp_path / "m.safetensors"
    save(net, path)
    old = path.read_bytes()

    def fails(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", fails)
    with pytest.raises(OSError, match="disk full"):
        save(net, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_memory_format_is_kept(tmp_path, net, images):
    save(net, tmp_path / "m.safetensors")
    model = models.build("preresnet8", in_channels=1, first_width=4).to(memory_format=torch.channels_last)
    load_(model, tmp_path / "m.safetensors")
    weight = model.layers[1][0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A file that names a builder in a module of its author's, which leaves a mark when it is called."""
    (tmp_path / "theirs.py").write_text(
        "import pathlib\nfrom torch import nn\n\n"
        "def net():\n    pathlib.Path('called').touch()\n    return nn.Sequential(nn.Linear(2, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(2, 2))
    setattr(model, models.BUILD_CALL, ["theirs:net", {}])
    save(model, "m.safetensors")
    return tmp_path


def test_a_file_cannot_make_us_import_what_it_names(elsewhere):
    with pytest.raises(ValueError, match=r"wants to import and call 'theirs:net'.*trust=True"):
        load("m.safetensors")
    assert not (elsewhere / "called").exists()


def test_trusted_or_already_built_here_it_loads(elsewhere, monkeypatch):
    assert isinstance(load("m.safetensors", trust=True), nn.Sequential)
    assert (elsewhere / "called").exists()
    assert isinstance(load("m.safetensors"), nn.Sequential)  # built in this process by now


def rewritten(path, metadata=None, tensors=None):
    """The file again, with parts of its description or tensors replaced, and, as those of old, without checksums."""
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = file.metadata() | {"checksums": None}
    save_file(kept | (tensors or {}), path, {k: v for k, v in (described | (metadata or {})).items() if v is not None})


def spec(**changes):
    tensor = {"method": "uniq", "bits": 2, "granularity": "tensor", "options": {}} | changes
    return json.dumps({"conv1": {"policy": "uniq", "tensors": {"weight": tensor}}})


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("specs", ""),
        ("specs", "[1]"),
        ("specs", '{"conv1": 3}'),
        ("specs", '{"conv1": {"policy": "uniq", "weight": 3}}'),
        ("specs", '{"conv1": {"policy": "uniq", "tensors": {"weight": 3}}}'),
        ("specs", '{"conv1": {"policy": "uniq", "tensors": 3}}'),
        ("specs", '{"conv1": {"policy": "uniq", "tensors": {}, "producers": "relu"}}'),
        ("specs", '{"conv1": {"policy": "uniq", "wieght": null}}'),
        ("specs", '{"conv1": {"weight": null}}'),
        ("specs", spec(bits="2")),
        ("specs", spec(bits=2.5)),
        ("specs", spec(method=None)),
        ("specs", spec(options=[])),
        ("specs", spec(candidates=[2.5])),
        ("specs", spec(widths=2)),
        ("specs", '{"conv1": {"policy": "uniq", "averaged_from": {"method": "uniq"}}}'),
        ("aliases", "{"),
        ("aliases", '{"a": "b"}'),
        ("aliases", '{"a": []}'),
        ("build", "nonsense"),
        ("build", '["preresnet8"]'),
        ("build", '[8, {}]'),
        ("build", '["preresnet8", []]'),
        ("build", "8"),
    ],
)  # fmt: skip
def test_a_malformed_description_is_one_clear_error(tmp_path, net, quantized, key, content):
    path = tmp_path / "m.safetensors"
    save(quantized(net), path)
    rewritten(path, {key: content})
    twin = models.build("preresnet8", in_channels=1, first_width=4)
    before = list(twin.state_dict())
    with pytest.raises(ValueError, match=rf"m\.safetensors: its entry '{key}' is not what flatbit\.save writes"):
        load(path) if key == "build" else load_(twin, path)
    assert list(twin.state_dict()) == before


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (
            {"specs": None},
            r"its quantizers are not those that it states: 0 keys missing.*\d+ left over \['conv1\.input",
        ),
        ({"specs": spec()}, "its quantizers are not those that it states: 0 keys missing"),
        ({"specs": spec(method="nope")}, "unknown quantization method 'nope'"),
        ({"specs": spec(bits=9)}, "'uniq' takes 1 to 8 bits, got 9"),
        ({"specs": spec().replace("conv1", "layers")}, r"another model.*1 left over \['layers'\]"),
        ({"specs": spec().replace("conv1", "conv9")}, r"another model.*1 left over \['conv9'\]"),
    ],
)
def test_specs_that_contradict_the_tensors_leave_the_model_as_it_was(tmp_path, net, images, quantized, metadata, words):
    path = tmp_path / "m.safetensors"
    save(quantized(net), path)
    rewritten(path, metadata)
    twin = models.build("preresnet8", in_channels=1, first_width=4).eval()
    expected, classes = twin(images), [type(m) for m in twin.modules()]
    with pytest.raises(ValueError, match=words):
        load_(twin, path)
    assert [type(m) for m in twin.modules()] == classes
    assert torch.equal(twin(images), expected)


def test_bits_that_contradict_the_specs_are_refused(tmp_path, net, images, quantized):
    path = tmp_path / "m.safetensors"
    save(quantized(net), path)
    rewritten(path, tensors={"conv1.weight_quantizer.bits": torch.tensor(4)})
    expected = net(images)
    for model in (net, models.build("preresnet8", in_channels=1, first_width=4)):
        with pytest.raises(ValueError, match=r"weight of layer 'conv1' holds 4 bits, its spec states 8"):
            load_(model, path)
    assert torch.equal(net(images), expected)  # it was quantized before, and is
    assert all("quantizer" not in key for key in model.state_dict())


def test_weights_to_load_any_are_ours_or_a_strangers(tmp_path):
    source = models.build("resnet8", first_width=2)
    save(source, tmp_path / "float.safetensors")
    torch.save({"model": source.state_dict()}, tmp_path / "stranger.pth")
    for name, says in (("float.safetensors", "a file of flatbit's"), ("stranger.pth", "mapped by name")):
        target = models.build("resnet8", first_width=2)
        assert says in load_any_(target, tmp_path / name)
        assert torch.equal(target.fc.weight, source.fc.weight)


def test_a_quantized_file_of_ours_stays_quantized(tmp_path):
    source = models.build("resnet8", first_width=2)
    quantize_(source, policy("sqwa", weights=2))
    calibrate_(source, [])
    save(source, tmp_path / "q.safetensors")
    target = models.build("resnet8", first_width=2)
    assert "loaded by name" in load_any_(target, tmp_path / "q.safetensors")
    assert dict(quantized_layers(target))


def test_what_a_weight_was_averaged_from_is_kept(tmp_path, net, quantized):
    before = TensorSpec(method="lsq", bits=2, options={"gradient_scale": False})
    layer = quantized(net).conv1
    layer.spec = replace(layer.spec, averaged_from={"weight": before})
    save(net, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.conv1.spec == layer.spec
    assert again.conv1.spec.averaged_from == {"weight": before}
    assert isinstance(again.conv1.spec.averaged_from["weight"], TensorSpec)


def test_what_each_layer_reads_is_kept_and_makes_no_difference_to_loading(tmp_path, net, images, quantized):
    quantized(net, "faq", 4, 4)
    save(net, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors").layers[1][0].conv2.spec.producers == ("layers.1.0.relu2",)
    twin = models.build("preresnet8", in_channels=1, first_width=4).eval()
    quantize_(twin, policy("faq", weights=4, activations=4))  # not calibrated: it does not know what reads what
    load_(twin, tmp_path / "m.safetensors")
    assert torch.equal(twin(images), net(images))
    assert assignment(twin) == assignment(net)


def plain_net():
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()


def first_format(**changes):
    """A layer as the first format describes it: every tensor by name, null where it is float."""
    nothing = dict.fromkeys(("weight", "bias", "input", "output", "averaged_from"))
    return {"policy": "hol", "role": "inner", "input_bits": 32} | nothing | changes


def tensor_of_first_format(method, bits, **options):
    return {"method": method, "bits": bits, "granularity": "tensor", "options": options}


@pytest.fixture
def old_file(tmp_path):
    """A file of the first format, written by hand: an average of HOL's four-level weights, PACT after the ReLU."""
    specs = {
        "0": first_format(
            role="first",
            weight=tensor_of_first_format("sqwa", 4, levels="midrise"),
            averaged_from=tensor_of_first_format("sqwa", 2, levels="midrise"),
        ),
        "1": first_format(output=tensor_of_first_format("pact", 2, clip=3.0)),
        "2": first_format(role="last", weight=tensor_of_first_format("sqwa", 3, levels="midtread"), input_bits=2),
    }
    tensors = {
        "0.weight": torch.tensor([[0.1, -0.9], [1.3, 0.4]]),
        "0.bias": torch.tensor([0.0, 0.5]),
        "0.weight_quantizer.bits": torch.tensor(4),
        "0.weight_quantizer.step": torch.tensor(0.5),
        "1.output_quantizer.bits": torch.tensor(2),
        "1.output_quantizer.signed": torch.tensor(False),
        "1.output_quantizer.clip": torch.tensor(3.0),
        "2.weight": torch.tensor([[0.6, -5.0]]),
        "2.weight_quantizer.bits": torch.tensor(3),
        "2.weight_quantizer.step": torch.tensor(1.0),
    }
    path = tmp_path / "old.safetensors"
    save_file(tensors, path, {"format": "1", "build": "null", "specs": json.dumps(specs), "aliases": "{}"})
    return path


def test_a_file_of_the_first_format_loads(old_file):
    model = plain_net()
    load_(model, old_file)
    assert model[0].spec == LayerSpec(
        policy="hol",
        role="first",
        tensors={"weight": TensorSpec(method="sqwa", bits=4, options={"grid": "midrise"})},
        averaged_from={"weight": TensorSpec(method="sqwa", bits=2, options={"grid": "midrise"})},
    )
    assert model[1].spec.tensors == {"output": TensorSpec(method="pact", bits=2, options={"clip": 3.0})}
    assert (model[2].spec.input_bits, model[2].spec.averaged_from) == (2, {})
    assert model[0].quantized_weight().tolist() == [[0.25, -0.75], [1.25, 0.25]]  # (code + 1/2)/2
    # 0.25 + 0.5 - 0.75 * 1 = -0.5; 1.25 + 0.25 + 0.5 = 2 of 0..3; weights 1 and -3
    assert model(torch.tensor([[1.0, 1.0]])).tolist() == [[0.0 * 1 + 2.0 * -3]]
    assert averaged(model)
    assert prove(model, torch.tensor([[1.0, 1.0]])).usage["1.output_quantizer"].allowed == 4


def test_a_file_of_the_first_format_saved_again_is_of_this_one(old_file, tmp_path):
    model, again = plain_net(), plain_net()
    load_(model, old_file)
    save(model, tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "2"
        assert set(json.loads(file.metadata()["specs"])["0"]["tensors"]) == {"weight"}
    load_(again, tmp_path / "new.safetensors")
    x = torch.randn(5, 2)
    assert torch.equal(again(x), model(x))
    load_(again, old_file)  # a model that is quantized alike


def test_the_first_format_had_its_description_checked_too(old_file):
    for broken in ('{"0": {"policy": "hol", "weight": {"method": "sqwa"}}}', '{"0": {"policy": "hol", "weight": 3}}'):
        rewritten(old_file, {"specs": broken})
        with pytest.raises(ValueError, match=r"its entry 'specs' is not what flatbit\.save writes"):
            load_(plain_net(), old_file)


def test_files_from_before_there_were_averages_load(old_file):
    with safe_open(old_file, framework="pt") as file:
        specs = json.loads(file.metadata()["specs"])
    for spec in specs.values():
        del spec["averaged_from"]
    rewritten(old_file, {"specs": json.dumps(specs)})
    model = plain_net()
    load_(model, old_file)
    assert model(torch.tensor([[1.0, 1.0]])).tolist() == [[-6.0]]
    assert not averaged(model)


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_inside(model):
    model.conv1, model.fc = nn.DataParallel(model.conv1), compiled(model.fc)
    return model


WRAPS = {
    "compile": compiled,
    "DataParallel": nn.DataParallel,
    "AveragedModel": lambda model: AveragedModel(model, use_buffers=True),
    "all": lambda model: compiled(nn.DataParallel(AveragedModel(AveragedModel(model)))),
    "inside": compiled_inside,
}


def twin():
    return models.build("preresnet8", in_channels=1, first_width=4).eval()


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_of_a_wrapped_model_the_plain_one_is_saved(tmp_path, net, images, quantized, wrap):
    model = quantized(net)
    expected, plain, bits = model(images), set(model.state_dict()), assignment(model)
    wrapped = wrap(model)
    save(wrapped, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert {*file.keys()} == plain
    into = twin()
    load_(into, tmp_path / "m.safetensors")
    for again in (load(tmp_path / "m.safetensors"), into):
        assert torch.equal(again(images), expected)
    assert assignment(wrapped) == bits
    assert cost(wrapped, (1, 8, 8)).bitops == cost(into, (1, 8, 8)).bitops
    with torch.no_grad():
        for p in wrapped.parameters():
            p.zero_()
    load_(wrapped, tmp_path / "m.safetensors")
    assert torch.equal(wrapped.eval()(images), expected)
    batches = [(images, torch.arange(4))]
    assert evaluate(wrapped, batches).proof == evaluate(into, batches).proof


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_file_with_the_names_of_wrappers_loads(tmp_path, net, images, quantized, wrap):
    """As files of older versions have them."""
    model = quantized(net)
    expected = model(images)
    wrapped = wrap(model)
    named = {
        name: layer
        for name, layer in wrapped.named_modules()
        if hasattr(type(layer), "quantized_weight") or "spec" in vars(layer)
    }
    specs = {name: layer.spec for name, layer in named.items()}
    state = {key: value.contiguous() for key, value in wrapped.state_dict().items()}
    described = {"format": "2", "specs": json.dumps({name: to_plain(spec) for name, spec in specs.items()})}
    save_file(state, tmp_path / "m.safetensors", described)
    into = twin()
    load_(into, tmp_path / "m.safetensors")
    assert torch.equal(into(images), expected)


def test_a_wrapped_float_model_is_not_quantized_by_a_file_but_loads_a_float_one(tmp_path, net, images, quantized):
    save(net, tmp_path / "float.safetensors")
    for wrap in (compiled, nn.DataParallel, AveragedModel):
        model = wrap(twin())
        load_(model, tmp_path / "float.safetensors")
        assert torch.equal(model.eval()(images), net(images))
    save(quantized(net), tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match=r"got DataParallel: load .*q\.safetensors first, then wrap or compile"):
        load_(nn.DataParallel(twin()), tmp_path / "q.safetensors")


def _saved_in_parallel(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=1)
    save(nn.parallel.DistributedDataParallel(twin()), f"{folder}/m.safetensors")
    os._exit(0)


def test_of_a_distributed_model_the_plain_one_is_saved(tmp_path):
    torch.multiprocessing.spawn(_saved_in_parallel, (str(tmp_path),), nprocs=1)
    assert set(load(tmp_path / "m.safetensors").state_dict()) == set(twin().state_dict())


def test_files_are_as_readable_as_any_other(tmp_path, net):
    save(net, tmp_path / "m.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_flipped_bit_of_a_weight_is_an_error_and_leaves_the_model_as_it_was(tmp_path, net):
    path = tmp_path / "m.safetensors"
    save(net, path)
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 16
    path.write_bytes(raw)
    model = twin()
    before = copy.deepcopy(model.state_dict())
    for read in (load_, load_any_, models.load_weights_):
        with pytest.raises(ValueError, match=r"m\.safetensors: 1 tensors have not their checksums, '[\w.]+' the first"):
            read(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_integers_are_no_weights(tmp_path, net):
    save_file({key: (7 * value).to(torch.int8) for key, value in net.state_dict().items()}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"conv1\.weight is torch\.int8, expected torch\.float32"):
        load_(twin(), tmp_path / "m.safetensors")


def test_a_format_of_the_future_is_refused(tmp_path, net):
    save(net, tmp_path / "m.safetensors")
    rewritten(tmp_path / "m.safetensors", {"format": "3"})
    for read in (load, lambda path: load_(twin(), path)):
        with pytest.raises(
            ValueError, match=r"has format '3', this version reads 1, 2, flatbit-packed: install a newer flatbit"
        ):
            read(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "arguments", [{"width": "2"}, {"num_classes": None}, {"num_classes": -3}, {"in_channels": 1.5}]
)
def test_a_build_call_that_cannot_be_is_one_clear_error(tmp_path, net, arguments):
    save(net, tmp_path / "m.safetensors")
    rewritten(tmp_path / "m.safetensors", {"build": json.dumps(["preresnet8", arguments])})
    with pytest.raises(ValueError, match=r"m\.safetensors: its model cannot be built, preresnet8 with"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"role": "frist"}, "role='frist'"), ({"input_bits": -4}, "input_bits=-4"), ({"input_bits": 16}, "input_bits=16")],
)
def test_facts_that_there_are_not_are_an_error(tmp_path, net, quantized, changes, words):
    path = tmp_path / "m.safetensors"
    save(quantized(net), path)
    with safe_open(path, framework="pt") as file:
        specs = json.loads(file.metadata()["specs"])
    specs["conv1"] |= changes
    rewritten(path, {"specs": json.dumps(specs)})
    with pytest.raises(ValueError, match=words):
        load_(twin(), path)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The tensors and the description, without checksums, of a file with every kind of slot."""
    path = tmp_path_factory.mktemp("described") / "m.safetensors"
    model = models.build("preresnet8", in_channels=1, first_width=2)
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [(torch.randn(4, 1, 8, 8),)] * 2)
    save(model, path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() | {"checksums": None}, path  # noqa: SIM118


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["uniq", "channel", "preresnet8", "conv1", "2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)  # fmt: skip


def places(tree):
    """(holder, key) of everything within a tree of JSON."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


@st.composite
def mutated(draw, text):
    """An entry that was cut, replaced, or changed in one place: a part removed, of another type, or one too many."""
    how = draw(st.sampled_from(["removed", "cut", "replaced", "nested", "part", "lost part", "more"]))
    tree = json.loads(text)
    if how == "removed":
        return None
    if how == "cut":
        return text[: draw(st.integers(0, len(text) - 1))]
    if how == "nested":
        return "[" * draw(st.integers(1, 10**5))
    found = list(places(tree)) if isinstance(tree, dict | list) else []
    if how == "replaced" or not found:
        return json.dumps(draw(JUNK))
    holder, key = draw(st.sampled_from(found))
    if how == "part":
        holder[key] = draw(JUNK)
    elif how == "lost part":
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw(st.sampled_from(["clip", "options", "bits", "width", ""]) | st.text(max_size=5))] = draw(JUNK)
    else:
        holder.append(draw(JUNK))
    return json.dumps(tree)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), key=st.sampled_from(["format", "build", "specs", "specs", "aliases"]))
def test_a_changed_description_loads_or_is_an_error_that_leaves_the_model_as_it_was(described, data, key):
    tensors, description, path = described
    text = data.draw(st.text(max_size=3)) if key == "format" else data.draw(mutated(description[key]))
    changed = description | {key: text}
    save_file(tensors, path, {name: text for name, text in changed.items() if text is not None})
    for read in (lambda _: load(path), lambda model: load_(model, path), lambda model: load_any_(model, path)):
        model = models.build("preresnet8", in_channels=1, first_width=2)
        before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
        try:
            read(model)
        except ValueError:
            now = model.state_dict()
            same = now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)
            assert same and classes == [type(m) for m in model.modules()]  # noqa: PT018


def test_a_float_file_of_ours_takes_what_a_third_partys_takes_and_a_quantized_one_refuses_it(tmp_path):
    source, target = models.build("resnet8", first_width=2, num_classes=7), models.build("resnet8", first_width=2)
    save(source, tmp_path / "m.safetensors")
    said = load_any_(target, tmp_path / "m.safetensors", as_built=("fc",))
    assert "As it is built: fc (weight 10x8, bias 10); in the file: fc weight 7x8, bias 7" in said
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    quantize_(source, policy("sqwa", weights=2))
    calibrate_(source, [])
    save(source, tmp_path / "q.safetensors")
    with pytest.raises(ValueError, match=r"q\.safetensors is quantized, and as_built cannot act on it"):
        load_any_(target, tmp_path / "q.safetensors", as_built=("fc",))


class Cast(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


def test_a_subclass_that_is_not_declared_here_is_named(tmp_path):
    made, here = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(Cast(3, 4), nn.Linear(4, 2))
    quantize_(made, policy("lsq", weights=4))
    calibrate_(made, [torch.randn(2, 3)])
    save(made, tmp_path / "made.safetensors")
    with pytest.raises(ValueError, match="layers quantized that are Cast in this Sequential: declare the class first"):
        load_(here, tmp_path / "made.safetensors")
    assert type(here[1]) is nn.Linear
