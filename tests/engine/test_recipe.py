import pytest

from flatbit.engine.recipe import Recipe, Stage
from flatbit.train.objective import cross_entropy
from flatbit.train.schedules import Constant


def stage(name="float", **settings):
    return Stage(**{"name": name, "epochs": 3, "lr": 0.1} | settings)


def recipe(*stages):
    return Recipe(name="mine", model="fcdnn", data="digits", stages=stages)


def test_defaults_are_plain_sgd():
    plain = stage()
    assert (plain.optimizer, plain.momentum, plain.nesterov, plain.weight_decay) == ("sgd", 0.9, False, 0.0)
    assert plain.schedule == Constant()
    assert plain.objective is cross_entropy
    assert plain.policy is None
    assert (plain.batch_size, plain.strict, plain.reestimate_batches, plain.max_steps) == (128, True, 0, None)


def test_one_batch_per_update_unless_it_grows():
    assert stage().batches_per_update(100) == 1


@pytest.mark.parametrize(("epoch", "n"), [(0, 1), (54, 1), (55, 2), (149, 2), (150, 4), (159, 4), (160, 8), (164, 8)])
def test_growth_counts_from_its_epochs(epoch, n):
    assert stage(growth=((55, 2), (150, 4), (160, 8))).batches_per_update(epoch) == n


def test_batch_doubling_of_faq_is_1056_tenths_of_an_epoch():
    doubling = stage(epochs=165, growth=((55, 2), (150, 4), (160, 8)))
    updates = sum(1 / doubling.batches_per_update(epoch) for epoch in range(165))
    assert updates == pytest.approx(105.6, abs=0.05)


@pytest.mark.parametrize("epochs", [-1, 2.5, "ten"])
def test_epochs_are_a_whole_number(epochs):
    with pytest.raises(ValueError, match=r"stage 'float': epochs=.*: expected 0 or more"):
        stage(epochs=epochs)


@pytest.mark.parametrize(("epochs", "size", "again"), [(20, 128, 2), (0, 8, 0)])
def test_smoke_is_two_updates(epochs, size, again):
    cut = stage(epochs=epochs, batch_size=size, reestimate_batches=again and 50, growth=((0, 3), (1, 9))).smoke()
    assert cut.epochs == min(epochs, 1)
    assert (cut.max_steps, cut.growth) == (2 * 9, ((0, 9),))
    assert cut.batch_size == min(size, 32)
    assert cut.calibration_batches == 1
    assert cut.reestimate_batches == again


def test_smoke_keeps_the_rest():
    whole = stage(lr=0.7, optimizer="adam", weight_decay=0.3)
    cut = whole.smoke()
    assert (cut.name, cut.lr, cut.optimizer, cut.weight_decay) == ("float", 0.7, "adam", 0.3)
    assert [s.epochs for s in recipe(stage("a"), stage("b", start="a")).smoke().stages] == [1, 1]


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="recipe 'mine': two stages are called 'float'"):
        recipe(stage(), stage())


@pytest.mark.parametrize("start", ["later", "b", "nowhere"])
def test_a_stage_starts_from_an_earlier_one(start):
    with pytest.raises(ValueError, match=f"stage 'b' starts from '{start}', which is no earlier stage"):
        recipe(stage("a"), stage("b", start=start), stage("later"))


def test_a_recipe_has_stages():
    with pytest.raises(ValueError, match="recipe 'mine' has no stages"):
        recipe()


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "cosine"), ("sharpness", "saq"), ("distillation", "float"), ("policy", "uniq"), ("growth", (1, 2)),
     ("growth", ((0, 0),)), ("growth", ((0, -3),)), ("freeze_batchnorm", "yes"), ("freeze_batchnorm", 99),
     ("freeze_batchnorm", -1), ("max_steps", 0), ("captures", [1]), ("captures", (1, 1)), ("captures", (0,)),
     ("captures", (99,)), ("reestimate_batches", -3), ("evaluate_every", 0), ("lipschitz", -1), ("name", "a/b"),
     ("name", ""), ("name", "../up"), ("lr", "0.1")],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"stage .*: {field}=.*: expected"):
        stage(**{field: value})


def test_smoke_captures_and_freezes_in_its_one_epoch():
    cut = stage(epochs=50, captures=(20, 50), freeze_batchnorm=30).smoke()
    assert (cut.captures, cut.freeze_batchnorm) == ((1,), 0)
