from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.run import describe
from flatbit.report.training import trainings
from flatbit.train.objective import Distillation
from flatbit.train.schedules import Cosine
from flatbit.train.sharpness import Sharpness


def record_of(*stages, entries):
    return {"recipe": describe(Recipe(name="r", model="m", data="d", stages=stages)), "stages": entries}


def test_a_stage_is_told_as_it_was_trained():
    stage = Stage(
        name="retrain", epochs=3, lr=0.01, schedule=Cosine(), batch_size=64, weight_decay=1e-4, growth=((1, 2),),
        sharpness=Sharpness(method="saq", rho=0.4), distillation=Distillation(teacher="start"), lipschitz=1e-3,
        captures=(2,), fixed_weight_steps=True,
    )  # fmt: skip
    epochs = [{"epoch": 1}, {"epoch": 2, "capture": 1, "test_top1": 91.234}, {"epoch": 3}]
    changes = [{"step": "frozen, epoch 2 trained so", "before": 90.0, "after": 91.234}]
    (told,) = trainings(
        record_of(stage, entries={"retrain": {"metric": "top1", "epochs": epochs, "batchnorm": changes}})
    )
    assert (told.stage, told.epochs, told.start) == ("retrain", 3, "as built, or the weights given")
    assert told.descent == (
        "SGD, lr 0.01, Cosine(warmup=0, warmup_factor=1.0), batch 64 (x2 from epoch 1), decay 0.0001"
    )
    assert told.besides == (
        "SAQ, rho 0.4; teacher start, T 4, weight 0.9; Lipschitz term 0.001; steps of weights fixed; "
        "captured after epochs 2 (91.23 %); batch norm frozen, epoch 2 trained so: 90.00 to 91.23 %"
    )


def test_a_stage_without_epochs_is_not_trained_and_one_that_is_missing_is_not_told():
    first, second = Stage(name="a", epochs=0, lr=0.1), Stage(name="b", epochs=1, lr=0.1, start="a")
    (told,) = trainings(record_of(first, second, entries={"a": {"metric": "top1", "epochs": []}}))
    assert (told.stage, told.descent, told.besides) == ("a", "not trained", "")
