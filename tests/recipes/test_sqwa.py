import pytest

from flatbit.recipes.float_net import scheduled
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.optimizers import SGD

from .cases import NARROW, by_name, made, ran, rates

# The tables of section 5 in rates: from max(eta_f)/10 to min(eta_f)/10 and back, two values between.
CIFAR_CYCLE = [1e-2, 2.154e-3, 4.642e-4, 1e-4, 4.642e-4, 2.154e-3]
IMAGENET_CYCLE = [4e-2, 4e-3, 4e-4, 4e-5, 4e-4, 4e-3]


def stages(given=None, **settings):
    return by_name("sqwa", given, **settings)


def imagenet(given=None):
    return by_name("sqwa-resnet18-imagenet", given)


def test_the_five_stages_and_where_they_start():
    assert [(s.name, str(s.start), s.policy is None) for s in made("sqwa").stages] == [
        ("float", "start", True), ("direct", "stage:float", False), ("retrain", "stage:float", False),
        ("average", "stage:retrain.average", True), ("requantized", "stage:retrain.average", False),
        ("fine-tuned", "stage:retrain.average", False),
    ]  # fmt: skip


def test_what_an_swa_float_net_starts():
    found = stages({"pretraining.swa": "on"})
    assert found["swa"].start == From.stage("float", average=True)
    assert found["direct"].start == found["retrain"].start == From.stage("swa")


def test_cifar_as_the_paper_has_it():
    found = stages()
    retrain, tuned = found["retrain"], found["fine-tuned"]
    assert (found["float"].epochs, retrain.epochs, retrain.batch_size, retrain.weight_decay) == (175, 250, 128, 0.0)
    assert rates(retrain)[:12] == pytest.approx(CIFAR_CYCLE * 2, rel=1e-3)
    assert (retrain.optimizer, retrain.losses, tuned.weight_decay) == (SGD(momentum=0.9), (CrossEntropy(),), 0.0)
    assert rates(tuned) == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])


def test_imagenet_as_the_paper_has_it():
    found = imagenet()
    first, retrain, tuned = found["float"], found["retrain"], found["fine-tuned"]
    assert (first.epochs, first.batch_size, retrain.epochs, retrain.batch_size) == (90, 1024, 238, 1024)
    assert rates(retrain)[:12] == pytest.approx(IMAGENET_CYCLE * 2)
    assert retrain.weight_decay == 0.0
    assert rates(tuned) == pytest.approx([4e-3 * 0.1**epoch for epoch in range(5)])


@pytest.mark.parametrize(("schedule", "found"), [("sqwa-cifar", stages), ("sqwa-imagenet", imagenet)])
def test_the_cycle_spans_a_tenth_of_the_float_nets_rates(schedule, found):
    of_float, of_cycle = set(rates(scheduled(schedule))), set(rates(found()["retrain"]))
    assert max(of_cycle) == pytest.approx(max(of_float) / 10)
    assert min(of_cycle) == pytest.approx(min(of_float) / 10)


def test_captures_of_table_2():
    assert stages()["retrain"].captures == (214, 220, 226, 232, 238, 244, 250)
    assert stages({"averaging.captures": "early"})["retrain"].captures == (40, 46, 52, 58, 64, 70, 76)


@pytest.mark.parametrize(("number", "first"), [(3, 226), (7, 202), (15, 154), (31, 58)])
def test_captures_of_table_5(number, first):
    captures = imagenet({"averaging.num_captures": number})["retrain"].captures
    assert (captures[0], captures[-1], len(captures)) == (first, 238, number)


def test_captures_are_the_ends_of_minima():
    retrain = stages({"averaging.epochs": 64})["retrain"]
    assert [rates(retrain)[epoch - 1] for epoch in retrain.captures] == pytest.approx([1e-4] * 7)


def test_the_short_cycle_has_one_value_between():
    settings = {"averaging.cycle": 4, "averaging.between": 1, "averaging.epochs": 31}
    retrain = stages(settings)["retrain"]
    assert rates(retrain)[:4] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-3])
    assert retrain.captures == (7, 11, 15, 19, 23, 27, 31)


@pytest.mark.parametrize(("epochs", "ends"), [(250, 250), (45, 40), (40, 40)])
def test_retraining_ends_at_its_last_minimum(epochs, ends):
    retrain = stages({"averaging.epochs": epochs})["retrain"]
    assert retrain.epochs == retrain.captures[-1] == ends


def test_captures_are_kept_where_asked():
    assert stages({"averaging.keep_captures": True})["retrain"].keep_captures
    assert not stages()["retrain"].keep_captures


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
        (
            {"averaging.epochs": 16},
            "num_captures=7 late ones of 16 epochs: the rate has 3 such minima \\(all: 4, 10, 16\\)",
        ),
        ({"averaging.epochs": 3}, "0 such minima \\(all: none\\)"),
        ({"averaging.epochs": 64, "averaging.captures": "early"}, "5 such minima"),
        ({"averaging.num_captures": 0}, "num_captures=0"),
        ({"averaging.cycle": 5, "averaging.between": 1}, "captures need whole ones"),
        ({"averaging.captures": "last"}, "expected late or early"),
        ({"averaging.lowest": 0.1}, "a cycle from lr=0.01 down to 0.1: expected positive rates"),
        ({"averaging": "none"}, "averaging='none': it is a part with settings of its own: averaging=on, or averaging."),
        ({"convention": "saq"}, "expected sqwa or sqwa-all"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("sqwa", settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 9}, "no setting 'temperature'"),
        ({"distillation.temperature": 9}, "no setting 'distillation.temperature'"),
        (
            {"pretraining.distillation": "none", "pretraining.distillation.temperature": 9},
            "pretraining.distillation=none leaves that part out: pretraining.distillation.temperature cannot act",
        ),
        ({"pretraining": "none", "pretraining.epochs": 3}, "pretraining=none leaves that part out"),
        ({"averaging.epochs": 251}, "averaging.epochs=251 cannot act: .* same without it, and with 252 or 250 in its"),
    ],
)
def test_what_cannot_act_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("sqwa", settings)


@pytest.mark.parametrize(("bits", "finer"), [(1, "W2/A32"), (2, "W3/A32")])
def test_a_run_averages_on_a_finer_grid_and_comes_back(tmp_path, bits, finer):
    short = {
        "pretraining.epochs": 1, "averaging.epochs": 10, "averaging.num_captures": 2, "averaging.tune_epochs": 1,
    }  # fmt: skip
    done = ran(made("sqwa-preresnet8-digits", short, weights=bits, network=NARROW), tmp_path)
    inner = {name: entry.test.convention.inner for name, entry in done.record.stages.items()}
    assert inner["retrain"] == inner["requantized"] == inner["fine-tuned"] == f"W{bits}/A32"
    assert inner["average"] == finer
    assert done.record.stages["average"].batchnorm
