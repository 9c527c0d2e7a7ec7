import json
from pathlib import Path

import pytest
import torch

import flatbit as fb
from flatbit.data.sets.digits import load_digits
from flatbit.engine.record import read_run
from flatbit.quant.table import quantized_layers
from flatbit.reference import From
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import Adam
from flatbit.train.schedules import MultiStep

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
    (kept,) = [row for row in (calibrated, tuned) if row["kept"]]
    assert fb.evaluate(model, load_digits().test_batches()).top1 == kept["score"]
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
    said = f"no --checkpoint: {nets}:net is quantized with the weights it is built with"
    assert 0 <= result.err.find(said) < result.err.find("float: top-1")  # before anything is trained
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
    assert "cannot be quantized (--no-strict leaves them in float and reports them, --float NAME" in result.err
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
        ("net", ("-w", 9), "flatbit: -w 9: expected 1 to 8 bits, or 32 for float"),
        ("net", ("-w", 32, "-a", 32), "-w 32 -a 32 leaves all in float: give fewer bits with -w, -a or both"),
        (
            "net",
            ("--policy", "sqwa"),
            "give --activation-method NAME, or -a 32, which leaves them in float",
        ),
        ("net", ("--set", "weights=2"), "--set weights=2 is -w 2 now"),
        ("net", ("--policy", "unik"), "unknown policy 'unik': did you mean uniq"),
        ("net", ("--policy", "faq", "-w", 1), "method 'faq' quantizes weights to 2-8 bits, got 1"),
        ("net", ("--data", "digit"), "unknown data set 'digit': did you mean digits"),
        ("net", ("--model-arg", "hiden=3"), "has no argument 'hiden': did you mean hidden"),
        ("net", ("--checkpoint", "gone.safetensors"), "no such file: gone.safetensors"),
        ("net", ("--rename", "a=b"), "--rename without --checkpoint cannot act"),
        ("net", ("--epochs", -1), "--epochs -1: expected 0 or more"),
        ("net", ("--batch-size", 0), "--batch-size 0: expected 1 or more"),
        ("net", ("--epochs", 0, "--lr", 0.1), "--lr 0.1 cannot act: --epochs 0 trains nothing: leave it out"),
        ("net", ("--epochs", 0, "--distill", "only"), "--distill only cannot act: --epochs 0 trains nothing"),
        ("net", ("--distill", "some"), "--distill some: expected none, mixed, only"),
        ("net", ("--placement", "middle"), "flatbit: --placement middle: expected input or output"),
        ("net", ("--first-last-bits", 9), "--first-last-bits 9: expected 1 to 8 bits, or 32 for float"),
        ("net", ("-a", 32, "--image-bits", 8), "flatbit: --image-bits 8 cannot act: activations are float"),
        ("net", ("--policy", "xnor"), "method 'xnor' quantizes weights to 1 bit, got 4"),
        ("net", ("--weight-decay", -1), "--weight-decay -1.0: expected 0 or more"),
        ("net", ("--optimizer", "adan"), "unknown optimizer 'adan': did you mean adam"),
        ("net", ("--schedule", "exponential"), "--schedule lacks decay"),
        ("net", ("--epochs", 0, "--schedule", "constant"), "--schedule constant cannot act: --epochs 0 trains nothing"),
        ("net", ("--granularity", "row"), "flatbit: --granularity row: expected tensor or channel"),
        ("net", ("-w", 32, "--granularity", "channel"), "float: leave it out, or give -w (--override takes it too"),
        ("net", ("--activation-method", "lsk"), "unknown quantization method 'lsk': did you mean lsq"),
        ("net", ("--limit-test", 0), "--limit-test 0: expected 1 or more"),
        ("net", ("--limit-test", 450), "--limit-test 450: expected fewer than the 450 test samples"),
        ("net", ("--override", "layer4.*"), "--override 'layer4.*': expected LAYERS: NAME=VALUE"),
        ("net", ("--override", "1: weights=9"), "--override '1': weights=9: expected 1 to 8 bits"),
        ("net", ("--override", "1: weight=9"), "unknown setting 'weight': did you mean weights"),
        ("net", ("--override", "9: weights=2", "--epochs", 0), "no layer matches '9'"),
        ("net", ("--resume", "--overwrite"), "--resume with --overwrite cannot act"),
        ("net", ("--first", "nowhere"), "nowhere"),
        ("nett", (), "has no 'nett': did you mean net"),
        ("nothing", ("--epochs", 0), "finds nothing to quantize in Sequential"),
        ("few", ("--epochs", 0), "Sequential has 4 outputs: it was built for another data set"),
    ],
)
def test_mistakes_are_one_line(refuses, nets, model, arguments, says):
    assert says in refuses("quantize", f"{nets}:{model}", *arguments)


