import numpy as np
import pytest
import torch
from PIL import Image

from flatbit.data.batches import generator
from flatbit.data.decode import (
    central_box,
    random_box,
    read_crop,
    read_mask,
    read_rgb,
    to_rgb,
)


def gradient(width=64, height=48):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 255 / (width - 1)], -1).astype(np.uint8)


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def rgb(tmp_path, image, name="a.png", **options):
    found = read_rgb(saved(tmp_path, image, name, **options))
    assert found.dtype == torch.uint8
    return found.permute(1, 2, 0).numpy()


def test_rgb_comes_as_it_is(tmp_path):
    assert np.array_equal(rgb(tmp_path, Image.fromarray(gradient())), gradient())


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palettes(tmp_path, mode):
    image = Image.fromarray(gradient()).convert(mode)
    assert np.array_equal(rgb(tmp_path, image), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red in ink
    found = rgb(tmp_path, image, "a.jpg", quality=95)
    assert np.abs(found.reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 6


def test_alpha_is_laid_over_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 10, 20, 30, 255
    pixels[0, 1] = 10, 20, 30, 0
    pixels[1, 0] = 0, 0, 0, 128
    found = rgb(tmp_path, Image.fromarray(pixels))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert abs(int(found[1, 0, 0]) - 127) <= 1
    grey = Image.new("LA", (1, 1), (0, 0))
    assert rgb(tmp_path, grey).tolist() == [[[255, 255, 255]]]


def test_a_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    assert rgb(tmp_path, image, "a.png", transparency=0).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_16_bits_become_8_and_not_white(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    found = rgb(tmp_path, Image.fromarray(values))
    assert found[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (found == found[:, :, :1]).all()
    assert to_rgb(Image.fromarray(values.astype(np.int32)))  # mode I, as older Pillow opens such files


@pytest.mark.parametrize("values", [np.array([[70000]], np.int32), np.array([[-1]], np.int32)])
def test_32_bits_are_refused(values):
    with pytest.raises(ValueError, match="mode I has values"):
        to_rgb(Image.fromarray(values))


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="mode F"):
        to_rgb(Image.fromarray(np.zeros((2, 2), np.float32)))


def crop(path, box, size):
    with Image.open(path) as image:
        return read_crop(image, box, size)


def test_crop_and_resize_are_those_of_two_steps(tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient()))
    found = crop(path, (10, 5, 50, 45), (20, 20))
    expected = Image.fromarray(gradient()).crop((10, 5, 50, 45)).resize((20, 20), Image.Resampling.BILINEAR)
    assert found.shape == (3, 20, 20)
    apart = np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected))
    assert apart[1:-1, 1:-1].max() <= 1
    assert apart.max() <= 3  # at its edges the box is antialiased with what lies around it


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 9])
def test_a_jpeg_decoded_smaller_shows_the_same(tmp_path, factor):
    path = saved(tmp_path, Image.fromarray(gradient(401, 303)), "a.jpg", quality=95)
    size = 240 // factor
    box = (11, 7, 11 + 240, 7 + 240)
    found = crop(path, box, (size, size)).permute(1, 2, 0).numpy().astype(int)
    expected = np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box))
    assert np.abs(found - expected).max() <= 6


def test_a_jpeg_is_decoded_smaller_only_where_pixels_to_spare_are_left(tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient(512, 512)), "a.jpg")
    for side, expected in ((300, 512), (256, 512), (129, 512), (128, 256), (65, 256), (64, 128), (32, 64), (8, 64)):
        with Image.open(path) as image:
            read_crop(image, (0, 0, 256, 256), (side, side))
            assert image.width == expected, side


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_indices_not_colours(tmp_path, mode):
    indices = np.array([[0, 1, 20], [255, 3, 4]], np.uint8)
    image = Image.fromarray(indices)
    if mode == "P":
        image = Image.frombytes("P", (3, 2), indices.tobytes())
        image.putpalette(list(range(255, -1, -1)) * 3)
    assert np.array_equal(read_mask(saved(tmp_path, image)).numpy(), indices)


def test_masks_of_16_bits_hold_small_numbers(tmp_path):
    values = np.array([[0, 255]], np.uint16)
    assert read_mask(saved(tmp_path, Image.fromarray(values))).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match="a value of 256"):
        read_mask(saved(tmp_path, Image.fromarray(values + 1)))


def test_coloured_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the mask has mode RGB, expected class indices"):
        read_mask(saved(tmp_path, Image.fromarray(gradient())))


def test_random_boxes_lie_inside_and_have_the_areas_and_ratios():
    stream = generator(0)
    boxes = np.array([random_box(500, 375, stream) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 500).all()
    assert (boxes[:, 3] <= 375).all()
    area, ratio = width * height / (500 * 375), width / height
    assert 0.075 < area.min() < 0.1
    assert area.max() > 0.9
    assert 0.73 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.06  # a little wide: some tall boxes do not fit
    assert 0 in boxes[:, 0]


@pytest.mark.parametrize(("size", "expected"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))])
def test_images_too_long_for_any_box_give_their_middle(size, expected):
    assert random_box(*size, generator(0), scale=(1.0, 1.0)) == expected


def test_central_box():
    assert central_box(400, 200, 0.5) == (150, 50, 250, 150)
    assert central_box(100, 300, 1.0) == (0, 100, 100, 200)
