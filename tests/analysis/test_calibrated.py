"""The packaged table is the newest record's, and speaks against a policy only where the record does."""

from pathlib import Path

import pytest

import flatbit as fb
from flatbit.analysis import calibrated
from flatbit.analysis.calibrated import CalibrationLoss, better_start, calibration_losses

ROOT = Path(__file__).parents[2]


def test_the_packaged_table_is_the_newest_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from calibrated import in_lines, table_of

    from records import newest, of

    (record,) = of(newest(), "calibrated")
    assert calibrated.TABLE.read_text() == in_lines(table_of(record.rows))


def test_each_row_says_its_n():
    assert {each.net: each.n for each in calibration_losses()} == {"PreResNet-8, digits": 5, "ResNet-20, CIFAR-10": 1}
    assert all((each.std is None) == (each.n == 1) for each in calibration_losses())


def test_uniq_at_8_bits_is_poor_where_another_loses_next_to_nothing():
    own, best = better_start(fb.policy("uniq", weights=8, activations=8))
    assert (own.net, own.policy, own.weights, own.activations) == ("ResNet-20, CIFAR-10", "uniq", 8, 8)
    assert own.loss > best.loss + 1
    assert best.loss < 1


@pytest.mark.parametrize("bits", [(5, 5), (4, 8), (8, 4)])
def test_of_bits_that_were_not_measured_it_says_nothing(bits):
    assert better_start(fb.policy("saq", weights=bits[0], activations=bits[1])) is None


def test_a_policy_is_poor_by_more_than_a_point_and_twice_its_spread(monkeypatch):
    def row(policy, loss, std=None, net="n"):
        return CalibrationLoss(net=net, policy=policy, weights=4, activations=4, n=5, loss=loss, std=std)

    def better(*rows):
        monkeypatch.setattr(calibrated, "calibration_losses", lambda: rows)
        return better_start(fb.policy("uniq", weights=4, activations=4))

    best, other = row("faq", 1.0, 0.1), row("saq", 9.0)
    assert better(other, best, row("uniq", 1.9)) is None
    assert better(other, best, row("uniq", 4.0, 2.0)) is None
    assert better(other, best, row("uniq", 4.0, 1.0)) == (row("uniq", 4.0, 1.0), best)
    assert better(best, row("uniq", 4.0), row("faq", 0.0, net="m"), row("uniq", 9.0, net="m"))[0].net == "m"
    assert better(row("uniq", 40.0)) is None


def test_a_row_in_words():
    row = CalibrationLoss(net="n", policy="uniq", weights=8, activations=8, n=5, loss=1.9, std=0.25)
    assert row.in_words == "uniq lost 1.90 ± 0.25 points"
