import numpy as np
import pytest
import torch
from PIL import Image

from flatbit.data import load
from flatbit.data.batches import VOID

SIZES = [(20, 15), (16, 24), (24, 24), (12, 20)]


def write(root, place="VOCdevkit/VOC2012"):
    """Image i is filled with 50 i, its mask (with a palette) with class i, and void at the right."""
    folder = root / place
    lists = folder / "ImageSets" / "Segmentation"
    for part in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (folder / part).mkdir(parents=True)
    lists.mkdir(parents=True)
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, (50 * i,) * 3).save(folder / "JPEGImages" / f"2007_{i}.jpg", quality=100)
        indices = np.full(size[::-1], i, np.uint8)
        indices[:, -1] = VOID
        for part in ("SegmentationClass", "SegmentationClassAug"):
            mask = Image.frombytes("P", size, indices.tobytes())
            mask.putpalette(list(range(255, -1, -1)) * 3)
            mask.save(folder / part / f"2007_{i}.png")
    (lists / "train.txt").write_text("2007_0\n2007_1\n\n")
    (lists / "val.txt").write_text("2007_2\n2007_3\n")
    return folder


def loaded(root, **settings):
    facts = {"size": 24, "workers": 0, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    return load("voc2012", root, **facts | settings)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_pairs_of_the_lists_are_read(tmp_path, below):
    write(tmp_path)
    data = loaded(tmp_path / below)
    assert (data.task, data.num_classes, data.image_shape) == ("segmentation", 21, (3, 24, 24))
    assert data.class_names[15] == "person"
    x, y = next(iter(data.test_batches()))
    assert (x.shape, y.shape, y.dtype) == ((2, 3, 24, 24), (2, 24, 24), torch.int64)
    known = y != VOID
    assert (x[:, 0] - 50.0 * y)[known].abs().max() <= 3


def test_a_test_image_lies_unscaled_in_a_frame_of_mean_and_void(tmp_path):
    write(tmp_path)
    data = loaded(tmp_path, mean=(0.2, 0.4, 0.6))
    x, y = next(iter(data.test_batches()))
    width, height = SIZES[3]
    assert (y[1, :height, : width - 1] == 3).all()
    assert (y[1, :, width - 1 :] == VOID).all()
    assert (y[1, height:] == VOID).all()
    assert x[1, :, height:].abs().max() < 1e-4
    assert data.pictures([1])[0, :, -1, -1].tolist() == [51, 102, 153]


def test_training_windows_hold_image_and_mask_of_one_place(tmp_path):
    write(tmp_path)
    data = loaded(tmp_path)
    for epoch in range(4):
        (x, y), *more = data.train_batches(2, seed=0).epoch(epoch)
        assert not more
        known = y != VOID
        assert known.any()
        assert (x[:, 0] - 50.0 * y)[known].abs().max() <= 3
    again = next(data.train_batches(2, seed=0).epoch(3))
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], y)


@pytest.mark.parametrize("name", ["train_aug.txt", "trainaug.txt"])
@pytest.mark.parametrize("line", ["2007_3", "/JPEGImages/2007_3.jpg /SegmentationClassAug/2007_3.png"])
def test_the_list_with_sbd(tmp_path, name, line):
    folder = write(tmp_path)
    (folder / "ImageSets" / "Segmentation" / name).write_text(f"{line}\n2007_0\n")
    Image.new("L", SIZES[3], 7).save(folder / "SegmentationClassAug" / "2007_3.png")
    data = loaded(tmp_path, train="train_aug")
    assert len(data.train) == 2
    _, y = data.train.read(0, None)
    assert int(y[0, 0]) == 7


def test_a_missing_list_says_which_there_are(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"has no train_aug\.txt or trainaug\.txt: it has train, val; .*SBD"):
        loaded(tmp_path, train="train_aug")
    with pytest.raises(ValueError, match=r"has no test\.txt: it has train, val$"):
        loaded(tmp_path, test="test")


def test_lists_that_make_no_sense_are_named(tmp_path):
    path = write(tmp_path) / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text("2007_2 1\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 1: '2007_2 1' is neither"):
        loaded(tmp_path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        loaded(tmp_path)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"VOCdevkit/VOC2012 is not there[\s\S]*VOCtrainval_11-May-2012\.tar"):
        loaded(tmp_path)


def test_an_image_larger_than_the_frame_is_named(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"2007_2\.jpg: 24x24 pixels do not fit a frame of 20: load with size=24"):
        list(loaded(tmp_path, size=20).test_batches())


def test_bad_pairs_are_named_or_left_out(tmp_path):
    path = write(tmp_path) / "SegmentationClass" / "2007_2.png"
    Image.new("L", SIZES[2], 21).save(path)
    with pytest.raises(ValueError, match=r"2007_2\.png holds the label 21, expected 0\.\.20"):
        list(loaded(tmp_path).test_batches())
    data = loaded(tmp_path, skip_bad=True)
    with pytest.warns(UserWarning, match="left out 1 samples"):
        ((x, _),) = data.test_batches()
    assert len(x) == 1
    assert list(data.left_out) == [str(path.parent.parent / "JPEGImages" / "2007_2.jpg")]


def test_download_is_asked_for_only_when_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flatbit.data.sets.voc.download_with_torchvision",
        lambda name, root, how, *, year, image_set: (
            write(root) if (name, year) == ("VOCSegmentation", "2012") else None
        ),
    )
    assert len(loaded(tmp_path, download=True).test) == 2


@pytest.mark.parametrize("arguments", [{"size": "big"}, {"size": -3}, {"mean": 0.5}, {"workers": -1}])
def test_arguments_that_make_no_sense_are_refused(tmp_path, arguments):
    write(tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*: expected"):
        loaded(tmp_path, **arguments)


def test_a_list_that_is_not_utf_8_is_named(tmp_path):
    (write(tmp_path) / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"val\.txt holds no UTF-8 text"):
        loaded(tmp_path)
