from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flatbit as fb
from flatbit.engine.recipe import Recipe, Stage
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.optimizers import SGD, Adam
from flatbit.train.schedules import Constant, Cosine, Join, MultiStep
from flatbit.train.sharpness import Sharpness

POLICY = fb.policy("uniq", weights=2, activations=2)


def stage(name="float", **settings):
    return Stage(**{"name": name, "epochs": 3, "lr": 0.1} | settings)


def untrained(name="float", **settings):
    return Stage(name=name, epochs=0, **settings)


def recipe(*stages):
    return Recipe(name="mine", model="fcdnn", data="digits", stages=stages)


def test_defaults_are_plain_sgd():
    plain = stage()
    assert plain.optimizer == SGD(momentum=0.9, nesterov=False)
    assert (plain.schedule, plain.losses, plain.start) == (Constant(), (CrossEntropy(),), From.start())
    assert (plain.policy, plain.weight_decay) == (None, 0.0)
    assert (plain.batch_size, plain.strict, plain.reestimate_batches, plain.max_steps) == (128, True, 0, None)


def test_one_batch_per_update_unless_it_grows():
    assert stage().batches_per_update(100) == 1


@pytest.mark.parametrize(("epoch", "n"), [(0, 1), (54, 1), (55, 2), (149, 2), (150, 4), (159, 4), (160, 8), (164, 8)])
def test_accumulation_counts_from_its_epochs(epoch, n):
    assert stage(epochs=165, accumulation=((55, 2), (150, 4), (160, 8))).batches_per_update(epoch) == n


def test_batch_doubling_of_faq_is_1056_tenths_of_an_epoch():
    doubling = stage(epochs=165, accumulation=((55, 2), (150, 4), (160, 8)))
    updates = sum(1 / doubling.batches_per_update(epoch) for epoch in range(165))
    assert updates == pytest.approx(105.6, abs=0.05)


def test_accumulation_may_fall_again():
    shrinking = stage(epochs=9, accumulation=((0, 4), (3, 2), (6, 1), (8, 3)))
    assert [shrinking.batches_per_update(epoch) for epoch in range(9)] == [4, 4, 4, 2, 2, 2, 1, 1, 3]
    assert shrinking.smoke().accumulation == ((0, 4),)


@given(st.integers(0, 40), st.integers(2, 6), st.integers(1, 12) | st.none())
def test_updates_are_whole_ones_of_each_epoch(steps, n, most):
    made = stage(epochs=5, accumulation=((2, n),), max_steps=most)
    cut = min(steps, most or steps)
    assert made.updates(steps) == 2 * cut + 3 * (cut // n)


@pytest.mark.parametrize(
    ("settings", "looks"),
    [
        ({"epochs": 3}, {1, 2, 3}),
        ({"epochs": 7, "evaluate_every": 3}, {3, 6, 7}),
        ({"epochs": 7, "evaluate_every": 7}, {7}),
        ({"epochs": 7, "evaluate_every": 4, "captures": (2, 4)}, {2, 4, 7}),
        ({"epochs": 7, "evaluate_every": 7, "freeze_batchnorm": 3}, {3, 4, 7}),
        ({"epochs": 7, "evaluate_every": 7, "freeze_batchnorm": 0}, {1, 7}),
        ({"epochs": 7, "evaluate_every": 7, "freeze_batchnorm": 6}, {6, 7}),
    ],
)
def test_looks_at_the_test_set(settings, looks):
    assert stage(**settings).looks() == looks
    assert untrained().looks() == set()


def test_the_rate_follows_the_schedule():
    made = stage(lr=0.2, epochs=4, schedule=Cosine())
    assert [made.lr_at(epoch) for epoch in (0, 2, 2.5, 4)] == pytest.approx([0.2, 0.1, 0.1, 0.0])
    assert untrained().lr_at(0) == 0


def test_references_are_the_start_and_then_the_teachers():
    other = Distillation(teacher=From.file("net.safetensors"), name="second")
    made = stage(start=From.stage("a"), losses=(*taught(Distillation(teacher=From.stage("b"))), other))
    assert made.references() == (From.stage("a"), From.stage("b"), From.file("net.safetensors"))
    assert stage().references() == (From.start(),)


# What is refused


@pytest.mark.parametrize("epochs", [-1, 2.5, "ten", True])
def test_epochs_are_a_whole_number(epochs):
    with pytest.raises(ValueError, match=r"stage 'float': epochs=.*: expected 0 or more"):
        stage(epochs=epochs)


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "cosine"), ("sharpness", "saq"), ("losses", (Distillation,)), ("losses", "float"), ("losses", ()),
     ("losses", (CrossEntropy(), CrossEntropy())), ("losses", [CrossEntropy()]), ("policy", "uniq"),
     ("optimizer", "sgd"), ("optimizer", SGD), ("start", "float"), ("start", None), ("accumulation", (1, 2)),
     ("accumulation", [(0, 2)]), ("accumulation", ((0, 0),)), ("accumulation", ((0, -3),)),
     ("accumulation", ((0.5, 2),)),
     ("accumulation", ((1, 2), (1, 4))), ("accumulation", ((2, 2), (1, 4))),
     ("freeze_batchnorm", "yes"), ("freeze_batchnorm", -1),
     ("freeze_batchnorm", True), ("max_steps", 0), ("calibration_batches", 0), ("captures", [1]), ("captures", (1, 1)),
     ("captures", (0,)), ("captures", (99,)), ("captures", (1.0,)), ("reestimate_batches", -3), ("evaluate_every", 0),
     ("batch_size", 0), ("batch_size", 2.0), ("weight_decay", -1), ("name", "a/b"), ("name", ""), ("name", "../up"),
     ("name", "float.average"), ("name", "a@3"), ("name", 7), ("lr", "0.1"), ("lr", -0.1), ("lr", 0), ("lr", 0.0),
     ("lr", float("nan")),
     ("lr", None), ("lr", True),
     ("strict", "no"), ("fixed_weight_steps", 1), ("keep_captures", None)],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"stage .*: {field}=.*: expected"):
        stage(**{field: value})


