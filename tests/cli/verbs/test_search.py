import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import flatbit as fb
from flatbit.cli.verbs import search as verb
from flatbit.data.sets.digits import load_digits
from flatbit.engine.record import read_run
from flatbit.search.alternation import Search
from flatbit.search.assignment_file import read_assignment
from flatbit.search.costs import Prices
from flatbit.search.sensitivity import Sensitivity
from flatbit.search.space import space_of

MODEL = ("preresnet8", "--model-arg", "first_width=2", "--data", "digits", "--widths", "2,3,4")
SHORT = ("--epochs", 0, "--out", "out")
SAMQ = (*MODEL, "--method", "samq", "--budget", "3bits", "--search-epochs", 2, *SHORT)


@pytest.fixture
def small(monkeypatch):
    """Batches of 320 images, and any assignment below the budget: searches of seconds."""
    made = verb.Samq
    monkeypatch.setattr(verb, "Samq", lambda **given: made(**given, batch_size=320, window=0.5, accepted=3))
    monkeypatch.setattr(verb, "training_images", _few(verb.training_images))


def _few(images):
    return lambda searched, samples=64: images(searched, samples)


@pytest.fixture
def weights(own):
    """Float weights in a file, so that a search and its fine-tuned nets begin alike."""
    torch.manual_seed(1)
    fb.save(float_net(), "float.safetensors")
    return ("--checkpoint", "float.safetensors")


def float_net():
    return fb.models.build("preresnet8", first_width=2, in_channels=1, num_classes=10)


def priced():
    model = float_net()
    fb.quantize_(model, fb.policy("saq", weights=4, activations=4))
    space = space_of(model, (2, 3, 4))
    return space, Prices.of(model, space, (1, 8, 8))


def of_choices(path):
    """An assignment of layers as one of choices: both bits alike, and alike in all layers of a choice."""
    space, _ = priced()
    found = read_assignment(Path(path))
    assert found == space.assignment({choice.name: found[choice.name][0] for choice in space.choices})
    return {choice.name: found[choice.name][0] for choice in space.choices}


@pytest.mark.usefixtures("small")
def test_the_exact_way_leaves_the_optimum_beside_the_uniform_net(flatbit, weights):
    result = flatbit("search", *MODEL, *weights, "--budget", "3bits", *SHORT, "--json")
    assert result.status == 0, result.err
    space, prices = priced()
    bits = of_choices("out/assignment.toml")
    limit = prices.total(space.uniform(3))
    loss = Sensitivity.load(Path("out/sensitivity-loss.json")).values
    inside = [
        sum(loss[name][width] for name, width in zip(loss, widths, strict=True))
        for widths in product((2, 3, 4), repeat=len(loss))
        if prices.total(dict(zip(loss, widths, strict=True))).bitops <= limit.bitops
    ]
    assert sum(loss[name][width] for name, width in bits.items()) == pytest.approx(min(inside))
    chosen, uniform = json.loads(result.out)
    assert (chosen["net"], uniform["net"]) == ("ilp", "uniform 3")
    assert (chosen["bitops"], chosen["bytes"]) == (prices.total(bits).bitops, prices.total(bits).size_bytes)
    assert (uniform["bitops"], uniform["bytes"]) == (limit.bitops, limit.size_bytes)
    assert of_choices("out/uniform.toml") == space.uniform(3)
    assert json.loads(Path("out/search.json").read_text()) == {
        "method": "ilp", "budget": "3bits", "nets": [chosen, uniform],
    }  # fmt: skip
    for name in ("bits.png", "frontier.png"):
        assert Path("out", name).read_bytes().startswith(b"\x89PNG")
    assert "ilp: loss" in result.err
    assert "proven (gap 0)" in result.err


@pytest.mark.usefixtures("small")
def test_the_nets_are_runs_with_these_bits_from_the_same_weights(flatbit, weights):
    assert flatbit("search", *MODEL, *weights, "--budget", "3bits", *SHORT).status == 0
    before = fb.evaluate(loaded(), load_digits().test_batches()).top1
    for row in json.loads(Path("out/search.json").read_text())["nets"]:
        run = read_run(row["run"])
        assert [*run.record.stages] == ["float", "calibrated"]
        assert row["float"] == run.record.stages["float"].score == before
        assert row["score"] == row["calibrated"] == run.record.stages["calibrated"].score
        model = fb.load(Path(row["run"]) / "model.safetensors")
        file = "out/assignment.toml" if row["net"] == "ilp" else "out/uniform.toml"
        expected = read_assignment(Path(file))
        assert {name: fb.assignment(model)[name] for name in expected} == expected
        assert fb.cost(model, (1, 8, 8)).bitops == row["bitops"]
        assert fb.evaluate(model, load_digits().test_batches()).top1 == row["score"]


