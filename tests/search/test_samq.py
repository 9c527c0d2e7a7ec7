import pytest

from flatbit import plain
from flatbit.search.costs import Price
from flatbit.search.samq import KAPPA, Candidate, Found, Samq, SearchEpoch
from flatbit.train.sharpness import Sharpness


def test_the_papers_settings():
    made = Samq()
    assert (made.epochs, made.warmup, made.lr, made.weight_decay, made.batch_size) == (100, 10, 0.01, 1e-4, 128)
    assert (made.entropy, made.accepted, made.sharpness) == (5e-3, 20, None)
    assert pytest.approx(15.37, abs=0.01) == KAPPA == made.kappa
    assert made.window * 392 == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("target", [392.0, 190.0])
def test_kappa_is_beta_at_the_papers_cost(target):
    """``beta (c - C)^2 = kappa ((c - C)/C)^2`` where ``kappa = beta C^2``."""
    beta, c = 1e-4, 450.0
    kappa = KAPPA * (target / 392) ** 2
    assert kappa * ((c - target) / target) ** 2 == pytest.approx(beta * (c - target) ** 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup": 100}, "warmup=100 of 100 epochs: the generator needs one of its own"),
        ({"epochs": 3, "warmup": 4}, "warmup=4 of 3 epochs"),
        ({"warmup": -1}, "warmup=-1"),
        ({"accepted": 0}, "accepted=0"),
        ({"accepted": 5, "tries": 4}, "accepted=5, tries=4: expected at least one, and as many tries"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Samq(**settings)


def test_what_was_asked_and_found_is_written_and_read():
    asked = Samq(epochs=3, warmup=1, sharpness=Sharpness(method="saq", rho=0.4))
    assert plain.from_plain(Samq, plain.to_plain(asked)) == asked
    best = Candidate(bits={"a": 3}, price=Price(bitops=5, size_bytes=6), top1=50.0)
    found = Found(best=best, accepted=(best,), epochs=(SearchEpoch(epoch=1, train_loss=2.0),))
    assert plain.from_plain(Found, plain.to_plain(found)) == found
