import json
from pathlib import Path

import pytest
import torch

import flatbit as fb
from flatbit.engine.record import read_run
from flatbit.search.assignment_file import read_assignment


def totals(flatbit, *arguments):
    result = flatbit("cost", *arguments, "--json")
    assert (result.status, result.err) == (0, "")
    return json.loads(result.out)


def test_the_example_of_the_help_gives_the_number_of_the_paper(flatbit):
    counted = totals(
        flatbit,
        "preresnet20",
        "--model-arg",
        "variant=saq",
        "--model-arg",
        "num_classes=100",
        "--policy",
        "saq",
        "-w",
        4,
        "-a",
        4,
    )
    assert counted["bitops"] / 1e6 == pytest.approx(674.644, abs=0.0005)


def test_json_is_the_library_s_count(flatbit):
    model = fb.models.build("resnet8")
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=3))
    expected = fb.cost(model, (3, 16, 16))
    counted = totals(flatbit, "resnet8", "-w", 2, "-a", 3, "--input-shape", "3,16,16")
    assert {name: counted[name] for name in ("bitops", "macs", "params", "size_bytes")} == {
        "bitops": expected.bitops, "macs": expected.macs, "params": expected.params, "size_bytes": expected.size_bytes,
    }  # fmt: skip
    assert [layer["name"] for layer in counted["layers"]] == [layer.name for layer in expected.layers]
    assert sum(layer["bitops"] for layer in counted["layers"]) == counted["bitops"]


def test_float_unless_bits_are_given(flatbit):
    counted = totals(flatbit, "resnet8")
    assert counted["bitops"] == 1024 * counted["macs"]
    assert counted["size_bytes"] > 4 * counted["params"]


def test_weights_or_activations_alone(flatbit):
    some = {layer["name"]: layer for layer in totals(flatbit, "resnet8", "-w", 2)["layers"]}
    other = {layer["name"]: layer for layer in totals(flatbit, "resnet8", "-a", 2)["layers"]}
    bits = [(layers["layers.1.0.conv1"][key]) for layers in (some, other) for key in ("weight_bits", "activation_bits")]
    assert bits == [2, 32, 32, 2]


def test_the_table_ends_in_the_totals(flatbit):
    result = flatbit("cost", "resnet8", "-w", 2, "-a", 2)
    counted = totals(flatbit, "resnet8", "-w", 2, "-a", 2)
    last = [line for line in result.out.splitlines() if "total" in line][-1]
    assert (result.status, result.err) == (0, "")
    assert all(f"{counted[name]:,}" in last for name in ("bitops", "macs", "params", "size_bytes"))


def test_edges_have_the_bits_that_are_asked_for(flatbit, refuses):
    narrow = totals(
        flatbit, "resnet8", "--policy", "dorefa", "-w", 2, "-a", 2, "--first-last-bits", 8, "--image-bits", 8
    )
    assert narrow["size_bytes"] < totals(flatbit, "resnet8", "--policy", "dorefa", "-w", 2, "-a", 2)["size_bytes"]
    assert "--first-last-bits and --image-bits without bits cannot act" in refuses("cost", "resnet8", "--image-bits", 8)


def test_a_function_of_the_users(flatbit, own):
    module = own("from torch import nn\ndef net(n=5):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, n))\n")
    assert totals(flatbit, f"{module}:net", "--input-shape", "3,2,2", "--model-arg", "n=7")["macs"] == 84


TOKENS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head, self.unused = nn.Embedding(10, 4), nn.Linear(4, 3), nn.Linear(4, 4)

    def forward(self, tokens, scale=None):
        x = self.table(tokens)
        return self.head(x @ x.transpose(1, 2) @ x * (1 if scale is None else scale))

def tokens():
    return torch.zeros(1, 7, dtype=torch.long)

def named():
    return {"tokens": tokens(), "scale": torch.ones(1)}

wrong = torch.zeros(1, 7)

def floats():
    return wrong
