import numpy as np
import pytest
import torch

from flatbit.data.form import About, Form


def item(x, y):
    """An item of these shapes, all zero."""
    return torch.zeros(x), torch.zeros(y, dtype=torch.long)


def told(x, y, *, batched=False, **about):
    """How many samples an item of these shapes holds, and the shapes of one."""
    samples = Form(5, About(**about)).samples(item(x, y), "here", batched=batched)
    return len(samples), tuple(samples[0][0].shape), tuple(samples[0][1].shape)


@pytest.mark.parametrize(
    ("x", "y"), [((7,), ()), ((7,), (1,)), ((1, 8, 8), ()), ((1, 8, 8), (1,)), ((3, 8, 8), (1,)), ((1, 1, 1), (1,))]
)
def test_features_and_images_are_samples_whose_label_may_be_an_array_of_one(x, y):
    assert told(x, y) == (1, x, ())
    assert not Form(5, About()).is_batch(item(x, y), "here")


@pytest.mark.parametrize(
    ("x", "y"), [((4, 7), (4,)), ((4, 7), (4, 1)), ((4, 1, 8, 8), (4,)), ((4, 3, 8, 8), (4, 1)), ((1, 3, 8, 8), (1,))]
)
def test_one_more_axis_makes_a_batch(x, y):
    assert told(x, y) == (x[0], x[1:], ())
    assert Form(5, About()).is_batch(item(x, y), "here")


@pytest.mark.parametrize(
    ("x", "y", "shapes"),
    [((3, 4, 6), (4, 6), (1, (3, 4, 6), (4, 6))), ((3, 4, 6), (1, 4, 6), (1, (3, 4, 6), (4, 6))),
     ((2, 1, 4, 6), (2, 4, 6), (2, (1, 4, 6), (4, 6))), ((2, 1, 4, 6), (2, 1, 4, 6), (2, (1, 4, 6), (4, 6)))],
)  # fmt: skip
def test_masks_may_have_an_axis_of_one_too(x, y, shapes):
    assert told(x, y, task="segmentation") == shapes


@pytest.mark.parametrize(
    ("x", "y", "axes", "shapes"),
    [
        ((2, 64), (), 2, (1, (2, 64), ())),
        ((1, 64), (1,), 2, (1, (1, 64), ())),
        ((4, 2, 64), (4,), 2, (4, (2, 64), ())),
        ((1, 8, 8, 8), (1,), 4, (1, (1, 8, 8, 8), ())),
        ((1, 8, 8, 8), (1,), 3, (1, (8, 8, 8), ())),
        ((1, 64), (1,), 1, (1, (64,), ())),
    ],
)
def test_what_is_said_is_not_guessed(x, y, axes, shapes):
    assert told(x, y, axes=axes) == shapes


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((28, 28), ()),  # an image without its channel axis, or a signal
        ((28, 28), (1,)),
        ((4, 28, 28), (4,)),
        ((1, 8, 8, 8), ()),  # a volume, or an image with an axis too many
        ((2, 1, 8, 8, 8), (2,)),
        ((3, 8, 8), (5,)),  # one value per class
        ((4, 3, 8, 8), (4, 5)),
        ((4, 3, 8, 8), (3,)),
        ((3, 8, 8), (8, 8)),
    ],
)
def test_what_is_neither_is_refused_with_what_was_seen(x, y):
    with pytest.raises(
        ValueError, match=r"here: x \(.*\) and y \(.*\) are neither a sample nor a batch: .*About\(axes=2"
    ):
        told(x, y)


@pytest.mark.parametrize("x", [(1, 8, 8, 8), (1, 64)])
def test_what_may_be_a_batch_of_one_or_a_sample_is_refused(x):
    with pytest.raises(
        ValueError, match=r"a batch of one, or one sample with an array for a label: .*axes=4, and for a batch"
    ):
        told(x, (1,))
    assert told(x, (1,), batched=True) == (1, x[1:], ())
    assert told(x, (1, 1)) == (1, x[1:], ())


def test_where_all_are_batches_no_item_is_a_sample():
    with pytest.raises(ValueError, match="neither a sample nor a batch"):
        told((1, 28, 28), (1,), batched=True)


@pytest.mark.parametrize(
    "label", [np.array([3], dtype=np.int32), np.uint16(3), np.int8(3), torch.tensor([3]).short(), 3]
)
def test_labels_of_any_whole_number_come_as_int64(label):
    _, y = Form(5, About()).sample((torch.zeros(1, 8, 8), label), "here")
    assert (y.dtype, y.shape, int(y)) == (torch.int64, (), 3)


@pytest.mark.parametrize("label", [True, np.bool_(True), torch.tensor([True])])
def test_bools_are_the_classes_0_and_1(label):
    assert int(Form(5, About()).sample((torch.zeros(1, 8, 8), label), "here")[1]) == 1


def test_about_says_only_what_can_be():
    for arguments in ({"axes": 0}, {"axes": 5}, {"axes": 4, "task": "segmentation"}):
        with pytest.raises(ValueError, match=rf"axes={arguments['axes']}: expected one of .* for "):
            About(**arguments)
    with pytest.raises(ValueError, match="num_classes=256: expected 255 at most, for the label 255 is void"):
        Form(256, About(task="segmentation"))
    assert Form(256, About()).num_classes == 256