TRAINING = {
    "lr": 0.1, "optimizer": Adam(), "weight_decay": 1e-4, "schedule": Cosine(), "accumulation": ((0, 2),),
    "losses": (CrossEntropy(), Lipschitz()), "sharpness": Sharpness(method="sam", rho=0.1), "evaluate_every": 2,
    "max_steps": 3, "keep_captures": True, "freeze_batchnorm": 0,
}  # fmt: skip


@pytest.mark.parametrize("field", TRAINING)
def test_what_only_trains_cannot_act_without_epochs(field):
    with pytest.raises(ValueError, match=rf"stage 'float': {field}=.* cannot act: epochs=0 trains nothing: leave it"):
        untrained(**{field: TRAINING[field]})


@pytest.mark.parametrize(("field", "value"), [("strict", False), ("calibration_batches", 3)])
@pytest.mark.parametrize("make", [stage, untrained])
def test_what_only_quantizes_cannot_act_without_a_policy(make, field, value):
    with pytest.raises(ValueError, match=rf"stage 'float': {field}=.* cannot act: without a policy nothing is"):
        make(**{field: value})
    make(policy=POLICY, **{field: value})


def test_fixed_steps_want_a_policy_and_epochs():
    with pytest.raises(ValueError, match="fixed_weight_steps=True cannot act: without a policy"):
        stage(fixed_weight_steps=True)
    with pytest.raises(ValueError, match="fixed_weight_steps=True cannot act: epochs=0"):
        untrained(fixed_weight_steps=True, policy=POLICY)
    stage(fixed_weight_steps=True, policy=POLICY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_batchnorm": 3}, "freeze_batchnorm=3 cannot act: the stage ends after 3 epochs: leave it out"),
        ({"freeze_batchnorm": 99}, "freeze_batchnorm=99 cannot act: the stage ends after 3 epochs"),
        ({"evaluate_every": 4}, "evaluate_every=4 cannot act: the stage ends after 3 epochs"),
        ({"accumulation": ((3, 2),)}, r"accumulation=\(\(3, 2\),\) cannot act: the stage ends after 3 epochs"),
        (
            {"accumulation": ((0, 1),)},
            "accumulation=.* cannot act: from epoch 0 on an update takes 1 mini-batches, and before",
        ),
        (
            {"accumulation": ((0, 2), (1, 2))},
            "accumulation=.* cannot act: from epoch 1 on an update takes 2 mini-batches, and before",
        ),
        ({"schedule": MultiStep((1, 4))}, r"schedule milestones=\(1, 4\) cannot act: the stage ends after 3 epochs"),
        ({"schedule": Cosine(warmup=3)}, "schedule warmup=3 leaves no epoch to the cosine: the stage ends after 3"),
        ({"schedule": Join(((0, Cosine()), (3, Constant(0.1))))}, "schedule Join: the part from epoch 3 cannot act"),
    ],
)
def test_what_comes_after_the_end_cannot_act(settings, message):
    with pytest.raises(ValueError, match=f"stage 'float': {message}"):
        stage(**settings)


@pytest.mark.parametrize(
    ("shard", "batch_size", "accumulation", "acts"),
    [(63, 64, (), True), (64, 64, (), False), (65, 64, (), False), (64, 64, ((0, 2),), True),
     (65, 64, ((0, 2),), False)],
)  # fmt: skip
def test_a_shard_is_a_part_of_an_update(shard, batch_size, accumulation, acts):
    settings = {"batch_size": batch_size, "accumulation": accumulation}
    sharpness = Sharpness(method="sam", rho=0.1, shard=shard)
    if acts:
        stage(sharpness=sharpness, **settings)
    else:
        with pytest.raises(ValueError, match=f"sharpness=.* cannot act: shard={shard} divides no mini-batch of 64"):
            stage(sharpness=sharpness, **settings)


