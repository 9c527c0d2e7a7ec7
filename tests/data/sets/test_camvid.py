import numpy as np
import pytest
import torch
from PIL import Image

from flatbit.data import load
from flatbit.data.batches import VOID

COUNTS = {"train": 5, "val": 2, "test": 3}


def write(folder, size=(8, 6)):
    """Image i is filled with i, its mask with class i but for a void row."""
    for split, count in COUNTS.items():
        for part in (split, f"{split}annot"):
            (folder / part).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (10 * i,) * 3).save(folder / split / f"{i:04d}.png")
            mask = np.full(size[::-1], i, np.uint8)
            mask[0] = 11
            Image.fromarray(mask).save(folder / f"{split}annot" / f"{i:04d}.png")
    return folder


@pytest.mark.parametrize("place", ["camvid", "CamVid", ""])
def test_images_and_masks_come_as_they_were_written(tmp_path, place):
    write(tmp_path / place)
    data = load("camvid", tmp_path)
    assert (len(data.train.images), len(data.test.images)) == (5, 3)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert (data.train.labels[:, 0] == VOID).all()
    assert data.train.labels[:, 1, 1].tolist() == [0, 1, 2, 3, 4]
    assert (data.task, data.num_classes, data.image_shape) == ("segmentation", 11, (3, 6, 8))
    assert len(data.class_names) == 11
    assert len(load("camvid", tmp_path, test="val").test.images) == 2


def test_batches(tmp_path):
    write(tmp_path)
    data = load("camvid", tmp_path, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    for x, y in data.train_batches(2, seed=1):
        assert (x.shape, y.shape, y.dtype) == ((2, 3, 6, 8), (2, 6, 8), torch.int64)
        known = y != VOID
        assert torch.equal(x[:, 0][known], 10.0 * y[known])
    x, y = next(iter(data.test_batches()))
    assert torch.equal(x[:, 0, 1:], 10.0 * y[:, 1:])


def test_windows_may_have_another_size(tmp_path):
    x, y = next(iter(load("camvid", write(tmp_path), crop=(4, 4)).train_batches(2, seed=0)))
    assert (x.shape, y.shape) == ((2, 3, 4, 4), (2, 4, 4))


def test_outside_the_image_is_the_mean(tmp_path):
    data = load("camvid", write(tmp_path), mean=(0.2, 0.4, 0.6))
    assert data.augment.fill == (51.0, 102.0, 153.0)


def test_missing_folders_are_named(tmp_path):
    write(tmp_path / "camvid")
    for path in (tmp_path / "camvid" / "testannot").iterdir():
        path.unlink()
    (tmp_path / "camvid" / "testannot").rmdir()
    with pytest.raises(ValueError, match="has no testannot\n"):
        load("camvid", tmp_path)


def test_an_image_without_its_mask_is_named(tmp_path):
    (write(tmp_path) / "trainannot" / "0002.png").unlink()
    with pytest.raises(
        ValueError, match=r"hold 1 files that make no pair .*: .*train/0002\.png\. Mend .*skip_bad=True"
    ):
        load("camvid", tmp_path)


def test_an_empty_split_is_an_error(tmp_path):
    write(tmp_path)
    for part in ("test", "testannot"):
        for path in (tmp_path / part).iterdir():
            path.unlink()
    with pytest.raises(ValueError, match="test and testannot beside it hold no files"):
        load("camvid", tmp_path)


def test_an_image_of_another_size_is_named(tmp_path):
    write(tmp_path)
    Image.new("RGB", (6, 6)).save(tmp_path / "train" / "0003.png")
    Image.new("L", (6, 6)).save(tmp_path / "trainannot" / "0003.png")
    with pytest.raises(ValueError, match=r"0003\.png is \(3, 6, 6\), .*0000\.png \(3, 6, 8\): one size is needed"):
        load("camvid", tmp_path)


def test_a_label_out_of_range_is_named(tmp_path):
    Image.new("L", (8, 6), 12).save(write(tmp_path) / "testannot" / "0001.png")
    with pytest.raises(ValueError, match=r"testannot/0001\.png holds the label 12, expected 0\.\.10, or 11 for void"):
        load("camvid", tmp_path)


def test_images_and_masks_pair_by_name_without_suffix(tmp_path):
    write(tmp_path)
    for path in sorted((tmp_path / "train").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    data = load("camvid", tmp_path)
    assert data.train.labels[:, 1, 1].tolist() == [0, 1, 2, 3, 4]
    assert data.left_out == {}


def test_two_images_of_one_name_make_no_pair(tmp_path):
    Image.new("RGB", (8, 6)).save(write(tmp_path) / "train" / "0002.jpg")
    with pytest.raises(ValueError, match=r"hold 3 files that make no pair .*: .*train/0002\.jpg, .*train/0002\.png"):
        load("camvid", tmp_path)


def test_bad_pairs_are_left_out_counted_and_listed_where_asked(tmp_path):
    write(tmp_path)
    cut_off, alone, small = (tmp_path / part for part in ("train/0001.png", "trainannot/9999.png", "test/0002.png"))
    cut_off.write_bytes(cut_off.read_bytes()[:50])
    Image.new("L", (8, 6)).save(alone)
    for path in (small, tmp_path / "testannot" / "0002.png"):
        Image.new("L", (4, 6)).save(path)
    with pytest.warns(UserWarning, match=r"'camvid': left out 3 samples that cannot be read: .*9999\.png"):
        data = load("camvid", tmp_path, skip_bad=True)
    assert data.train.labels[:, 1, 1].tolist() == [0, 2, 3, 4]
    assert len(data.test.images) == 2
    assert set(data.left_out) == {str(cut_off), str(alone), str(small)}
    assert "cannot be read" in data.left_out[str(cut_off)]
    alone.unlink()
    with pytest.raises(ValueError, match=r"train/0001\.png cannot be read.*skip_bad=True"):
        load("camvid", tmp_path)


def test_a_split_of_bad_pairs_only_is_an_error(tmp_path):
    for path in (write(tmp_path) / "test").iterdir():
        path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"not one pair of .*test and its masks can be read: .*0000\.png"):
        load("camvid", tmp_path, skip_bad=True)


@pytest.mark.parametrize(
    "arguments", [{"crop": 64}, {"crop": [0, 10]}, {"mean": 0.5}, {"mean": "abc"}, {"std": [-1.0] * 3}]
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.*: expected"):
        load("camvid", write(tmp_path), **arguments)
