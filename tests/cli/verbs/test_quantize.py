import json

import pytest
import torch

import flatbit as fb
from flatbit.data.sets.digits import load_digits
from flatbit.engine.record import read_run
from flatbit.quant.table import quantized_layers
from flatbit.reference import From
from flatbit.train.losses.teacher import Distillation

NETS = """
import torch.nn.functional as F
from torch import nn

def net(hidden=6):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 8), nn.ReLU(),
                         nn.Linear(8, 10))

class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1, 2)
        return self.head(self.attention(x, x, x)[0].flatten(1))

class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.middle, self.more = nn.Linear(8, 10), nn.Linear(8, 8), nn.Linear(8, 8)
        self.stem = nn.Linear(64, 8)

    def forward(self, x):
        return self.head(F.relu(self.more(F.relu(self.middle(F.relu(self.stem(x.flatten(1))))))))

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))

def nothing():
    return nn.Sequential(nn.AdaptiveMaxPool2d((2, 5)), nn.Flatten(), nn.BatchNorm1d(10))
"""
FAST = ("--epochs", 0, "-w", 2, "-a", 2)


@pytest.fixture
def nets(own):
    return own(NETS)


def stage(folder, name="fine-tuned"):
    return read_run(folder, trust=True).record.recipe.stage(name)


def test_a_network_of_the_users_from_its_checkpoint(flatbit, nets):
    torch.manual_seed(5)
    model = fb.models.build(f"{nets}:net", hidden=7)
    fb.save(model, "trained.safetensors")
    before = fb.evaluate(model, load_digits().test_batches())
    result = flatbit(
        "quantize", f"{nets}:net", "--model-arg", "hidden=7", "--checkpoint", "trained.safetensors", "--data", "digits",
        "--policy", "uniq", "-w", 2, "-a", 3, "--epochs", 1, "--batch-size", 64, "--out", "done", "--json",
    )  # fmt: skip
    assert result.status == 0
    reference, calibrated, tuned = json.loads(result.out)
    assert [row["stage"] for row in (reference, calibrated, tuned)] == ["float", "calibrated", "fine-tuned"]
    assert reference["score"] == before.top1
    assert (tuned["bits"], tuned["method"]) == ("W2/A3", "uniq")
    model = fb.load("done/model.safetensors")
    assert fb.evaluate(model, load_digits().test_batches()).top1 == tuned["score"]
    recipe = read_run("done").record.recipe
    assert (recipe.model, recipe.model_arguments) == (f"{nets}:net", {"hidden": 7})


def test_without_options_it_takes_four_bits_of_uniq(flatbit, nets, no_page):
    result = flatbit("quantize", f"{nets}:net", "--epochs", 1)
    assert result.status == 0, result.err
    made = stage(f"runs/quantize/{nets}.net-uniq-w4a4")
    assert (made.policy.name, made.policy.base.weights, made.policy.base.activations) == ("uniq", 4, 4)
    assert (made.epochs, made.lr, made.batch_size, made.strict) == (1, 0.01, 128, True)


def test_coverage_and_places_are_on_standard_error(flatbit, nets):
    result = flatbit("quantize", f"{nets}:net", *FAST)
    out = f"runs/quantize/{nets}.net-uniq-w2a2"
    assert result.status == 0
    assert "coverage" in result.err
    assert "100.0% of the weights quantized" in result.err
    assert f"no --checkpoint: {nets}:net was quantized with the weights it is built with" in result.err
    assert f"model: {out}/model.safetensors  report: {out}/report.html" in result.err
    assert "of the weights quantized" not in result.out
    assert f"{nets}:net on digits" in result.out
    assert fb.load(f"{out}/model.safetensors")


def test_a_finished_one_is_gone_on_with_only_if_asked(flatbit, refuses, nets, no_page, monkeypatch):
    first = flatbit("quantize", f"{nets}:net", *FAST, "--json")
    assert "holds a run already" in refuses("quantize", f"{nets}:net", *FAST)
    monkeypatch.setattr("flatbit.models._imported", set())  # as in another process
    again = flatbit("quantize", f"{nets}:net", *FAST, "--json", "--resume")
    assert (again.status, again.out) == (0, first.out)


def test_layers_that_cannot_be_are_refused_or_left_float(flatbit, nets, no_page):
    result = flatbit("quantize", f"{nets}:Attends", *FAST)
    assert (result.status, result.out) == (2, "")
    assert "cannot be quantized (strict=False leaves them in float and reports them" in result.err
    assert "attention" in result.err
    result = flatbit("quantize", f"{nets}:Attends", *FAST, "--no-strict", "--out", "loose")
    assert result.status == 0