def trained_weights(nets):
    """A float net that knows the digits, in a file."""
    torch.manual_seed(0)
    data, model = load_digits(), fb.models.build(f"{nets}:net", hidden=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(8):
        for x, y in data.train_batches(64, seed=epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    fb.save(model, "trained.safetensors")
    return ("--model-arg", "hidden=32", "--checkpoint", "trained.safetensors", "--out", "done", "--json")


def test_a_net_that_training_makes_worse_is_not_kept(flatbit, nets, no_page):
    words = trained_weights(nets)
    result = flatbit("quantize", f"{nets}:net", *words, "-w", 8, "-a", 8, "--epochs", 1, "--lr", 0.3, "--policy", "faq")
    assert result.status == 0, result.err
    _, calibrated, tuned = json.loads(result.out)
    assert tuned["held_out"] < calibrated["held_out"]
    assert (calibrated["kept"], tuned["kept"]) == (True, False)
    assert "the net of calibrated is kept as model.safetensors" in result.err
    kept = fb.evaluate(fb.load("done/model.safetensors"), load_digits().test_batches())
    assert kept.top1 == calibrated["score"] > tuned["score"]
    assert read_run("done", trust=True).record.kept == "calibrated"


def test_a_net_that_training_makes_better_is_kept(flatbit, nets, no_page):
    result = flatbit("quantize", f"{nets}:net", *trained_weights(nets), "-w", 2, "-a", 2, "--epochs", 2)
    _, calibrated, tuned = json.loads(result.out)
    assert tuned["held_out"] > calibrated["held_out"]
    assert (calibrated["kept"], tuned["kept"]) == (False, True)
    assert " is kept as " not in result.err
    assert read_run("done", trust=True).record.kept is None


def test_it_goes_on_from_the_calibrated_net_and_never_trains_on_held_out_images(flatbit, nets, no_page):
    assert flatbit("quantize", f"{nets}:net", "--epochs", 1, "--out", "done").status == 0
    record = read_run("done", trust=True).record
    assert record.recipe.stage("fine-tuned").start == From.stage("calibrated")
    assert record.recipe.splits.held_out == 1347 // 5
    (epoch,) = record.stages["fine-tuned"].epochs
    assert epoch.test_top1 is None
    assert epoch.held_out == record.stages["fine-tuned"].held_out


def test_the_test_set_is_read_once_per_net(flatbit, nets, no_page, monkeypatch):
    words, scored = trained_weights(nets), []

    def counted(model, batches, **settings):
        scored.append(batches.num_samples)
        return fb.evaluate(model, batches, **settings)

    for module in ("execution", "measuring", "stage"):
        monkeypatch.setattr(f"flatbit.engine.{module}.evaluate", counted)
    assert flatbit("quantize", f"{nets}:net", *words, "--epochs", 3).status == 0
    assert scored.count(450) == 3  # float, calibrated, fine-tuned
    assert set(scored) == {450, 269}


def test_statistics_that_held_out_images_score_less_with_are_taken_back(flatbit, nets, no_page, monkeypatch):
    def spoiled(model, batches, count):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.fill_(100)
        return count

    monkeypatch.setattr("flatbit.engine.measuring.reestimate_batchnorm_", spoiled)
    words = ("preresnet8", "--model-arg", "first_width=4", "--epochs", 0, "--overwrite", "--out")
    assert flatbit("quantize", *words, "with").status == 0
    (change,) = read_run("with").record.stages["calibrated"].batchnorm
    assert change.after < change.before
    assert (change.held_out, change.undone) == (True, True)
    assert flatbit("quantize", *words, "without", "--no-reestimate").status == 0
    assert read_run("without").record.stages["calibrated"].batchnorm == ()
    one, other = (fb.load(f"{name}/model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(*pair) for pair in zip(one.buffers(), other.buffers(), strict=True))


def test_fewer_test_images_are_said_with_the_result(flatbit, nets, no_page):
    result = flatbit("quantize", f"{nets}:net", *FAST, "--limit-test", 100, "--out", "done")
    assert result.status == 0
    assert "100 of its test images alone" in result.out
    assert read_run("done").record.stages["calibrated"].test.num_samples == 100
    rows = json.loads(flatbit("quantize", f"{nets}:net", *FAST, "--limit-test", 100, "--out", "d", "--json").out)
    assert [row["test_images"] for row in rows] == [100, 100]


def test_settings_of_training_and_layers_reach_the_recipe(flatbit, nets, no_page):
    words = ("--optimizer", "adam", "--weight-decay", 0.5, "--schedule", '{"kind": "multistep", "milestones": [1]}')
    layers = (
        "--activation-method",
        "lsq",
        "--override",
        "3: weights=8, activations=7",
        "--override",
        "@last: weights=6",
    )
    result = flatbit("quantize", f"{nets}:net", "--epochs", 1, "--policy", "saq", *words, *layers, "--out", "done")
    assert result.status == 0, result.err
    made = stage("done")
    assert (made.optimizer, made.weight_decay, made.schedule) == (Adam(), 0.5, MultiStep((1,)))
    assert made.policy.base.activation_method == "lsq"
    layers = dict(quantized_layers(fb.load("done/model.safetensors")))
    assert {name: int(layer.weight_quantizer.bits) for name, layer in layers.items()} == {"1": 8, "3": 8, "5": 6}
    assert int(layers["3"].input_quantizer.bits) == 7
    assert flatbit("quantize", f"{nets}:net", *FAST, "--granularity", "channel", "--out", "fine").status == 0
    assert stage("fine", "calibrated").policy.base.granularity == "channel"


def test_one_bit_starts_from_two_bits_where_the_method_has_both(flatbit, nets, no_page):
    assert flatbit("quantize", f"{nets}:net", "-w", 1, "-a", 1, "--epochs", 1, "--out", "done").status == 0
    recipe = read_run("done", trust=True).record.recipe
    assert [each.name for each in recipe.stages] == ["float", "calibrated", "fine-tuned-w2a2", "fine-tuned"]
    assert recipe.stage("fine-tuned").start == From.stage("fine-tuned-w2a2")


def test_a_run_is_replaced_if_asked_and_other_files_stay(flatbit, nets, no_page):
    Path("done").mkdir()
    Path("done/notes.txt").write_text("mine")
    for bits in (2, 3):
        words = ("--epochs", 0, "-w", bits, "-a", 2, "--out", "done", "--overwrite")
        assert flatbit("quantize", f"{nets}:net", *words).status == 0
    assert stage("done", "calibrated").policy.base.weights == 3
    assert Path("done/notes.txt").read_text() == "mine"


def test_each_epoch_is_a_line_unless_quiet(flatbit, nets, no_page):
    words = ("quantize", f"{nets}:net", "--epochs", 2, "--overwrite", "--out", "done")
    lines = [line for line in flatbit(*words).err.splitlines() if ": epoch " in line]
    assert [line.split(":")[1].split(" of")[0] for line in lines] == [" epoch 1", " epoch 2"]
    assert all(word in lines[0] for word in ("loss ", "% on held-out images", "images/s", " left"))
    quiet = flatbit(*words, "--quiet")
    assert (quiet.status, quiet.err) == (0, "")
    assert "fine-tuned" in quiet.out


def test_a_module_that_is_not_there_is_one_line(refuses, own):
    assert "no module 'no_such_nets'" in refuses("quantize", "no_such_nets:net")


def test_a_checkpoint_of_another_network_is_one_line(refuses, nets):
    fb.save(fb.models.build("fcdnn"), "other.safetensors")
    arguments = ("quantize", f"{nets}:net", "--checkpoint", "other.safetensors")
    assert "is the checkpoint of another model than Sequential" in refuses(*arguments)
