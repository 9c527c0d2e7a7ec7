import math

import numpy as np
import pytest
import torch

from flatbit.data.augment import Augment
from flatbit.data.batches import VOID, generator
from flatbit.data.joint import JointAugment, check_augment


def scenes(n, height=6, width=9, seed=0):
    images = torch.randint(0, 256, (n, 3, height, width), generator=generator(seed), dtype=torch.uint8)
    masks = torch.randint(0, 11, (n, height, width), generator=generator(seed, 1), dtype=torch.uint8)
    return images, masks


def augmented(augment, images, masks, seed=0):
    return augment.apply(images, masks, augment.draw(len(images), images.shape[1:], generator(seed)))


def slow(image, mask, scale, top, left, mirrored, size, fill):
    """Pixel by pixel, from the definition: bilinear with the border repeated, nearest for the mask."""
    (height, width), (h, w) = mask.shape, size
    out, labels = np.zeros((3, h, w)), np.full((h, w), VOID)
    for i in range(h):
        for j in range(w):
            y = (i + top + 0.5) / scale - 0.5
            x = ((w - 1 - j if mirrored else j) + left + 0.5) / scale - 0.5
            if not (-0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5):
                out[:, i, j] = fill
                continue
            labels[i, j] = mask[math.floor(y + 0.5), math.floor(x + 0.5)]
            y0, x0 = math.floor(y), math.floor(x)
            for a, share_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                for b, share_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                    pixel = image[:, min(max(a, 0), height - 1), min(max(b, 0), width - 1)]
                    out[:, i, j] += share_y * share_x * pixel.numpy()
    return out, labels


@pytest.mark.parametrize("size", [(6, 9), (4, 5), (11, 7)])
def test_equals_a_slow_one_per_pixel(size):
    images, masks = scenes(6)
    augment = JointAugment(size=size, fill=(1.0, 2.0, 3.0))
    draws = augment.draw(6, (3, 6, 9), generator(5))
    pixels, labels = augment.apply(images, masks, draws)
    for k in range(6):
        scale = float(0.5 + 1.5 * draws[k, 0])
        top = float(draws[k, 1]) * (scale * 6 - size[0])
        left = float(draws[k, 2]) * (scale * 9 - size[1])
        args = (scale, top, left, bool(draws[k, 3] < 0.5), size, (1, 2, 3))
        expected, expected_labels = slow(images[k], masks[k], *args)
        assert np.abs(pixels[k].numpy() - expected).max() <= 0.51  # rounded to a byte
        assert (labels[k].numpy() != expected_labels).mean() < 0.05  # ties of float32 at pixel borders


def test_scale_one_without_flip_changes_nothing():
    images, masks = scenes(4)
    pixels, labels = augmented(JointAugment(scale=(1, 1), flip=False), images, masks)
    assert torch.equal(pixels, images)
    assert torch.equal(labels, masks)


def test_scale_one_with_flip_mirrors_half_of_the_pairs():
    images, masks = scenes(400)
    pixels, labels = augmented(JointAugment(scale=(1, 1)), images, masks)
    mirrored = (pixels == images.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, (labels == masks.flip(2)).flatten(1).all(1))
    assert torch.equal(~mirrored, (labels == masks).flatten(1).all(1))
    assert 150 < mirrored.sum() < 250


def test_images_and_masks_show_the_same_place():
    mask = torch.arange(120 * 160).reshape(120, 160) // 700
    images = (mask * 9).to(torch.uint8)[None, None].expand(16, 3, 120, 160)
    augment = JointAugment(fill=(250.0,) * 3)
    pixels, labels = augmented(augment, images, mask.to(torch.uint8).expand(16, 120, 160), 1)
    known = labels != VOID
    assert known.float().mean() > 0.5
    # Regions are in order down the image: where two of them are blended, the pixel lies between theirs.
    assert (pixels[:, 0].int() - 9 * labels.int())[known].abs().max() <= 9


def test_a_small_image_is_surrounded_by_fill_and_void():
    images, masks = scenes(8)
    pixels, labels = augmented(JointAugment(scale=(0.5, 0.5), fill=(7.0, 8.0, 9.0)), images, masks, 2)
    outside = labels == VOID
    assert (outside.float().mean((1, 2)) >= 0.6).all()  # three quarters, up to a row and a column
    for channel, value in enumerate((7, 8, 9)):
        assert (pixels[:, channel][outside] == value).all()


