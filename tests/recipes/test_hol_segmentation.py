import pytest

from flatbit.engine.run import run
from flatbit.recipes.hol_segmentation import hol_segmentation
from flatbit.report.page import write_page

from .test_init import SCENES


def test_weights_alone_activations_alone_and_both_from_the_float_net():
    recipe = hol_segmentation()
    assert [(stage.name, stage.start) for stage in recipe.stages] == [
        ("float", None), ("hol-w4a32", "float"), ("hol-w32a4", "float"), ("hol-w4a4", "float"),
    ]  # fmt: skip


@pytest.mark.parametrize(("w", "a", "names"), [(3, 32, ["float", "hol-w3a32"]), (32, 2, ["float", "hol-w32a2"])])
def test_what_stays_float_has_no_stage(w, a, names):
    assert [stage.name for stage in hol_segmentation(weights=w, activations=a).stages] == names


def test_the_papers_descent():
    stage = hol_segmentation().stages[-1]
    assert (stage.lr, stage.batch_size, stage.weight_decay, stage.optimizer) == (1e-3, 16, 0.0, "sgd")
    assert stage.epochs * (1464 // 16) == pytest.approx(30000, rel=0.01)
    assert stage.schedule(stage.epochs / 2, stage.epochs) == pytest.approx(0.5**0.9)


UPDATES = 1464 // 16  # in an epoch


def test_clr_of_15000_updates_in_cycles_of_3000_ends_at_the_last_minimum():
    retrain, clr = hol_segmentation(descent="lipschitz+clr", quantized="both").stages[1:]
    assert (retrain.lipschitz, clr.lipschitz, clr.start) == (1e-4, 1e-4, retrain.name)
    assert clr.schedule.part * UPDATES == pytest.approx(375, rel=0.004)
    assert clr.lr == 1e-4
    last = clr.epochs * UPDATES
    assert 13500 < last <= 13875  # the last part at the bottom
    assert clr.lr * clr.schedule((last - 1) / UPDATES, clr.epochs) == pytest.approx(1e-6)


def test_a_run_is_scored_by_miou_and_its_page_shows_what_is_seen(tmp_path):
    done = run(hol_segmentation(**SCENES, batch_size=4), tmp_path, smoke=True)
    for entry in done.record["stages"].values():
        assert entry["metric"] == "miou"
        assert 0 < entry["test"]["miou"] <= 100
        assert entry["test"]["num_samples"] == 8
        assert entry["best_test"] == max(epoch["test_miou"] for epoch in entry["epochs"])
    text = write_page([done], tmp_path / "report.html").read_text()
    assert "What is seen" in text
    assert "mIoU, %" in text
    assert "What is misread" not in text
