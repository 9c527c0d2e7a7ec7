import pytest

from flatbit.recipes import Network
from flatbit.recipes.float_net import FLOAT, Pretraining, WeightAveraging, float_stages, scheduled
from flatbit.reference import START, From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import SGD, Adam

from .cases import SMALL, made, ran, rates, term

TEACHER = Distillation(teacher=From.file("runs/teacher"))


def falling(lr, milestones, epochs):
    """What papers mean by x0.1 at these epochs."""
    return [lr * 0.1 ** sum(epoch >= milestone for milestone in milestones) for epoch in range(epochs)]


def net(schedule, **settings):
    """The one stage of a training without an average."""
    (stage,) = float_stages(Pretraining(schedule=schedule, **settings))
    return stage


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
    stage = net(name)
    assert (stage.epochs, stage.weight_decay, stage.batch_size) == (epochs, decay, batch)
    assert stage.optimizer == SGD(momentum=0.9)
    assert rates(stage) == pytest.approx(falling(lr, milestones, epochs))


def test_spirals_are_trained_by_adam():
    stage = net("spirals")
    assert (stage.epochs, stage.optimizer, stage.batch_size, stage.weight_decay) == (300, Adam(), 500, 0.0)
    assert (rates(stage)[0], rates(stage)[150]) == (2e-3, pytest.approx(1e-3))


def test_milestones_keep_their_place_in_another_length():
    assert rates(net("faq-cifar", epochs=35)) == pytest.approx([0.1] * 15 + [0.01] * 10 + [0.001] * 10)


@pytest.mark.parametrize(("name", "epochs", "batch_size"), [("uniq-cifar", 200, 128), ("digits", 20, 64)])
def test_cosine_schedules(name, epochs, batch_size):
    stage = net(name)
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (epochs, batch_size, 5e-4)
    assert rates(stage)[0] == 0.1
    assert rates(stage)[epochs // 2] == pytest.approx(0.05)


@pytest.mark.parametrize("name", FLOAT)
def test_length_rate_and_batch_can_be_set_but_not_to_nothing(name):
    stage = net(name, epochs=7, lr=0.5, batch_size=9)
    assert (stage.epochs, stage.lr, stage.batch_size) == (7, 0.5, 9)
    with pytest.raises(ValueError, match=r"pretraining\.epochs=0 trains nothing: pretraining=none measures the float"):
        net(name, epochs=0)
    with pytest.raises(ValueError, match="recipe 'float': epochs=0: 0 epochs train nothing"):
        made("float", schedule=name, epochs=0)


def test_none_is_measured_only():
    (stage,) = float_stages(None)
    assert (stage.name, stage.epochs, stage.start) == ("float", 0, START)


@pytest.mark.parametrize("name", FLOAT)
def test_the_stage_is_called_float_and_is(name):
    stage = net(name)
    assert stage == scheduled(name)
    assert (stage.name, stage.policy, stage.start, stage.losses) == ("float", None, START, (CrossEntropy(),))


def test_an_unknown_schedule_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown float schedule 'saq-cifr': did you mean saq-cifar"):
        net("saq-cifr")


def test_kd_learns_from_a_teacher():
    stage = net("sqwa-cifar", distillation=TEACHER)
    kd, ce = term(stage, Distillation), term(stage, CrossEntropy)
    assert (kd.teacher, kd.temperature, kd.weight) == (From.file("runs/teacher"), 4.0, 0.9)
    assert ce.weight == pytest.approx(0.1)
    assert rates(stage) == rates(net("sqwa-cifar"))


@pytest.mark.parametrize("distillation", [None, TEACHER])
def test_swa_averages_every_epoch_after_126_at_a_constant_rate(distillation):
    pretraining = Pretraining(schedule="sqwa-cifar", distillation=distillation, swa=WeightAveraging())
    stage, average = float_stages(pretraining)
    assert rates(stage)[:126] == pytest.approx(falling(0.1, (75, 125), 126))
    assert rates(stage)[126:] == pytest.approx([0.01] * 49)
    assert stage.captures == tuple(range(127, 176))
    assert (average.name, average.start, average.epochs) == ("swa", From.stage("float", average=True), 0)
    assert average.policy is None
    assert average.reestimate_batches * average.batch_size >= 1_281_167  # ImageNet, the largest set
    assert term(stage, Distillation) == distillation


@pytest.mark.parametrize("epochs", [2, 3, 20])
def test_a_short_swa_has_something_to_average(epochs):
    stage, _ = float_stages(Pretraining(schedule="sqwa-cifar", epochs=epochs, swa=WeightAveraging()))
    assert stage.captures[-1] == epochs


def test_where_the_average_begins_and_at_which_rate_can_be_set():
    stage, _ = float_stages(Pretraining(schedule="uniq-cifar", swa=WeightAveraging(begin=0.5, factor=0.2)))
    assert stage.captures == tuple(range(101, 201))
    assert rates(stage)[100:] == pytest.approx([0.02] * 100)
    whole, _ = float_stages(Pretraining(schedule="uniq-cifar", swa=WeightAveraging(begin=0.0)))
    assert rates(whole) == pytest.approx([0.01] * 200)
    assert len(whole.captures) == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"swa": "on", "epochs": 1}, "swa over 1 epochs: nothing to average; take 2 or more"),
        ({"swa.begin": 1.0}, "expected a share from 0 up to 1"),
        ({"swa.factor": 0}, "a positive factor"),
        ({"swa": "none", "swa.begin": 0.5}, "swa=none leaves that part out: swa.begin cannot act"),
        ({"distillation": "none", "distillation.weight": 0.5}, "distillation.weight cannot act"),
        ({"distillation.teacher": "stage:float"}, "stage 'float' needs stage:float, which no earlier stage leaves"),
        ({"distillation": "kd"}, "distillation='kd': it is a part .* distillation=on, distillation=none"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("float", settings)


def test_a_net_that_is_trained_by_a_net_that_is_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stage .float. learns from start, which is untrained"):
        ran(made("float", network=SMALL, distillation="on"), tmp_path, smoke=True)


def test_the_recipe_of_a_float_net():
    network = Network(model="resnet110")
    recipe = made("float", network=network, data="cifar100", schedule="sqwa-cifar", batch_size=64, lr=0.05)
    assert (recipe.model, recipe.data) == ("resnet110", "cifar100")
    assert [(s.name, s.epochs, s.batch_size, s.lr) for s in recipe.stages] == [("float", 175, 64, 0.05)]


def test_it_has_every_setting_of_a_pretraining():
    settings = {"schedule": "sqwa-cifar", "epochs": 9, "lr": 0.2, "batch_size": 7, "distillation.weight": 0.5,
                "swa.begin": 0.4}  # fmt: skip
    alone = made("float", settings).stages
    assert made("sqwa", {f"pretraining.{place}": value for place, value in settings.items()}).stages[:2] == alone


def test_a_student_smokes_from_a_teachers_run(tmp_path):
    ran(made("float", network=SMALL), tmp_path / "teacher", smoke=True)
    settings = {"distillation.teacher": f"file:{tmp_path / 'teacher'}", "swa": "on"}
    done = ran(made("float", settings, network=SMALL), tmp_path / "student", smoke=True)
    assert [*done.record.stages] == ["float", "swa"]
