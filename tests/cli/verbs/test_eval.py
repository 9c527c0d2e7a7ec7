import json
from dataclasses import replace

import pytest
import torch

import flatbit as fb
from flatbit.data.sets.digits import load_digits
from flatbit.engine import plan, run
from flatbit.engine.record import read_run, write_record
from flatbit.recipes import RECIPES, Network

NETS = """
from torch import nn

def net(hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
"""


KERNEL = """
import torch
from torch import nn
from flatbit.quant.layers import apply_slot
from flatbit.quant.table import INPUT, Row, Slot, add_layer, linear_macs

class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_features, self.kernel = 64, nn.Parameter(torch.randn(10, 64))

    def forward(self, x):
        return x @ self.kernel.T

class QKernel(Kernel):
    def forward(self, x):
        return apply_slot(self, "input", x) @ apply_slot(self, "kernel", self.kernel).T

add_layer(Kernel, Row(QKernel, "linear", (INPUT, Slot("kernel", "weight")), linear_macs))

def net():
    return nn.Sequential(nn.Flatten(), Kernel())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    name = "uniq-preresnet8-digits"
    recipe = RECIPES.get(name).recipe(name, {}, Network(arguments={"first_width": 2}))
    return run(plan(recipe, smoke=True), tmp_path_factory.mktemp("run") / "run").folder


def scored(flatbit, *arguments):
    result = flatbit("eval", *arguments, "--json")
    assert result.status == 0, result
    return json.loads(result.out)


def test_a_run_is_scored_by_its_last_stage(flatbit, folder):
    test, expected = scored(flatbit, folder), read_run(folder).record.stages["uniq-w2a2"].test.as_dict()
    assert test.pop("loss") == pytest.approx(expected.pop("loss"))
    assert test == expected


def test_or_by_the_stage_that_is_asked_for(flatbit, folder):
    test = scored(flatbit, folder, "--stage", "float")
    assert test["convention"]["policy"] == "float"
    assert test["top1"] == read_run(folder).record.stages["float"].test.top1


def test_a_file_is_scored_on_the_set_that_is_named(flatbit, folder):
    assert scored(flatbit, folder / "model.safetensors", "--data", "digits") == scored(flatbit, folder)


def test_a_network_of_the_users_with_its_weights(flatbit, own, tmp_path):
    module = own(NETS)
    model = fb.models.build(f"{module}:net", hidden=6)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    fb.calibrate_(model, load_digits().train_batches(64, seed=0), 2)
    torch.save(model.state_dict(), "weights.pt")  # not what is asked for
    fb.save(model, "weights.safetensors")
    expected = fb.evaluate(model, load_digits().test_batches())
    arguments = (f"{module}:net", "--model-arg", "hidden=6", "--checkpoint", "weights.safetensors", "--data", "digits")
    test = scored(flatbit, *arguments)
    assert (test["top1"], test["proof"]) == (expected.top1, expected.as_dict()["proof"])


RUN = """
from flatbit.data.sets.digits import load_digits
from flatbit.engine.recipe import Recipe, Stage

def recipe(*, data="digits"):
    stages = (Stage(name="float", epochs=0),)
    return Recipe(name="mine", model=f"{__name__}:net", data=data, stages=stages)
