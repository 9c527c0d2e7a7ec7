import pytest

from flatbit.engine.run import run
from flatbit.recipes import RECIPES
from flatbit.recipes.float_net import float_stage
from flatbit.recipes.sqwa import sqwa

# The tables of section 5 in rates: from max(eta_f)/10 to min(eta_f)/10 and back, two values between.
CIFAR_CYCLE = [1e-2, 2.154e-3, 4.642e-4, 1e-4, 4.642e-4, 2.154e-3]
IMAGENET_CYCLE = [4e-2, 4e-3, 4e-4, 4e-5, 4e-4, 4e-3]


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def stages(**settings):
    return {stage.name: stage for stage in sqwa(**settings).stages}


def imagenet(**settings):
    return {stage.name: stage for stage in RECIPES.get("sqwa-resnet18-imagenet")(**settings).stages}


def test_the_five_stages_and_where_they_start():
    assert [(s.name, s.start, s.policy is None) for s in sqwa().stages] == [
        ("float", None, True), ("direct", "float", False), ("retrain", "float", False),
        ("average", "retrain.average", True), ("requantized", "retrain.average", False),
        ("fine-tuned", "retrain.average", False),
    ]  # fmt: skip


def test_what_an_swa_float_net_starts():
    made = stages(float_training="swa")
    assert made["swa"].start == "float.average"
    assert made["direct"].start == made["retrain"].start == "swa"


def test_cifar_as_the_paper_has_it():
    made = stages()
    retrain, tuned = made["retrain"], made["fine-tuned"]
    assert (made["float"].epochs, retrain.epochs, retrain.batch_size, retrain.weight_decay) == (175, 250, 128, 0.0)
    assert rates(retrain)[:12] == pytest.approx(CIFAR_CYCLE * 2, rel=1e-3)
    assert (retrain.optimizer, retrain.momentum, tuned.weight_decay) == ("sgd", 0.9, 0.0)
    assert rates(tuned) == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])


def test_imagenet_as_the_paper_has_it():
    made = imagenet()
    retrain, tuned = made["retrain"], made["fine-tuned"]
    assert (made["float"].epochs, made["float"].batch_size, retrain.epochs, retrain.batch_size) == (90, 1024, 238, 1024)
    assert rates(retrain)[:12] == pytest.approx(IMAGENET_CYCLE * 2)
    assert retrain.weight_decay == 0.0
    assert rates(tuned) == pytest.approx([4e-3 * 0.1**epoch for epoch in range(5)])


@pytest.mark.parametrize(("schedule", "made"), [("sqwa-cifar", stages), ("sqwa-imagenet", imagenet)])
def test_the_cycle_spans_a_tenth_of_the_float_nets_rates(schedule, made):
    of_float, of_cycle = set(rates(float_stage(schedule))), set(rates(made()["retrain"]))
    assert max(of_cycle) == pytest.approx(max(of_float) / 10)
    assert min(of_cycle) == pytest.approx(min(of_float) / 10)


def test_captures_of_table_2():
    assert stages()["retrain"].captures == (214, 220, 226, 232, 238, 244, 250)
    assert stages(captures="early")["retrain"].captures == (40, 46, 52, 58, 64, 70, 76)


@pytest.mark.parametrize(("number", "first"), [(3, 226), (7, 202), (15, 154), (31, 58)])
def test_captures_of_table_5(number, first):
    captures = imagenet(num_captures=number)["retrain"].captures
    assert (captures[0], captures[-1], len(captures)) == (first, 238, number)


def test_captures_are_the_ends_of_minima():
    retrain = stages(epochs=64)["retrain"]
    assert [rates(retrain)[epoch - 1] for epoch in retrain.captures] == pytest.approx([1e-4] * 7)


def test_the_short_cycle_has_one_value_between():
    retrain = stages(cycle=4, between=1, epochs=31)["retrain"]
    assert rates(retrain)[:4] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-3])
    assert retrain.captures == (7, 11, 15, 19, 23, 27, 31)


@pytest.mark.parametrize(("epochs", "ends"), [(250, 250), (45, 40), (40, 40)])
def test_retraining_ends_at_its_last_minimum(epochs, ends):
    retrain = stages(epochs=epochs)["retrain"]
    assert retrain.epochs == retrain.captures[-1] == ends


def test_statistics_are_reestimated_after_averaging_and_requantizing_only():
    again = {name for name, stage in stages().items() if stage.reestimate_batches}
    assert again == {"average", "requantized"}


@pytest.mark.parametrize("bits", [1, 2])
def test_weights_alone_are_quantized(bits):
    base = stages(weights=bits)["retrain"].policy.base
    assert (base.method, base.weights, base.activations) == ("sqwa", bits, 32)


def test_activations_go_to_pact():
    assert stages(activations=4)["retrain"].policy.base.activation_method == "pact"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 16}, "num_captures=7 late ones of 16 epochs: the rate has 3 such minima \\(all: 4, 10, 16\\)"),
        ({"epochs": 3}, "0 such minima \\(all: none\\)"),
        ({"epochs": 64, "captures": "early"}, "5 such minima"),
        ({"num_captures": 0}, "num_captures=0"),
        ({"cycle": 5, "between": 1}, "captures need whole ones"),
        ({"captures": "last"}, "expected late or early"),
        ({"convention": "saq"}, "expected sqwa or sqwa-all"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        sqwa(**settings)


@pytest.mark.parametrize(("bits", "finer"), [(1, "W2/A32"), (2, "W3/A32")])
def test_a_run_averages_on_a_finer_grid_and_comes_back(tmp_path, bits, finer):
    made = RECIPES.get("sqwa-preresnet8-digits")(
        model_arguments={"first_width": 4}, float_epochs=1, weights=bits, epochs=10, num_captures=2, tune_epochs=1,
    )  # fmt: skip
    done = run(made, tmp_path)
    inner = {name: entry["test"]["convention"]["inner"] for name, entry in done.record["stages"].items()}
    assert inner["retrain"] == inner["requantized"] == inner["fine-tuned"] == f"W{bits}/A32"
    assert inner["average"] == finer
    assert done.record["stages"]["average"]["batchnorm"]