"""


@pytest.mark.parametrize("example", ["tokens", "named"])
def test_tokens_and_several_inputs_are_an_example_of_the_users(flatbit, own, example):
    module = own(TOKENS)
    counted = totals(flatbit, f"{module}:Net", "--example", f"{module}:{example}")
    assert counted["macs"] == 7 * 4 * 3 + 2 * 7 * 7 * 4
    assert (counted["activation_macs"], counted["activation_bitops"]) == (2 * 7 * 7 * 4, 1024 * 2 * 7 * 7 * 4)
    assert counted["uncalled"] == ["unused"]
    assert "(1, 7) int64" in counted["of"]
    assert "Never called, counted as 0: unused" in flatbit("cost", f"{module}:Net", "--example", f"{module}:tokens").out


def test_mistakes_in_an_example_are_one_line(refuses, own):
    module = own(TOKENS)
    net = ("cost", f"{module}:Net")
    assert "example=... takes tokens" in refuses(*net)
    assert "leave one out" in refuses(*net, "--example", f"{module}:tokens", "--input-shape", "7")
    assert "is Tensor: expected a function" in refuses(*net, "--example", f"{module}:wrong")
    assert "does not take the input (1, 7) float32" in refuses(*net, "--example", f"{module}:floats")
    assert "has no 'token': did you mean tokens" in refuses(*net, "--example", f"{module}:token")


def test_a_file_is_counted_as_it_is(flatbit, tmp_path):
    model = fb.models.build("preresnet8")
    fb.quantize_(model, fb.policy("faq", weights=4, activations=4))
    fb.calibrate_(model, [torch.randn(2, 3, 8, 8)])
    fb.save(model, tmp_path / "net.safetensors")
    assert totals(flatbit, tmp_path / "net.safetensors")["bitops"] == fb.cost(model, (3, 32, 32)).bitops


@pytest.mark.usefixtures("no_page")
def test_a_run_is_counted_by_its_last_stage_or_the_one_that_is_named(flatbit, refuses, own):
    words = ("--model-arg", "first_width=2", "--smoke", "--out", "done")
    assert flatbit("run", "uniq-preresnet8-digits", *words).status == 0
    stages = read_run("done").record.stages
    shape = ("--input-shape", "1,8,8")
    assert totals(flatbit, "done", *shape)["bitops"] == stages["uniq-w2a2"].cost.bitops
    assert totals(flatbit, "done", *shape, "--stage", "float")["bitops"] == stages["float"].cost.bitops
    assert "to have 1 channels, but got 3 channels instead: --input-shape C,H,W says another" in refuses("cost", "done")
    assert "--model-arg and --checkpoint have no meaning for it" in refuses("cost", "done", "--model-arg", "width=2")


def test_what_a_file_names_is_imported_on_trust_only(flatbit, refuses, own, monkeypatch):
    module = own("from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7))\n")
    fb.save(fb.models.build(f"{module}:net"), "net.safetensors")
    monkeypatch.setattr("flatbit.models._imported", set())  # as in another process
    arguments = ("net.safetensors", "--input-shape", "3,2,2")
    assert f"wants to import and call '{module}:net'" in refuses("cost", *arguments)
    assert totals(flatbit, *arguments, "--trust")["macs"] == 84


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet21",), "unknown model 'resnet21': did you mean"),
        (("resnet_cifar",), "missing a required argument: 'depth'"),
        (("resnet8", "--model-arg", "wdith=2"), "has no argument 'wdith': did you mean width"),
        (("resnet8", "--model-arg", "width"), "--model-arg 'width': expected NAME=VALUE"),
        (("resnet8", "--input-shape", "3x32x32"), "--input-shape '3x32x32': expected whole numbers with commas"),
        (("resnet8", "--input-shape", "1,32,32"), "ResNetCifar does not take one image of shape (1, 32, 32)"),
        (("resnet8", "--input-shape", "1,32,32"), "--input-shape C,H,W says another"),
        (("resnet8", "--input-shape", "3,-1,32"), "does not take one image of shape (3, -1, 32)"),
        (("resnet8", "-w", "9"), "weights=9: expected 1 to 8 bits, or 32 for float"),
        (("resnet8", "-w", "0"), "weights=0: expected 1 to 8 bits"),
        (("resnet8", "-w", "40"), "weights=40: expected 1 to 8 bits"),
        (("resnet8", "-a", "-2"), "activations=-2: expected 1 to 8 bits"),
        (("resnet8", "-w", "2", "--policy", "unik"), "unknown policy 'unik': did you mean uniq"),
        (("resnet8", "-w", "1", "--policy", "faq"), "method 'faq' quantizes weights to 2-8 bits, got 1"),
        (("resnet8", "--policy", "faq"), "--policy faq without bits: give -w, -a or both"),
        (("resnet8", "--stage", "float"), "resnet8 is no run's folder: --stage has no meaning for it"),
        (("no.such.module:net",), "no module"),
        (("gone.safetensors",), "no such file: gone.safetensors"),
    ],
)
def test_mistakes_are_one_line(refuses, arguments, says):
    assert says in refuses("cost", *arguments)


def test_a_file_that_is_none(refuses, tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("not a model")
    assert "is not a safetensors file" in refuses("cost", path)


def test_a_quantized_file_is_not_quantized_again(refuses, tmp_path):
    model = fb.models.build("preresnet8")
    fb.quantize_(model, fb.policy("sqwa", weights=4))
    fb.calibrate_(model, [])
    fb.save(model, tmp_path / "net.safetensors")
    assert "is quantized already: -w and -a cannot act on it" in refuses("cost", tmp_path / "net.safetensors", "-w", 2)


def test_it_writes_bits_per_layer_as_recipes_take_them_and_keeps_what_is_there(flatbit, refuses, own):
    result = flatbit("cost", "preresnet8", "-w", 2, "-a", 3, "--policy", "dq", "--assignment", "new/bits.toml")
    assert (result.status, result.err) == (0, "written: new/bits.toml\n")
    model = fb.models.build("preresnet8")
    fb.quantize_(model, fb.policy("dq", weights=2, activations=3))
    path = Path("new/bits.toml")
    assert read_assignment(path) == fb.assignment(model)
    assert path.read_text().startswith("# bits of preresnet8: ")
    assert "is there already" in refuses("cost", "preresnet8", "-w", 2, "--assignment", str(path))
