import pytest

from flatbit.reference import From
from flatbit.report.page import write_page
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.optimizers import SGD

from .cases import SCENES, last, made, ran, starts, term

NAME = "hol-deeplab-voc"
UPDATES = 1464 // 16  # in an epoch


def test_weights_alone_activations_alone_and_both_from_the_float_net():
    assert starts(made(NAME)) == [
        ("float", "start"), ("hol-w4a32", "stage:float"), ("hol-w32a4", "stage:float"), ("hol-w4a4", "stage:float"),
    ]  # fmt: skip


@pytest.mark.parametrize(("w", "a", "names"), [(3, 32, ["float", "hol-w3a32"]), (32, 2, ["float", "hol-w32a2"])])
def test_what_stays_float_has_no_stage(w, a, names):
    assert [stage.name for stage in made(NAME, weights=w, activations=a).stages] == names


def test_the_papers_descent():
    stage = last(NAME)
    assert (stage.lr, stage.batch_size, stage.weight_decay, stage.optimizer) == (1e-3, 16, 0.0, SGD())
    assert stage.epochs * UPDATES == pytest.approx(30000, rel=0.01)
    assert stage.schedule(stage.epochs / 2, stage.epochs) == pytest.approx(0.5**0.9)


def test_clr_of_15000_updates_in_cycles_of_3000_ends_at_the_last_minimum():
    retrain, clr = made(NAME, quantized="both", lipschitz="on", clr="on").stages[1:]
    assert [term(stage, Lipschitz).weight for stage in (retrain, clr)] == [1e-4, 1e-4]
    assert clr.start == From.stage(retrain.name)
    assert clr.schedule.part * UPDATES == pytest.approx(375, rel=0.004)
    assert clr.lr == 1e-4
    last_update = clr.epochs * UPDATES
    assert 13500 < last_update <= 13875  # the last part at the bottom
    assert clr.lr_at((last_update - 1) / UPDATES) == pytest.approx(1e-6)


def test_a_run_is_scored_by_miou_and_its_page_shows_what_is_seen(tmp_path):
    done = ran(made(NAME, {"training.batch_size": 4}, **SCENES), tmp_path, smoke=True)
    for entry in done.record.stages.values():
        assert entry.metric == "miou"
        assert 0 < entry.test.miou <= 100
        assert entry.test.num_samples == 8
        assert entry.best_test == max((epoch.test_miou for epoch in entry.epochs), default=None)
    text = write_page([done], tmp_path / "report.html").read_text()
    assert "What is seen" in text
    assert "mIoU, %" in text
    assert "What is misread" not in text