def test_layers_are_edges_or_left_float_as_told(flatbit, nets, no_page):
    words = ("--first", "stem", "--last", "head", "--float", "mor*", "--out", "done")
    assert flatbit("quantize", f"{nets}:Backwards", *FAST, *words).status == 0
    layers = quantized_layers(fb.load("done/model.safetensors"))
    assert {name: int(layer.weight_quantizer.bits) for name, layer in layers} == {"head": 8, "middle": 2, "stem": 8}


def test_edges_that_are_wrong_are_found(flatbit, nets, no_page):
    result = flatbit("quantize", f"{nets}:net", *FAST, "--last", "3")
    assert (result.status, result.out) == (1, "")
    assert "layer '5' runs last, but the policy took '3' for it" in result.err
    assert "(--last 5)" in result.err


def test_activations_are_quantized_where_told(flatbit, nets, no_page):
    assert flatbit("quantize", f"{nets}:net", *FAST, "--placement", "output", "--out", "done").status == 0
    assert stage("done", "calibrated").policy.base.placement == "output"


def test_edges_and_image_have_the_bits_that_are_asked_for(flatbit, nets, no_page):
    words = ("--policy", "dorefa", "--first-last-bits", 8, "--image-bits", 6, "--out", "done")
    assert flatbit("quantize", f"{nets}:net", *FAST, *words).status == 0
    rules = {rule.pattern: rule.changes for rule in stage("done", "calibrated").policy.rules}
    assert (rules["@last"]["weights"], rules["@first"]["activations"]) == (8, 6)


@pytest.mark.parametrize(("kind", "weight"), [("mixed", 0.9), ("only", 1.0)])
def test_it_learns_from_its_float_net_if_asked(flatbit, nets, no_page, kind, weight):
    words = ("--epochs", 1, "--lr", 0.02, "--batch-size", 64, "--distill", kind, "--out", "done")
    assert flatbit("quantize", f"{nets}:net", *words).status == 0
    made = stage("done")
    (taught,) = [term for term in made.losses if isinstance(term, Distillation)]
    assert (taught.teacher, taught.weight) == (From.stage("float"), weight)
    assert (made.lr, made.batch_size) == (0.02, 64)


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("net", ("-w", 9), "weights=9: expected 1 to 8 bits, or 32 for float"),
        ("net", ("-w", 32, "-a", 32), "-w 32 -a 32 leaves all in float: give fewer bits with -w, -a or both"),
        ("net", ("--policy", "sqwa"), "method 'sqwa' does not quantize activations: -a 32 leaves them in float"),
        ("net", ("--set", "weights=2"), "--set weights=2 is -w 2 now"),
        ("net", ("--policy", "unik"), "unknown policy 'unik': did you mean uniq"),
        ("net", ("--policy", "faq", "-w", 1), "method 'faq' quantizes weights to 2-8 bits, got 1"),
        ("net", ("--data", "digit"), "unknown data set 'digit': did you mean digits"),
        ("net", ("--model-arg", "hiden=3"), "has no argument 'hiden': did you mean hidden"),
        ("net", ("--checkpoint", "gone.safetensors"), "no such file: gone.safetensors"),
        ("net", ("--rename", "a=b"), "--rename without --checkpoint cannot act"),
        ("net", ("--epochs", -1), "epochs=-1: expected 0 or more"),
        ("net", ("--batch-size", 0), "batch_size=0: expected 1 or more"),
        ("net", ("--epochs", 0, "--lr", 0.1), "--lr 0.1 cannot act: --epochs 0 trains nothing: leave it out"),
        ("net", ("--epochs", 0, "--distill", "only"), "distillation cannot act: training.epochs=0 only calibrates"),
        ("net", ("--distill", "some"), "--distill some: expected none, mixed, only"),
        ("net", ("--placement", "middle"), "layers.placement='middle': expected input or output"),
        ("net", ("--first-last-bits", 9), "first_last_bits=9: expected 1 to 8 bits, or 32 for float"),
        ("net", ("-a", 32, "--image-bits", 8), "image_bits=8 cannot act: activations are float"),
        ("net", ("--first", "nowhere"), "nowhere"),
        ("nett", (), "has no 'nett': did you mean net"),
        ("nothing", ("--epochs", 0), "finds nothing to quantize in Sequential"),
        ("few", ("--epochs", 0), "Sequential has 4 outputs: it was built for another data set"),
    ],
)
def test_mistakes_are_one_line(refuses, nets, model, arguments, says):
    assert says in refuses("quantize", f"{nets}:{model}", *arguments)


def test_a_module_that_is_not_there_is_one_line(refuses, own):
    assert "no module 'no_such_nets'" in refuses("quantize", "no_such_nets:net")


def test_a_checkpoint_of_another_network_is_one_line(refuses, nets):
    fb.save(fb.models.build("fcdnn"), "other.safetensors")
    arguments = ("quantize", f"{nets}:net", "--checkpoint", "other.safetensors")
    assert "is the checkpoint of another model than Sequential" in refuses(*arguments)
