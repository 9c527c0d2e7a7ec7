import pytest
import torch

from flatbit.data.batches import VOID
from flatbit.data.labels import class_indices, whole_numbers

UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)


@pytest.mark.parametrize("dtype", WHOLE)
def test_any_whole_number_is_a_label(dtype):
    y = torch.tensor([0, 5, 100])
    found = whole_numbers(y.to(dtype), "somewhere")
    assert found.dtype == torch.int64
    assert torch.equal(found, y)


def test_bools_are_the_classes_0_and_1():
    assert whole_numbers(torch.tensor([True, False]), "somewhere").tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.complex64])
def test_others_are_refused_by_name(dtype):
    with pytest.raises(
        ValueError, match=rf"train\[3\]: labels are {dtype}, expected whole numbers.* got shape \(2, 3\)"
    ):
        whole_numbers(torch.zeros(2, 3, dtype=dtype), "train[3]")


@pytest.mark.parametrize(
    ("logits", "given", "shape"),
    [
        ((4, 3), (4,), (4,)),
        ((4, 3), (4, 1), (4,)),
        ((1, 3), (1, 1), (1,)),
        ((4, 1), (4, 1), (4,)),
        ((2, 3, 5, 6), (2, 5, 6), (2, 5, 6)),
        ((2, 3, 5, 6), (2, 1, 5, 6), (2, 5, 6)),
        ((2, 3, 1, 6), (2, 1, 6), (2, 1, 6)),
        ((1, 3, 1, 1), (1, 1, 1), (1, 1, 1)),
    ],
)
def test_they_take_the_shape_that_the_logits_ask_for(logits, given, shape):
    assert class_indices(torch.zeros(given, dtype=torch.uint8), torch.zeros(logits), "Net").shape == shape


@pytest.mark.parametrize(
    ("logits", "given"),
    [((4, 3), (4, 3)), ((4, 3), (1, 4)), ((4, 3), ()), ((4,), (4,)), ((4, 3), (4, 1, 1)), ((2, 3, 5, 6), (2,))],
)
def test_other_shapes_are_refused_with_both(logits, given):
    with pytest.raises(ValueError, match=r"Net gives logits of shape \(.*\) for labels of shape \(.*\): expected \(N"):
        class_indices(torch.zeros(given, dtype=torch.long), torch.zeros(logits), "Net")


def test_void_is_no_class_of_a_pixel():
    y = torch.zeros(1, 2, 2, dtype=torch.long)
    assert torch.equal(class_indices(y, torch.zeros(1, VOID, 2, 2), "Net"), y)
    with pytest.raises(
        ValueError, match="Net gives 256 classes per pixel: expected 255 at most, for the label 255 is v"
    ):
        class_indices(y, torch.zeros(1, 256, 2, 2), "Net")
