from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.analysis.mistakes import misread
from flatbit.data.memory import Images, MemoryData


class Says(nn.Module):
    """Answers with the channel of x that it was told to read; in training mode it says 0."""

    def __init__(self, channel):
        super().__init__()
        self.channel = channel
        self.dropout = nn.Dropout()

    def forward(self, x):
        answers = x[:, self.channel, 0, 0].mul(255).round().long() * (not self.dropout.training)
        return nn.functional.one_hot(answers, 4).float()


TRUTH = torch.tensor([0, 1, 2, 3, 0, 1])
FIRST = torch.tensor([0, 1, 3, 3, 1, 1])  # wrong at 2 and 4
SECOND = torch.tensor([0, 2, 3, 3, 0, 0])  # wrong at 1, 2 and 5


def data(first=FIRST, second=SECOND, copies=1):
    """Images whose two channels hold what the two networks will say."""
    images = torch.stack([first, second], 1)[:, :, None, None].repeat(copies, 1, 2, 2).to(torch.uint8)
    split = Images(images=images, labels=TRUTH.repeat(copies))
    return MemoryData(
        name="told", num_classes=4, train=split, test=split, mean=(0.0, 0.0), std=(1.0, 1.0), class_names=tuple("abcd")
    )


def both():
    return {"one": Says(0), "other": Says(1)}


def test_keeps_what_either_gets_wrong():
    result = misread(both(), data())
    assert result.index.tolist() == [1, 2, 4, 5]
    assert result.labels.tolist() == [1, 2, 0, 1]
    assert result.answers["one"].tolist() == [1, 3, 1, 1]
    assert result.answers["other"].tolist() == [2, 3, 0, 0]
    assert result.num_samples == 6
    assert result.num_wrong == {"one": 2, "other": 3}


def test_it_holds_pictures_of_the_first_of_them_and_the_names():
    result = misread(both(), data(), num_pictures=3)
    assert result.pictures[:, 0, 0, 0].tolist() == [1, 3, 1]
    assert result.pictures.dtype == np.uint8
    assert result.class_names == ("a", "b", "c", "d")


def test_one_network_alone():
    result = misread({"one": Says(0)}, data())
    assert result.index.tolist() == [2, 4]


def test_over_many_batches():
    result = misread(both(), data(copies=200))
    assert (len(result.index), result.num_samples) == (800, 1200)
    assert result.index[-1] == 1199


def test_nothing_misread_is_an_empty_result():
    result = misread(both(), data(TRUTH, TRUTH))
    assert len(result.index) == len(result.labels) == len(result.pictures) == 0
    assert result.num_wrong == {"one": 0, "other": 0}
    assert result.num_samples == 6


def test_modes_are_restored():
    first, second = Says(0).train(), Says(1).eval()
    misread({"one": first, "other": second}, data())
    assert all(m.training for m in first.modules())
    assert not any(m.training for m in second.modules())


def test_modes_are_restored_after_an_error():
    first, second = Says(0).train(), Says(7).train()
    with pytest.raises(IndexError):
        misread({"one": first, "other": second}, data())
    assert all(m.training for network in (first, second) for m in network.modules())


def test_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    misread(both(), data())
    assert torch.equal(torch.get_rng_state(), before)


def test_data_without_images_of_one_class_each():
    with pytest.raises(
        ValueError, match=r"misread: data set 'spirals' is for classification, of inputs \(2,\): expected"
    ):
        misread(both(), fb.data.load("spirals"))


def test_data_without_test_batches():
    class Empty:
        task, image_shape = "classification", (1, 2, 2)

        def test_batches(self):
            return []

    with pytest.raises(ValueError, match="misread got no batches"):
        misread(both(), Empty())
    with pytest.raises(ValueError, match="a split of it has no images"):
        misread(both(), replace(data(), test=Images(images=data().test.images[:0], labels=TRUTH[:0])))