def test_captures_are_kept_only_where_there_are_some():
    with pytest.raises(ValueError, match="keep_captures=True cannot act: there are no captures"):
        stage(keep_captures=True)
    stage(keep_captures=True, captures=(3,))


# Smoke


def test_smoke_is_two_updates():
    whole = stage(epochs=20, policy=POLICY, reestimate_batches=50, accumulation=((0, 3), (1, 9), (2, 4)))
    cut = whole.smoke()
    assert (cut.epochs, cut.max_steps, cut.accumulation) == (1, 2 * 9, ((0, 9),))
    assert (cut.batch_size, cut.calibration_batches, cut.reestimate_batches) == (32, 1, 2)
    assert cut.updates(100) == 2
    assert stage().smoke().calibration_batches is None


@pytest.mark.parametrize("policy", [None, POLICY])
def test_smoke_of_a_stage_without_epochs_still_trains_nothing(policy):
    cut = untrained(policy=policy, batch_size=8, reestimate_batches=1).smoke()
    assert (cut.epochs, cut.batch_size, cut.reestimate_batches, cut.max_steps, cut.lr) == (0, 8, 1, None, None)


def test_smoke_keeps_the_rest():
    whole = stage(lr=0.7, optimizer=Adam(), weight_decay=0.3)
    cut = whole.smoke()
    assert (cut.name, cut.lr, cut.optimizer, cut.weight_decay) == ("float", 0.7, Adam(), 0.3)
    assert [s.epochs for s in recipe(stage("a"), stage("b", start=From.stage("a"))).smoke().stages] == [1, 1]


def test_smoke_captures_and_freezes_in_its_one_epoch():
    cut = stage(epochs=50, captures=(20, 50), keep_captures=True, freeze_batchnorm=30).smoke()
    assert (cut.captures, cut.keep_captures, cut.freeze_batchnorm) == ((1,), True, 0)


@pytest.mark.parametrize("shard", [1, 33, 64, 127])
def test_smoke_keeps_the_schedule_and_a_shard_that_acts(shard):
    schedule = Join(((0, Cosine(warmup=5)), (20, MultiStep((9,)))))
    cut = stage(epochs=40, evaluate_every=7, schedule=schedule, sharpness=Sharpness(method="sam", rho=1, shard=shard))
    cut = cut.smoke()
    assert (cut.schedule, cut.evaluate_every, cut.batch_size) == (schedule, 1, 32)
    assert 1 <= cut.sharpness.shard < 32
    assert cut.smoke() == cut


def test_smoking_twice_changes_nothing_more():
    once = recipe(stage(epochs=9, captures=(2, 9), accumulation=((3, 4),)), untrained("b", policy=POLICY)).smoke()
    assert once.smoke() == once


# Recipes


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="recipe 'mine': two stages are called 'float'"):
        recipe(stage(), stage())


@pytest.mark.parametrize("name", ["later", "b", "nowhere"])
def test_a_stage_starts_from_an_earlier_one(name):
    with pytest.raises(ValueError, match=f"stage 'b' needs stage:{name}, which no earlier stage leaves: there are st"):
        recipe(stage("a"), stage("b", start=From.stage(name)), stage("later"))


@pytest.mark.parametrize("name", ["later", "b"])
def test_a_stage_learns_from_an_earlier_one(name):
    learns = stage("b", losses=taught(Distillation(teacher=From.stage(name))))
    with pytest.raises(ValueError, match=f"stage 'b' needs stage:{name}, which no earlier stage leaves"):
        recipe(stage("a"), learns, stage("later"))


def test_an_average_needs_captures():
    start = From.stage("float", average=True)
    message = r"stage 'b' needs stage:float\.average, which no earlier stage leaves: there are stage:float$"
    with pytest.raises(ValueError, match=message):
        recipe(stage(), stage("b", start=start))
    assert recipe(stage(captures=(3,)), stage("b", start=start)).stage("b").start == start


def test_start_and_files_are_always_there():
    first, second = stage(start=From.file("anything")), stage("b", losses=taught(Distillation()))
    assert recipe(first, second).stages == (first, second)


def test_a_recipe_has_stages():
    with pytest.raises(ValueError, match="recipe 'mine' has no stages"):
        recipe()


def test_a_stage_is_found_by_its_name():
    made = recipe(stage("a"), stage("b"))
    assert made.stage("b") is made.stages[1]
    with pytest.raises(KeyError):
        made.stage("c")


def test_stages_are_facts_that_compare():
    assert stage(policy=POLICY) == stage(policy=fb.policy("uniq", weights=2, activations=2))
    assert stage() != replace(stage(), lr=0.2)
