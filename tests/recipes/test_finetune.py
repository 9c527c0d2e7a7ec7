import pytest

from flatbit.models import build
from flatbit.quant.assignment import assignment
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy as preset
from flatbit.recipes import Network
from flatbit.recipes.finetune import may_begin_at_two_bits
from flatbit.reference import From
from flatbit.search.assignment_file import write_assignment
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation

from .cases import last, made, starts, term


def test_three_stages_measured_calibrated_fine_tuned():
    network = Network(model="mine:net", arguments={"a": 1})
    recipe = made("finetune", network=network, data="mine:set", weights=2, activations=3)
    assert (recipe.model, recipe.data, recipe.model_arguments) == ("mine:net", "mine:set", {"a": 1})
    assert starts(recipe) == [("float", "start"), ("calibrated", "stage:float"), ("fine-tuned", "stage:float")]
    assert [stage.epochs for stage in recipe.stages] == [0, 0, 5]
    reference, calibrated, tuned = recipe.stages
    assert reference.policy is None
    assert calibrated.policy == tuned.policy
    assert (tuned.policy.name, tuned.policy.base.weights, tuned.policy.base.activations) == ("uniq", 2, 3)


def test_only_the_calibrated_model_has_its_batch_norms_reestimated():
    _, calibrated, tuned = made("finetune").stages
    assert calibrated.reestimate_batches > 0
    assert tuned.reestimate_batches == 0


def test_no_epochs_is_calibration_only():
    assert [stage.name for stage in made("finetune", {"training.epochs": 0}).stages] == ["float", "calibrated"]


def test_the_rate_falls_to_nothing():
    tuned = last("finetune", {"training.epochs": 10, "training.lr": 0.2})
    assert [tuned.lr_at(epoch) for epoch in (0, 5, 10)] == pytest.approx([0.2, 0.1, 0])


def test_settings_reach_the_stages():
    settings = {"training.batch_size": 32, "layers.placement": "input", "layers.strict": False}
    for stage in made("finetune", settings, policy="faq").stages[1:]:
        assert (stage.batch_size, stage.strict) == (32, False)
        assert (stage.policy.name, stage.policy.base.placement) == ("faq", "input")


def test_layers_reach_the_policy():
    settings = {"layers.first": "stem", "layers.last": "head", "layers.leave_float": ["aux.*"]}
    policy = last("finetune", settings).policy
    assert (policy.first, policy.last) == ("stem", "head")
    (rule,) = (rule for rule in policy.rules if rule.pattern == "aux.*")
    assert rule.changes["weights"] == rule.changes["activations"] == 32


def test_bits_of_a_file_reach_the_policy_of_every_stage(tmp_path):
    path = tmp_path / "assignment.toml"
    bits = {"layers.0.0.conv1": (2, 3), "layers.1.0.conv2": (5, 5)}
    write_assignment(bits, path)
    settings = {"layers.assignment": str(path), "layers.leave_float": ["layers.2.*"]}
    _, *stages = made("finetune", settings, policy="saq").stages
    for stage in stages:
        model = build("preresnet8", in_channels=1, first_width=4)
        quantize_(model, stage.policy)
        found = assignment(model)
        assert {name: found[name] for name in bits} == bits
        assert found["layers.0.0.conv2"] == (4, 4)
        assert found["layers.2.0.conv1"] == (32, 32)
    path.unlink()  # a recipe holds the bits, not the file's name alone
    assert stages[-1].policy == stages[0].policy


def test_a_file_of_bits_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"recipe 'finetune': .*gone\.toml: no assignment"):
        made("finetune", {"layers.assignment": str(tmp_path / "gone.toml")})


def test_unknown_policy_suggests_the_nearest():
    with pytest.raises(ValueError, match="recipe 'finetune': unknown policy 'unik': did you mean uniq"):
        made("finetune", policy="unik")


@pytest.mark.parametrize(("weight", "labels"), [(0.9, 0.1), (1.0, None)])
def test_it_may_learn_from_the_float_net(weight, labels):
    tuned = last("finetune", {"distillation.teacher": "stage:float", "distillation.weight": weight})
    taught = term(tuned, Distillation)
    assert (taught.teacher, taught.weight, taught.temperature) == (From.stage("float"), weight, 4.0)
    ce = term(tuned, CrossEntropy)
    assert (ce and ce.weight) == (labels and pytest.approx(labels))
    assert last("finetune").losses == (CrossEntropy(),)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distillation.teacher": "float"}, "distillation.teacher='float': expected start, stage:NAME"),
        ({"distillation.teacher": "stage:flat"}, "stage 'fine-tuned' needs stage:flat, which no earlier stage leaves"),
        ({"training.epochs": 0, "distillation": "on"}, "distillation cannot act: training.epochs=0 only calibrates"),
        ({"training.epochs": 0, "training.lr": 0.1}, "training.lr=0.1 cannot act"),
        (
            {"activations": 32, "layers.placement": "output"},
            "layers.placement=output cannot act: activations are float",
        ),
    ],
)
def test_what_cannot_act_or_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("finetune", settings)


def test_it_begins_where_told():
    settings = {"training.begin": "calibrated"}
    assert starts(made("finetune", settings))[-1] == ("fine-tuned", "stage:calibrated")
    recipe = made("finetune", {"training.begin": "2-bit", "training.epochs": 3}, weights=1, activations=4)
    assert starts(recipe)[-2:] == [("fine-tuned-w2a4", "stage:float"), ("fine-tuned", "stage:fine-tuned-w2a4")]
    assert [stage.epochs for stage in recipe.stages] == [0, 0, 3, 3]
    assert [stage.policy.base.weights for stage in recipe.stages[1:]] == [1, 2, 1]


def test_two_bits_come_first_only_where_one_bit_is_asked_for_and_the_method_has_both():
    for name, bits, first in (("uniq", 1, True), ("uniq", 2, False), ("xnor", 1, False)):
        assert may_begin_at_two_bits(preset(name, weights=bits, activations=bits)) is first
    assert may_begin_at_two_bits(preset("uniq", weights=4, activations=1))
    with pytest.raises(ValueError, match=r"training\.begin=2-bit cannot act: nothing has 1 bit"):
        made("finetune", {"training.begin": "2-bit"}, weights=2, activations=2)


def test_statistics_are_left_alone_if_asked():
    assert made("finetune", {"reestimate": False}).stages[1].reestimate_batches == 0


def test_overrides_and_other_quantizers_reach_the_policy():
    settings = {"layers.override": {"head": {"weights": 6}}, "layers.activation_method": "lsq"}
    policy = last("finetune", settings | {"layers.granularity": "channel"}).policy
    assert policy.rules[-1].changes == {"weights": 6}
    assert (policy.base.activation_method, policy.base.granularity) == ("lsq", "channel")
