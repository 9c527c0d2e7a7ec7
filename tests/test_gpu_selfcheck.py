"""The self-check's captured updates: what is no fault passes, a fault is found."""

import pytest

from benchmarks.gpu import selfcheck
from flatbit.engine.update import Update


def captured(monkeypatch, act):
    """Captured updates do otherwise than eager ones: ``act(update, batches, lr)``."""

    class Other(Update):
        def __call__(self, batches, lr):
            if self.way.graphs:
                return act(super().__call__, batches, lr)
            return super().__call__(batches, lr)

    monkeypatch.setattr(selfcheck, "Update", Other)


def test_sums_in_another_order_are_no_fault(monkeypatch):
    captured(monkeypatch, lambda update, batches, lr: update([(x.flip(0), y.flip(0)) for x, y in batches], lr))
    assert "4 updates" in selfcheck.capture("cpu")


def test_another_rate_is_a_fault(monkeypatch):
    captured(monkeypatch, lambda update, batches, lr: update(batches, lr * 1.0001))
    with pytest.raises(selfcheck.CheckError, match="after 4 updates both are"):
        selfcheck.capture("cpu")
