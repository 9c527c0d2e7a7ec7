from dataclasses import replace

from flatbit.engine.recipe import Stage
from flatbit.engine.record import BatchNormChange, EpochRecord, GivenCheckpoint
from flatbit.quant.presets import policy
from flatbit.reference import From
from flatbit.report.training import trainings
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.optimizers import Adam
from flatbit.train.schedules import Cosine
from flatbit.train.sharpness import Sharpness

from .cases import UNIQ, entry, made


def epoch(number, **seen):
    return EpochRecord(epoch=number, lr=0.01, train_loss=1.0, train_top1=50.0, images_per_s=1.0, seconds=1.0, **seen)


def told(*stages, **entries):
    return trainings(made(*stages, **entries).record)


def test_a_stage_is_told_as_it_was_trained():
    stage = Stage(
        name="retrain", epochs=3, lr=0.01, schedule=Cosine(), batch_size=64, weight_decay=1e-4,
        accumulation=((1, 2),), sharpness=Sharpness(method="saq", rho=0.4), policy=policy("uniq", weights=2),
        losses=(*taught(Distillation(teacher=From.start())), Lipschitz(weight=1e-3)), captures=(2,),
        fixed_weight_steps=True,
    )  # fmt: skip
    changes = (BatchNormChange(step="frozen, epoch 2 trained so", before=90.0, after=91.234),)
    epochs = (epoch(1), epoch(2, capture=1, test_top1=91.234), epoch(3))
    (training,) = told(stage, retrain=entry(90.0, UNIQ, epochs=epochs, batchnorm=changes))
    assert (training.stage, training.epochs, training.start) == ("retrain", 3, "as built")
    assert training.descent == (
        "SGD(momentum=0.9, nesterov=False), lr 0.01, Cosine(warmup=0, warmup_factor=1.0), batch 64 (x2 from epoch 1), "
        "decay 0.0001"
    )
    assert training.besides == (
        "SAQ, rho 0.4; loss 0.1 cross_entropy + 0.9 distillation + 0.001 lipschitz, teacher as built; "
        "steps of weights fixed; captured after epochs 2 (91.23 %); "
        "batch norm frozen, epoch 2 trained so: 90.00 to 91.23 %"
    )


def test_a_loss_of_labels_alone_is_not_worth_a_word():
    first = Stage(name="a", epochs=1, lr=0.1)
    other = Stage(name="b", epochs=1, lr=0.1, optimizer=Adam(), start=From.stage("a"), losses=(CrossEntropy(weight=2),))
    plain, weighted = told(first, other, a=entry(1.0), b=entry(1.0))
    assert plain.besides == ""
    assert (weighted.start, weighted.besides) == ("a", "loss 2 cross_entropy")
    assert weighted.descent.startswith("Adam(")


def test_where_a_stage_starts_is_told():
    stages = (
        Stage(name="a", epochs=1, lr=0.1, captures=(1,)),
        Stage(name="b", epochs=0, start=From.stage("a", average=True)),
        Stage(name="c", epochs=0, start=From.file("runs/other")),
        Stage(name="d", epochs=1, lr=0.1, start=From.stage("b"), losses=taught(Distillation(teacher=From.start()))),
    )
    run = made(*stages, **{stage.name: entry(1.0) for stage in stages})
    assert [training.start for training in trainings(run.record)] == ["as built", "average of a", "runs/other", "b"]
    given = GivenCheckpoint(file="float.pth", test=entry(1.0).test)
    given_one = trainings(replace(run.record, checkpoint=given))
    assert given_one[0].start == "checkpoint float.pth"
    assert given_one[3].besides == "loss 0.1 cross_entropy + 0.9 distillation, teacher checkpoint float.pth"


def test_captures_have_the_score_that_the_run_is_judged_by():
    stage = Stage(name="a", epochs=1, lr=0.1, captures=(1,))
    epochs = (epoch(1, capture=1, test_top1=90.0, test_miou=55.5),)
    (training,) = told(stage, a=entry(55.5, metric="miou", epochs=epochs))
    assert training.besides == "captured after epochs 1 (55.50 %)"


def test_a_stage_without_epochs_is_not_trained_and_one_that_is_missing_is_not_told():
    first, second = Stage(name="a", epochs=0), Stage(name="b", epochs=1, lr=0.1, start=From.stage("a"))
    (training,) = told(first, second, a=entry(1.0))
    assert (training.stage, training.descent, training.besides) == ("a", "not trained", "")
