import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.data.augment import Augment, crop, cutout, flip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(n, channels, height, width, seed=0, dtype=torch.uint8):
    return torch.randint(1, 256, (n, channels, height, width), generator=generator(seed)).to(dtype)


SIZES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


def slow_crop(images, pad, generator):
    n, _, height, width = images.shape
    top, left = torch.randint(2 * pad + 1, (2, n), generator=generator).tolist()
    out = torch.zeros_like(images)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                y, x = row + top[i] - pad, column + left[i] - pad
                if 0 <= y < height and 0 <= x < width:
                    out[i, :, row, column] = images[i, :, y, x]
    return out


def slow_flip(images, generator):
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.stack([image.flip(2) if m else image for image, m in zip(images, mirrored, strict=True)])


def slow_cutout(images, side, generator):
    n, _, height, width = images.shape
    y, x = torch.rand(2, n, generator=generator)
    out = images.clone()
    for i in range(n):
        top, left = int(y[i] * height) - side // 2, int(x[i] * width) - side // 2
        out[i, :, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return out


@given(SIZES, st.integers(1, 4), st.integers(0, 99))
def test_crop_equals_a_slow_one_per_image(size, pad, seed):
    images = picture(*size)
    assert torch.equal(crop(images, pad, generator(seed)), slow_crop(images, pad, generator(seed)))


@given(SIZES, st.integers(0, 99))
def test_flip_equals_a_slow_one_per_image(size, seed):
    images = picture(*size)
    assert torch.equal(flip(images, generator(seed)), slow_flip(images, generator(seed)))


@given(SIZES, st.integers(1, 6), st.integers(0, 99))
def test_cutout_equals_a_slow_one_per_image(size, side, seed):
    images = picture(*size)
    assert torch.equal(cutout(images, side, generator(seed)), slow_cutout(images, side, generator(seed)))


def test_every_shift_of_a_crop_comes_up_equally_often():
    images = torch.zeros(9000, 1, 3, 3)
    images[:, 0, 1, 1] = 1
    places = crop(images, 1, generator()).flatten(1).argmax(1).bincount(minlength=9)
    assert places.min() > 850  # of 1000 expected, five standard deviations
    assert places.max() < 1150


def test_half_of_the_images_are_mirrored():
    images = torch.tensor([1.0, 2.0]).expand(4000, 1, 1, 2)
    mirrored = (flip(images, generator())[:, 0, 0, 0] == 2).sum()
    assert 1850 < mirrored < 2150


def test_augment_applies_crop_then_flip_then_cutout_from_one_stream():
    images, stream = picture(8, 3, 6, 6), generator(3)
    expected = slow_cutout(slow_flip(slow_crop(images, 2, stream), stream), 3, stream)
    assert torch.equal(Augment(pad=2, flip=True, cutout=3)(images, generator(3)), expected)


def test_the_default_changes_nothing():
    images = picture(4, 1, 5, 5)
    assert torch.equal(Augment()(images, generator()), images)


def test_images_are_copied_not_changed():
    images = picture(8, 3, 6, 6)
    before = images.clone()
    Augment(pad=2, flip=True, cutout=3)(images, generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_dtype_and_shape_are_kept(dtype):
    out = Augment(pad=1, flip=True, cutout=2)(picture(4, 3, 5, 7, dtype=dtype), generator())
    assert out.dtype == dtype
    assert out.shape == (4, 3, 5, 7)


@pytest.mark.parametrize("arguments", [{"cutout": -3}, {"pad": -1}, {"cutout": "3"}])
def test_sizes_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"=.*: expected a whole number, at least 0"):
        Augment(**arguments)


def test_draws_do_not_follow_the_default_dtype():
    images = torch.randint(256, (16, 3, 40, 40), dtype=torch.uint8)
    augment = Augment(pad=2, flip=True, cutout=5)
    expected = augment(images, torch.Generator().manual_seed(0))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = augment(images, torch.Generator().manual_seed(0))
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)
