import pytest

from flatbit.recipes.finetune import finetune


def test_three_stages_measured_calibrated_fine_tuned():
    made = finetune(model="mine:net", data="mine:set", model_arguments={"a": 1}, weights=2, activations=3)
    assert (made.model, made.data, made.model_arguments) == ("mine:net", "mine:set", {"a": 1})
    assert [(s.name, s.epochs, s.start) for s in made.stages] == [
        ("float", 0, None), ("calibrated", 0, "float"), ("fine-tuned", 5, "float"),
    ]  # fmt: skip
    reference, calibrated, tuned = made.stages
    assert reference.policy is None
    assert calibrated.policy == tuned.policy
    assert (tuned.policy.name, tuned.policy.base.weights, tuned.policy.base.activations) == ("uniq", 2, 3)


def test_only_the_calibrated_model_has_its_batch_norms_reestimated():
    _, calibrated, tuned = finetune(model="resnet20").stages
    assert calibrated.reestimate_batches > 0
    assert tuned.reestimate_batches == 0


def test_no_epochs_is_calibration_only():
    assert [stage.name for stage in finetune(model="resnet20", epochs=0).stages] == ["float", "calibrated"]


def test_the_rate_falls_to_nothing():
    tuned = finetune(model="resnet20", epochs=10, lr=0.2).stages[-1]
    assert tuned.lr * tuned.schedule(0, 10) == 0.2
    assert tuned.lr * tuned.schedule(5, 10) == pytest.approx(0.1)
    assert tuned.lr * tuned.schedule(10, 10) == pytest.approx(0)


def test_settings_reach_the_stages():
    stages = finetune(model="resnet20", method="faq", batch_size=32, placement="input", strict=False).stages[1:]
    for stage in stages:
        assert (stage.batch_size, stage.strict) == (32, False)
        assert (stage.policy.name, stage.policy.placement) == ("faq", "input")


def test_unknown_method_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown policy 'unik': did you mean uniq"):
        finetune(model="resnet20", method="unik")


@pytest.mark.parametrize(("distill", "weight"), [("mixed", 0.9), ("only", 1.0)])
def test_it_may_learn_from_the_float_net(distill, weight):
    taught = finetune(model="resnet20", distill=distill).stages[-1].distillation
    assert (taught.teacher, taught.weight, taught.temperature) == ("float", weight, 4.0)
    assert finetune(model="resnet20").stages[-1].distillation is None
    with pytest.raises(ValueError, match="distill='all': expected none or mixed or only"):
        finetune(model="resnet20", distill="all")
