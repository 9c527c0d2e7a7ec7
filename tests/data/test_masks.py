import numpy as np
import pytest
from PIL import Image

from flatbit.data.batches import VOID
from flatbit.data.masks import fill_of, read_pair


@pytest.fixture
def pair(tmp_path):
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.new("RGB", (4, 3), (1, 2, 3)).save(image)
    Image.fromarray(np.array([[0, 1, 2, 11]] * 3, np.uint8)).save(mask)
    return image, mask


def test_the_void_label_becomes_void(pair):
    image, mask = read_pair(*pair, 11, void=11)
    assert image.shape == (3, 3, 4)
    assert mask[0].tolist() == [0, 1, 2, VOID]


def test_a_label_out_of_range_is_named(pair):
    with pytest.raises(ValueError, match=r"mask\.png holds the label 11, expected 0\.\.10, or 255 for void"):
        read_pair(*pair, 11)


def test_another_size_is_named(pair):
    Image.new("L", (3, 4)).save(pair[1])
    with pytest.raises(ValueError, match=r"mask\.png is \(4, 3\), its image \(3, 4\)"):
        read_pair(*pair, 12)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kept", [0, 20, 46])
def test_a_truncated_file_is_named(pair, which, kept):
    pair[which].write_bytes(pair[which].read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{pair[which].name} cannot be read"):
        read_pair(*pair, 12)


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(pair, which):
    pair[which].unlink()
    with pytest.raises(ValueError, match=f"{pair[which].name} cannot be read"):
        read_pair(*pair, 12)


def test_a_mask_of_colours_is_named(pair):
    Image.new("RGB", (4, 3)).save(pair[1])
    with pytest.raises(ValueError, match=r"mask\.png cannot be read: the mask has mode RGB"):
        read_pair(*pair, 12)


def test_fill_is_the_mean_in_bytes():
    assert fill_of((0.0, 0.5, 1.0)) == (0.0, 128.0, 255.0)


def test_whatever_a_decoder_raises_is_named_by_path(tmp_path, monkeypatch):
    def broken(path):
        raise EOFError("no more")

    monkeypatch.setattr("flatbit.data.masks.read_rgb", broken)
    with pytest.raises(ValueError, match=r"0\.png cannot be read: no more"):
        read_pair(tmp_path / "0.png", tmp_path / "0.png", 2)


@pytest.mark.parametrize("mean", [0.5, "abc", [float("nan")] * 3])
def test_a_mean_that_makes_no_sense_is_refused(mean):
    with pytest.raises(ValueError, match=r"mean=.*: expected"):
        fill_of(mean)
