import pytest
import torch

from flatbit.data.named import unnamed

X, Y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize("label", ["y", "label", "labels", "target", "targets"])
@pytest.mark.parametrize("name", ["x", "image", "pixel_values", "anything"])
def test_one_input_and_its_labels_are_a_pair_in_either_order(name, label):
    for batch in ({name: X, label: Y}, {label: Y, name: X}):
        x, y = unnamed(batch, "a batch")
        assert (x is X, y is Y) == (True, True)


def test_what_is_no_mapping_is_given_back():
    batch = (X, Y)
    assert unnamed(batch, "a batch") is batch


def test_labels_may_be_missing_where_they_are_not_asked_for():
    assert unnamed({"image": X}, "a batch", labelled=False) == (X,)
    with pytest.raises(ValueError, match=r"\(batch\['image'\], batch\['y'\]\) for batch in batches"):
        unnamed({"image": X}, "a batch")


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({}, "a batch is a dict of nothing: expected one input"),
        ({"y": Y}, r"\(batch\['x'\], batch\['y'\]\)"),
        (
            {"image": X, "label": Y, "id": Y},
            r"of 'image', 'label', 'id': .*\[\(batch\['image'\], batch\['label'\]\) for",
        ),
        ({"input_ids": X, "mask": X, "labels": Y}, "several inputs go to the model as one tensor"),
        (
            {"x": X, "label": Y, "target": Y},
            "expected one input, and labels called y, label, labels, target or targets",
        ),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_others_are_named_with_what_to_write(batch, words, labelled):
    with pytest.raises(ValueError, match=words):
        unnamed(batch, "a batch", labelled=labelled)
