import pytest

from flatbit.engine.record import EpochRecord
from flatbit.engine.words import epoch_in_words, in_words

from .cases import FLOAT


def epoch(number, **scores):
    return EpochRecord(
        epoch=number, lr=0.1, train_loss=1.5, train_top1=50.0, images_per_s=1234.0, seconds=30.0, **scores
    )


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"test_top1": 60.0}, ", top-1 60.00 % on the test set"),
        ({"test_top1": 60.0, "test_miou": 40.0}, ", mIoU 40.00 % on the test set"),
        ({"held_out": 61.0}, ", 61.00 % on held-out images"),
        ({}, ""),
    ],
)
def test_an_epoch_is_a_line(scores, words):
    line = epoch_in_words(FLOAT, [epoch(1, **scores)])
    assert line == f"float: epoch 1 of 2: loss 1.500, top-1 50.00 % in training{words}, 1,234 images/s, 30 s left"


def test_after_the_last_nothing_is_left():
    assert epoch_in_words(FLOAT, [epoch(1), epoch(2)]).endswith("images/s")


@pytest.mark.parametrize(
    ("seconds", "words"), [(1.26, "1.3 s"), (45, "45 s"), (200, "3 min 20 s"), (18600, "5 h 10 min")]
)
def test_times_as_people_say_them(seconds, words):
    assert in_words(seconds) == words