"""


def other_process(monkeypatch):
    """What a process that has built nothing yet believes."""
    monkeypatch.setattr("flatbit.models._imported", set())


@pytest.mark.parametrize("which", [".", "model.safetensors"])
def test_what_a_run_or_file_names_is_imported_on_trust_only(flatbit, refuses, own, monkeypatch, which):
    module = own(NETS + RUN)
    assert flatbit("run", f"{module}.py", "--out", "done").status == 0
    other_process(monkeypatch)
    arguments = (f"done/{which}", "--data", "digits")
    assert f"wants to import and call '{module}:net'" in refuses("eval", *arguments)
    assert scored(flatbit, *arguments, "--trust")["convention"]["policy"] == "float"


def test_so_is_the_data_that_a_run_names(flatbit, refuses, own):
    module = own(NETS + RUN)
    assert flatbit("run", f"{module}.py", "--out", "done", "--set", f"data={module}:load_digits").status == 0
    assert f"wants to import its data from '{module}:load_digits'" in refuses("eval", "done")
    expected = scored(flatbit, "done", "--data", f"{module}:load_digits")
    assert scored(flatbit, "done", "--trust") == expected


def test_the_table_says_numbers_levels_and_convention(flatbit, folder):
    result = flatbit("eval", folder)
    test = scored(flatbit, folder)
    assert (result.status, result.err) == (0, "")
    words = " ".join(result.out.split())
    for text in (f"{test['top1']:.2f}", f"{test['loss']:.4f}", "450", "4/4", "uniq: W2/A2, first W8/A8"):
        assert text in words


def test_a_float_model_has_no_levels(flatbit, folder):
    line = flatbit("eval", folder, "--stage", "float").out.splitlines()[-3]
    assert "float" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "'nowhere' is no run, no .safetensors file, and --checkpoint is not given"),
        (("resnet8", "--checkpoint", "gone.safetensors", "--data", "digits"), "no such file: gone.safetensors"),
        (("gone.safetensors", "--data", "digits"), "no such file: gone.safetensors"),
        ((".",), "no run in .: it has no run.json"),
        (("resnet21", "--checkpoint", "x.safetensors"), "no such file: x.safetensors"),
        (("resnet21", "--checkpoint", __file__), "unknown model 'resnet21': did you mean"),
        (("x.safetensors", "--rename", "a=b"), "--rename without --checkpoint cannot act"),
        (("x.safetensors", "--data-arg", "size"), "no such file"),
        (("x.safetensors", "--model-arg", "width=2"), "--model-arg and --checkpoint have no meaning for it"),
    ],
)
def test_mistakes_are_one_line(refuses, own, arguments, says):
    own("")
    assert says in refuses("eval", *arguments)


def test_mistakes_about_a_run_are_one_line(refuses, folder, tmp_path):
    assert "has no finished stage 'unik': it has float, uniq-w2a2" in refuses("eval", folder, "--stage", "unik")
    assert "unknown data set 'digit': did you mean digits" in refuses("eval", folder, "--data", "digit")
    assert "--data is not given" in refuses("eval", folder / "model.safetensors")
    (tmp_path / "run.json").write_text((folder / "run.json").read_text())
    line = refuses("eval", tmp_path)
    assert line.endswith("is not finished (its stages so far: float, uniq-w2a2): --resume it, or name a --stage")
    write_record(tmp_path, replace(read_run(folder).record, stages={}))
    assert refuses("eval", tmp_path).endswith("is not finished (its stages so far: none): --resume it")


def test_the_checkpoint_of_another_model_is_one_line(refuses, folder):
    arguments = ("resnet8", "--checkpoint", folder / "model.safetensors", "--data", "digits")
    assert "is the checkpoint of another model than ResNetCifar" in refuses("eval", *arguments)


def test_a_file_that_is_none_is_one_line(refuses, tmp_path):
    (tmp_path / "model.safetensors").write_text("not a model")
    assert "is not a safetensors file" in refuses("eval", tmp_path / "model.safetensors", "--data", "digits")


def test_more_classes_than_outputs_is_one_line(refuses, tmp_path):
    fb.save(fb.models.build("preresnet8", in_channels=1, num_classes=4), tmp_path / "few.safetensors")
    assert "has 4 outputs" in refuses("eval", tmp_path / "few.safetensors", "--data", "digits")


def test_weights_that_are_not_finite_get_no_number(flatbit, refuses, folder, tmp_path):
    model = fb.load(folder / "stages" / "float.safetensors")
    model.fc.weight.data[0, 0] = float("nan")
    fb.save(model, tmp_path / "nan.safetensors")
    assert "the logits are NaN or infinite" in refuses("eval", tmp_path / "nan.safetensors", "--data", "digits")
    model = fb.load(folder / "model.safetensors")
    model.fc.weight.data[0, 0] = float("nan")
    fb.save(model, tmp_path / "nan.safetensors")
    result = flatbit("eval", tmp_path / "nan.safetensors", "--data", "digits")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("flatbit: weight of layer 'fc' is NaN or infinite")


def test_layers_of_a_third_party_checkpoint_are_renamed(flatbit, own):
    model = fb.models.build("preresnet8", in_channels=1, first_width=2)
    other = {name.replace("layers.", "stages."): tensor for name, tensor in model.state_dict().items()}
    torch.save(other, "third.pth")
    arguments = ("--model-arg", "in_channels=1", "--model-arg", "first_width=2", "--data", "digits")
    result = flatbit(
        "eval", "preresnet8", *arguments, "--checkpoint", "third.pth", "--rename", "stages=layers", "--json"
    )
    assert result.status == 0, result.err
    assert "third.pth: mapped" in result.err
    assert json.loads(result.out)["top1"] == fb.evaluate(model, load_digits().test_batches()).top1


@pytest.mark.filterwarnings("ignore:data set 'image_folder'. left out")
def test_what_is_left_out_is_counted_and_listed(flatbit, refuses, own, tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (40, 40), (90, 40, 10)).save(folder / f"{index}.png")
    (tmp_path / "images/val/cat/2.png").write_bytes(b"not a picture")
    fb.save(fb.models.build("resnet8", first_width=2), tmp_path / "m.safetensors")
    arguments = (tmp_path / "m.safetensors", "--data", "image_folder", "--data-dir", tmp_path / "images")
    small = ("--data-arg", "size=32", "--data-arg", "resize=36", "--data-arg", "workers=0")
    assert "cat/2.png" in refuses("eval", *arguments, *small)
    result = flatbit("eval", *arguments, *small, "--skip-bad", "--json")
    assert json.loads(result.out)["num_samples"] == 4
    assert "left out: " in result.err
    assert "cat/2.png" in result.err


def test_segmentation_is_shown_by_miou(flatbit, own, tmp_path):
    module = own("from tests.recipes.cases import scenes\n")
    fb.save(fb.models.build("deeplab_mobilenet_v2", num_classes=2, width=0.3), tmp_path / "m.safetensors")
    result = flatbit("eval", tmp_path / "m.safetensors", "--data", f"{module}:scenes")
    assert "mIoU %" in result.out
    assert "pixels right %" in result.out


def test_levels_of_weights_by_any_name(flatbit, own):
    module = own(KERNEL)
    model = fb.models.build(f"{module}:net")
    fb.quantize_(model, fb.policy("lsq", weights=4, activations=4).override("1", weights=2))
    fb.calibrate_(model, load_digits().train_batches(64, seed=0), 2)
    fb.save(model, "kernel.safetensors")
    said = flatbit("eval", f"{module}:net", "--checkpoint", "kernel.safetensors", "--data", "digits").out
    assert "4/4" in said
    assert "float" not in said.splitlines()[4]
