import pytest

from flatbit.engine.run import run
from flatbit.recipes.float_net import FLOAT, float_net, float_stage, float_stages


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def falling(lr, milestones, epochs):
    """What papers mean by x0.1 at these epochs."""
    return [lr * 0.1 ** sum(epoch >= milestone for milestone in milestones) for epoch in range(epochs)]


PRINTED = {  # epochs, lr, x0.1 at, decay, batch
    "sqwa-cifar": (175, 0.1, (75, 125), 5e-4, 128),
    "sqwa-imagenet": (90, 0.4, (30, 60, 80), 1e-4, 1024),
    "hol-cifar": (200, 0.1, (100, 150), 5e-4, 128),
    "saq-cifar": (200, 0.1, (80, 120), 1e-4, 128),
    "faq-cifar": (350, 0.1, (150, 250), 5e-4, 128),
    "imagenet": (90, 0.1, (30, 60), 1e-4, 256),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_papers_float_nets(name):
    epochs, lr, milestones, decay, batch = PRINTED[name]
    stage = float_stage(name)
    assert (stage.epochs, stage.weight_decay, stage.batch_size, stage.optimizer) == (epochs, decay, batch, "sgd")
    assert stage.momentum == 0.9
    assert rates(stage) == pytest.approx(falling(lr, milestones, epochs))


def test_spirals_are_trained_by_adam():
    stage = float_stage("spirals")
    assert (stage.epochs, stage.optimizer, stage.batch_size, stage.weight_decay) == (300, "adam", 500, 0.0)
    assert (rates(stage)[0], rates(stage)[150]) == (2e-3, pytest.approx(1e-3))


def test_milestones_keep_their_place_in_another_length():
    assert rates(float_stage("faq-cifar", 35)) == pytest.approx([0.1] * 15 + [0.01] * 10 + [0.001] * 10)


@pytest.mark.parametrize(("name", "epochs", "batch_size"), [("uniq-cifar", 200, 128), ("digits", 20, 64)])
def test_cosine_schedules(name, epochs, batch_size):
    stage = float_stage(name)
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (epochs, batch_size, 5e-4)
    assert rates(stage)[0] == 0.1
    assert rates(stage)[epochs // 2] == pytest.approx(0.05)


@pytest.mark.parametrize("name", sorted(set(FLOAT) - {"none"}))
def test_length_can_be_set_to_nothing_too(name):
    assert float_stage(name, 0).epochs == 0
    assert float_stage(name, 7).epochs == 7


def test_none_is_measured_only():
    assert float_stage("none").epochs == float_stage("none", 5).epochs == 0


@pytest.mark.parametrize("name", FLOAT)
def test_the_stage_is_called_float_and_is(name):
    stage = float_stage(name)
    assert (stage.name, stage.policy, stage.start) == ("float", None, None)


def test_an_unknown_schedule_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown float schedule 'saq-cifr': did you mean saq-cifar"):
        float_stage("saq-cifr")


def test_conventional_is_one_stage():
    assert float_stages("sqwa-cifar") == (float_stage("sqwa-cifar"),)


def test_kd_learns_from_a_teacher():
    (stage,) = float_stages("sqwa-cifar", training="kd", teacher="runs/teacher")
    kd = stage.distillation
    assert (kd.teacher, kd.temperature, kd.weight) == ("runs/teacher", 4.0, 0.9)
    assert rates(stage) == rates(float_stage("sqwa-cifar"))


@pytest.mark.parametrize("training", ["swa", "kd+swa"])
def test_swa_averages_every_epoch_after_126_at_a_constant_rate(training):
    teacher = "runs/teacher" if "kd" in training else None
    net, average = float_stages("sqwa-cifar", training=training, teacher=teacher)
    assert rates(net)[:126] == pytest.approx(falling(0.1, (75, 125), 126))
    assert rates(net)[126:] == pytest.approx([0.01] * 49)
    assert net.captures == tuple(range(127, 176))
    assert (average.name, average.start, average.epochs, average.policy) == ("swa", "float.average", 0, None)
    assert average.reestimate_batches * average.batch_size >= 1_281_167  # ImageNet, the largest set
    assert (net.distillation is None) == (training == "swa")


@pytest.mark.parametrize("epochs", [2, 3, 20])
def test_a_short_swa_has_something_to_average(epochs):
    net, _ = float_stages("sqwa-cifar", epochs, training="swa")
    assert net.captures[-1] == epochs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training": "kd"}, "needs a teacher"),
        ({"teacher": "runs/teacher"}, "kd alone, needs a teacher"),
        ({"training": "swa+kd"}, "expected conventional or kd or swa or kd\\+swa"),
        ({"training": "swa", "epochs": 1}, "nothing to average"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        float_stages("sqwa-cifar", **settings)


def test_the_recipe_of_a_float_net():
    made = float_net(model="resnet110", data="cifar100", float_schedule="sqwa-cifar", batch_size=64, lr=0.05)
    assert (made.model, made.data) == ("resnet110", "cifar100")
    assert [(s.name, s.epochs, s.batch_size, s.lr) for s in made.stages] == [("float", 175, 64, 0.05)]


def test_a_student_smokes_from_a_teachers_run(tmp_path):
    small = {"model": "preresnet8", "model_arguments": {"first_width": 4}}
    run(float_net(**small), tmp_path / "teacher", smoke=True)
    student = float_net(**small, float_training="kd+swa", teacher=str(tmp_path / "teacher"))
    done = run(student, tmp_path / "student", smoke=True)
    assert [*done.record["stages"]] == ["float", "swa"]