def loaded():
    model = float_net()
    fb.load_(model, "float.safetensors")
    return model


@pytest.mark.usefixtures("small")
def test_bytes_and_both_are_budgets_of_the_exact_way(flatbit, weights):
    space, prices = priced()
    size, spent = prices.total(space.uniform(3)).size_bytes, prices.total(space.uniform(3)).bitops
    words = ("--budget", f"{size}bytes,{spent}bitops", "--measure", "noise")
    result = flatbit("search", *MODEL, *weights, *words, *SHORT, "--json")
    assert result.status == 0, result.err
    chosen, _ = json.loads(result.out)
    assert chosen["bytes"] <= size
    assert chosen["bitops"] <= spent
    assert Path("out/sensitivity-noise.json").is_file()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["ilp", "samq"])
def test_a_fixed_layer_keeps_its_width_in_every_net(flatbit, weights, small, method):
    words = ("--method", method, "--search-epochs", 2) if method == "samq" else ()
    fixed = ("--fixed", "layers.0.0.conv1=4", "--fixed", "layers.1.0.shortcut=2")
    result = flatbit("search", *MODEL, *weights, *words, *fixed, "--budget", "3bits", *SHORT)
    assert result.status == 0, result.err
    nets = {name: of_choices(f"out/{name}.toml") for name in ("assignment", "uniform")}
    for bits in nets.values():
        assert (bits["layers.0.0.conv1"], bits["layers.1.0.conv2"]) == (4, 2)
    assert {bits for name, bits in nets["uniform"].items() if name not in ("layers.0.0.conv1", "layers.1.0.conv2")} == {
        3
    }


def test_a_search_is_gone_on_with_only_if_asked(flatbit, refuses, weights, monkeypatch):
    words = ("search", *MODEL, *weights, "--budget", "3bits", *SHORT)
    first = flatbit(*words, "--json")
    assert first.status == 0, first.err
    assert "out holds a search already: --resume goes on with it" in refuses(*words)
    monkeypatch.setattr(verb, "sensitivity", lambda *a, **k: pytest.fail("measured twice"))
    again = flatbit(*words, "--json", "--resume")
    assert (again.status, again.out) == (0, first.out)