def test_dtypes_and_shapes():
    pixels, labels = augmented(JointAugment(size=(5, 4)), *scenes(2))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (2, 3, 5, 4))
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 5, 4))


def test_it_is_a_function_of_the_generator():
    some, others, again = (augmented(JointAugment(), *scenes(4), k) for k in (1, 2, 1))
    assert torch.equal(some[0], again[0])
    assert torch.equal(some[1], again[1])
    assert not torch.equal(some[0], others[0])


@pytest.mark.parametrize("scale", [(0, 1), (2, 1)])
def test_scales_that_make_no_sense_are_refused(scale):
    with pytest.raises(ValueError, match="expected \\(least, largest\\), positive"):
        JointAugment(scale=scale)


@pytest.mark.parametrize("size", [64, (0, 10)])
def test_sizes_that_make_no_sense_are_refused(size):
    with pytest.raises(ValueError, match=r"size=.*: expected \(height, width\)"):
        JointAugment(size=size)


def test_float_images_keep_their_values():
    images, masks = torch.rand(4, 3, 9, 9), torch.zeros(4, 9, 9, dtype=torch.long)
    kept, _ = augmented(JointAugment(scale=(1, 1), flip=False), images, masks)
    torch.testing.assert_close(kept, images)
    assert kept.dtype == torch.float32


def test_draws_do_not_follow_the_default_dtype():
    images = torch.randint(256, (4, 3, 9, 9), dtype=torch.uint8)
    masks = torch.randint(5, (4, 9, 9), dtype=torch.uint8)
    expected = augmented(JointAugment(fill=(104.5,)), images, masks)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = augmented(JointAugment(fill=(104.5,)), images, masks)
    finally:
        torch.set_default_dtype(before)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("augment", "task", "shape", "message"),
    [
        (
            Augment(flip=True),
            "segmentation",
            (3, 4, 4),
            "segmentation does not go with Augment: expected JointAugment, w",
        ),
        (JointAugment(), "classification", (3, 4, 4), "classification does not go with JointAugment: expected Augment"),
        (
            Augment(pad=1),
            "classification",
            (7,),
            r"Augment\(pad=1.* is for images \(C, H, W\), inputs have shape \(7,\)",
        ),
        (
            JointAugment(fill=(1.0, 2.0, 3.0)),
            "segmentation",
            (1, 4, 4),
            "expected one value, or one for each of 1 chann",
        ),
    ],
)
def test_an_augmentation_that_is_not_for_the_data_is_refused(augment, task, shape, message):
    with pytest.raises(ValueError, match=message):
        check_augment(augment, task, shape)


def test_those_that_are_for_the_data_pass():
    for augment, task, shape in (
        (None, "segmentation", (3, 4, 4)),
        (Augment(), "classification", (7,)),
        (JointAugment(), "segmentation", (1, 4, 4)),
    ):
        check_augment(augment, task, shape)


def test_draws_are_uniform_and_independent():
    draws = JointAugment().draw(20000, (3, 6, 9), generator(0))
    assert (draws.shape, draws.dtype, draws.device.type) == ((20000, 4), torch.float32, "cpu")
    for column in draws.T:
        counts = (column * 10).long().bincount(minlength=10)
        assert (counts - 2000).abs().max() < 215  # five standard deviations
    assert (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 0.036


def test_a_slice_of_the_draws_does_its_pairs():
    images, masks = scenes(5)
    draws = JointAugment().draw(5, (3, 6, 9), generator(2))
    whole = JointAugment().apply(images, masks, draws)
    for part in (slice(0, 2), slice(2, 5)):
        some = JointAugment().apply(images[part], masks[part], draws[part])
        assert all(torch.equal(a, b[part]) for a, b in zip(some, whole, strict=True))


@pytest.mark.gpu
def test_a_device_gives_the_masks_of_the_cpu_and_images_but_for_rounding(device):
    images, masks = scenes(16, 48, 64)
    augment = JointAugment(fill=(1.0, 2.0, 3.0))
    draws = augment.draw(16, (3, 48, 64), generator(0))
    pixels, labels = augment.apply(images, masks, draws)
    others, other_labels = augment.apply(images.to(device), masks.to(device), draws.to(device))
    assert torch.equal(other_labels.cpu(), labels)
    assert (others.cpu().int() - pixels.int()).abs().max() <= 1
