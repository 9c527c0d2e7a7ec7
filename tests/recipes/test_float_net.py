import pytest

from flatbit.recipes.float_net import float_stage


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def test_faq_on_cifar():
    stage = float_stage("faq-cifar")
    assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.optimizer) == (350, 128, 5e-4, "sgd")
    assert rates(stage) == pytest.approx([0.1] * 150 + [0.01] * 100 + [0.001] * 100)


def test_milestones_keep_their_place_in_another_length():
    assert rates(float_stage("faq-cifar", 35)) == pytest.approx([0.1] * 15 + [0.01] * 10 + [0.001] * 10)


@pytest.mark.parametrize(("name", "epochs", "batch_size"), [("uniq-cifar", 200, 128), ("digits", 20, 64)])
def test_cosine_schedules(name, epochs, batch_size):
    stage = float_stage(name)
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (epochs, batch_size, 5e-4)
    assert rates(stage)[0] == 0.1
    assert rates(stage)[epochs // 2] == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["digits", "uniq-cifar", "faq-cifar"])
def test_length_can_be_set_to_nothing_too(name):
    assert float_stage(name, 0).epochs == 0
    assert float_stage(name, 7).epochs == 7


def test_none_is_measured_only():
    assert float_stage("none").epochs == 0


@pytest.mark.parametrize("name", ["digits", "uniq-cifar", "faq-cifar", "none"])
def test_the_stage_is_called_float_and_is(name):
    stage = float_stage(name)
    assert (stage.name, stage.policy, stage.start) == ("float", None, None)


def test_unknown_schedule_is_refused():
    with pytest.raises(
        ValueError, match="float schedule 'cifar': expected digits, uniq-cifar, faq-cifar, deeplab or none"
    ):
        float_stage("cifar")