@pytest.mark.usefixtures("small")
def test_what_an_interrupted_search_measured_is_another_searches_only_if_asked(flatbit, weights, monkeypatch):
    words = ("search", *MODEL, *weights, "--budget", "3bits", *SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(verb, "allocate", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert flatbit(*words).status == 130
    path = Path("out/sensitivity-loss.json")
    made = path.read_text()
    path.write_text(made.replace('"num_samples": 64', '"num_samples": 65'))
    assert flatbit(*words, "--measure", "loss").status == 0
    assert Sensitivity.load(path).num_samples == 64


@pytest.mark.usefixtures("small")
def test_samq_leaves_an_assignment_inside_the_window(flatbit, weights):
    result = flatbit("search", *SAMQ, *weights, "--json")
    assert result.status == 0, result.err
    space, prices = priced()
    target, spent = prices.total(space.uniform(3)).bitops, prices.total(of_choices("out/assignment.toml")).bitops
    assert 0.5 * target <= spent <= target
    chosen, uniform = json.loads(result.out)
    assert (chosen["net"], chosen["bitops"], uniform["net"]) == ("samq", spent, "uniform 3")
    found = json.loads(Path("out/samq.json").read_text())
    assert found["best"]["bits"] == of_choices("out/assignment.toml")
    assert len(found["epochs"]) == 2
    assert "samq: best of " in result.err
    assert "search, epoch 2: loss " in result.err
    assert not Path("out/frontier.png").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rho", [0, 0.4])
def test_samq_killed_and_gone_on_with_finds_the_same(flatbit, weights, monkeypatch, rho):
    words = ("search", *SAMQ, *weights, "--rho", rho)
    whole = flatbit(*(word if word != "out" else "whole" for word in words))
    assert whole.status == 0, whole.err
    real = Search._epoch

    def epoch(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return real(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_epoch", epoch)
        stopped = flatbit(*words)
    assert stopped.status == 130
    assert not Path("out/assignment.toml").exists()
    again = flatbit(*words, "--resume")
    assert again.status == 0, again.err
    assert "search: going on after epoch 1" in again.err
    assert Path("out/samq.json").read_text() == Path("whole/samq.json").read_text()
    assert Path("out/assignment.toml").read_text() == Path("whole/assignment.toml").read_text()


@pytest.mark.usefixtures("small")
def test_a_search_of_other_settings_is_not_gone_on_with(flatbit, refuses, weights, monkeypatch):
    monkeypatch.setattr(verb, "_leave", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    assert flatbit("search", *SAMQ, *weights).status == 130
    line = flatbit("search", *SAMQ, *weights, "--rho", 0.1, "--resume")
    assert line.status == 2
    assert "the search that is there has another settings" in line.err


@pytest.mark.usefixtures("small")
def test_an_assignment_may_be_changed_and_taken_by_a_recipe(flatbit, weights):
    assert flatbit("search", *MODEL, *weights, "--budget", "3bits", *SHORT).status == 0
    text = Path("out/assignment.toml").read_text()
    Path("mine.toml").write_text(text.replace('"layers.0.0.conv1" = [', '"layers.0.0.conv1" = [5, 5] # '))
    result = flatbit(
        "run", "finetune", "--model", "preresnet8", "--model-arg", "first_width=2", "--data", "digits",
        *weights, "--set", "policy=saq", "--set", "layers.assignment=mine.toml", "--set", "training.epochs=0",
        "--out", "tuned",
    )  # fmt: skip
    assert result.status == 0, result.err
    assert fb.assignment(fb.load("tuned/model.safetensors"))["layers.0.0.conv1"] == (5, 5)


def test_where_no_uniform_net_is_inside_there_is_none_beside():
    prices = SimpleNamespace(total=lambda bits: bits)
    space = SimpleNamespace(widths=(2, 3, 4), uniform=lambda bits: bits)
    searched = SimpleNamespace(prices=prices, space=space)
    for most, expected in [(9, (4, 4)), (3, (3, 3)), (1, None)]:
        assert verb._uniform(searched, SimpleNamespace(holds=lambda bits, most=most: bits <= most)) == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--budget", "3bits", "--method", "sam"), "--method sam: expected ilp or samq"),
        (("--budget", "392"), "--budget 392: '392': expected as 392M-bitops, 60kB, 3bits"),
        (("--budget", "5bits"), "--budget 5bits: a uniform net has 2 or 3 or 4 bits here"),
        (("--budget", "1bitops"), "a budget of 1 bit-operations: this net takes"),
        (("--budget", "1B"), "a budget of 1 bytes: this net takes"),
        (("--budget", "1MB", "--method", "samq"), "--method samq aims at bit-operations"),
        (("--budget", "3bits", "--measure", "los"), "unknown measure 'los': did you mean loss"),
        (
            ("--budget", "3bits", "--fixed", "layers.0.0.conv1=9"),
            "--fixed layers.0.0.conv1=9: expected bits from 1 to 8",
        ),
        (("--budget", "3bits", "--fixed", "layers.0.0.conv=4"), "fixed layer 'layers.0.0.conv' is none that chooses"),
        (("--budget", "3bits", "--fixed", "conv1"), "--fixed 'conv1': expected NAME=VALUE"),
        (("--budget", "3bits", "--policy", "faq"), "is quantized where it is made"),
        (("--budget", "3bits", "--method", "samq", "--held-out", 0), "held_out: count=0: expected 1 to"),
        (("--budget", "3bits", "--method", "samq", "--held-out", 1), "expected 1 to"),
        (("--budget", "3bits", "--checkpoint", "gone.safetensors"), "gone.safetensors"),
    ],
)
def test_mistakes_are_one_line(flatbit, own, words, says):
    result = flatbit("search", *MODEL, *words, "--out", "out")
    assert (result.status, result.out) == (2, ""), result
    assert result.err.splitlines()[-1].startswith("flatbit: ")
    assert says in result.err.splitlines()[-1]
    assert not Path("out/assignment.toml").exists()


def test_a_budget_or_a_model_that_cannot_be_leaves_nothing(refuses, own):
    assert "a budget of 1 bit-operations" in refuses("search", *MODEL, "--budget", "1bitops", "--out", "out")
    assert "--data is not given" in refuses("search", "preresnet8", "--budget", "3bits", "--out", "out")
    assert not list(Path().iterdir())
