import pytest
import torch

from flatbit.data.batches import generator
from flatbit.data.samples import (
    Reader,
    Samples,
    left_out_text,
    listed,
    reason,
    stack,
)

from .cases import Numbered


def test_a_part_holds_its_samples_in_order():
    x, y, bad = Reader(Numbered(9), None)[0, [4, 2, 7]]
    assert x[:, 0, 0, 0].tolist() == [4, 2, 7]
    assert y.tolist() == [4, 2, 7]
    assert bad == []


def test_augmentation_follows_from_seed_epoch_and_index():
    def noise(seed, epoch, indices):
        return Reader(Numbered(9), seed)[epoch, indices].x[:, 0, 0, 0].frac().tolist()

    expected = [float(torch.rand(1, generator=generator(3, 5, i))) for i in (4, 2)]
    assert noise(3, 5, [4, 2]) == pytest.approx(expected, abs=1e-6)
    assert noise(3, 5, [2]) == pytest.approx(expected[1:], abs=1e-6)
    assert noise(3, 6, [2]) != noise(3, 5, [2])
    assert noise(4, 5, [2]) != noise(3, 5, [2])


def test_bad_samples_are_handed_over_with_name_reason_and_place():
    part = Reader(Numbered(9, bad=(2, 3)), None)[0, [1, 2, 3]]
    assert part.y.tolist() == [1]
    assert [(bad.name, bad.reason) for bad in part.bad] == [
        ("file 2", "OSError: damaged"),
        ("file 3", "OSError: damaged"),
    ]
    assert "in read" in part.bad[0].trace


def test_nothing_readable_gives_an_empty_part():
    part = Reader(Numbered(9, bad=(2,)), None)[0, [2]]
    assert len(part.y) == 0
    assert len(part.bad) == 1


def test_images_are_stacked_channels_last():
    images = [torch.rand(3, 4, 5), torch.rand(4, 5, 3).permute(2, 0, 1)]
    found = stack(images)
    assert torch.equal(found, torch.stack(images))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert stack([torch.zeros(2), torch.ones(2)]).tolist() == [[0, 0], [1, 1]]


def test_reasons_are_one_line_and_say_the_kind_of_error():
    assert reason(ValueError("label 3")) == "label 3"
    assert reason(KeyError("a")) == "KeyError: 'a'"


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Samples()


def test_what_is_left_out_is_counted_and_the_first_ones_listed():
    bad = {f"{i}.png": "damaged" for i in range(7)}
    assert left_out_text("x", {"0.png": "damaged"}) == (
        "data set 'x': left out 1 samples that cannot be read: 0.png (damaged)"
    )
    assert listed(bad, 2) == "0.png (damaged); 1.png (damaged); and 5 more, all in the data's left_out"
