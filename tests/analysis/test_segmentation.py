import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.analysis.segmentation import segments
from flatbit.data.batches import VOID
from flatbit.data.joint import JointAugment
from flatbit.data.memory import Images, MemoryData


def data(**facts):
    """Six images whose brightest channel is their label; the first row of each is void."""
    images = torch.randint(256, (6, 3, 8, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = images.argmax(1).to(torch.uint8)
    labels[:, 0] = VOID
    split = Images(images=images, labels=labels)
    settings = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "augment": JointAugment(), "task": "segmentation"} | facts
    return MemoryData(name="told", num_classes=3, train=split, test=split, **settings)


def test_each_network_answers_in_eval_mode_for_the_first_images():
    flipped = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9))
    result = segments({"float": nn.Identity(), "W1": flipped}, data(), num_images=2)
    assert result.truth.shape == (2, 8, 10)
    assert (result.truth[:, 0] == VOID).all()
    for said in result.answers.values():  # fresh batch norm in eval mode keeps the order
        assert (said == result.truth)[:, 1:].all()
    assert flipped.training
    assert flipped[1].training
    assert result.pictures.tolist() == data().test.images[:2].tolist()


def test_pixels_right_leaves_void_out():
    class Zero(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    result = segments({"all": nn.Identity(), "zero": Zero()}, data())
    expected = 100 * float((data().test.labels[:4, 1:] == 0).float().mean())
    assert result.pixels_right == {"all": 100, "zero": pytest.approx(expected)}


def test_classes_have_their_names_or_numbers():
    assert segments({}, data()).class_names == ("0", "1", "2")
    assert segments({}, data(class_names=("sky", "road", "car"))).class_names == ("sky", "road", "car")


def test_fewer_images_than_asked_are_all():
    assert len(segments({}, data(), num_images=50).pictures) == 6


def test_labels_have_to_be_per_pixel():
    with pytest.raises(ValueError, match="segments: data set 'digits' is for classification: expected segmentation"):
        segments({}, fb.data.load("digits"))
