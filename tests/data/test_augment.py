import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.data.augment import Augment

ALL = Augment(pad=2, flip=True, cutout=3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(n, channels, height, width, seed=0, dtype=torch.uint8):
    return torch.randint(1, 256, (n, channels, height, width), generator=generator(seed)).to(dtype)


SIZES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))
PARTS = {"pad": st.integers(0, 4), "flip": st.booleans(), "cutout": st.integers(0, 6)}
AUGMENTS = st.builds(lambda **parts: Augment(**parts), **PARTS)


def slow(augment, images, draws):
    """Pixel by pixel, from the definition: crop, then flip, then cutout."""
    height, width = images.shape[2:]
    out = torch.zeros_like(images)
    for i, (top, left, mirrored, centre_y, centre_x) in enumerate(draws.tolist()):
        for row in range(height):
            for column in range(width):
                y = row + top - augment.pad
                x = (width - 1 - column if mirrored else column) + left - augment.pad
                first_y, first_x = centre_y - augment.cutout // 2, centre_x - augment.cutout // 2
                cut = 0 <= row - first_y < augment.cutout and 0 <= column - first_x < augment.cutout
                if 0 <= y < height and 0 <= x < width and not cut:
                    out[i, :, row, column] = images[i, :, y, x]
    return out


def augmented(augment, images, seed=0):
    return augment.apply(images, augment.draw(len(images), images.shape[1:], generator(seed)))


@given(AUGMENTS, SIZES, st.integers(0, 99))
def test_it_equals_a_slow_one_per_pixel(augment, size, seed):
    images = picture(*size)
    draws = augment.draw(len(images), images.shape[1:], generator(seed))
    assert torch.equal(augment.apply(images, draws), slow(augment, images, draws))


@given(AUGMENTS, SIZES, st.integers(0, 99))
def test_draws_are_a_function_of_the_generator_and_lie_in_their_bounds(augment, size, seed):
    n, *shape = size
    draws = augment.draw(n, shape, generator(seed))
    assert torch.equal(draws, augment.draw(n, shape, generator(seed)))
    assert (draws.shape, draws.dtype, draws.device.type) == ((n, 5), torch.int64, "cpu")
    window = 2 * augment.pad + 1
    bounds = torch.tensor([window, window, 2 if augment.flip else 1, *(shape[1:] if augment.cutout else (1, 1))])
    assert ((draws >= 0) & (draws < bounds)).all()


@given(AUGMENTS, st.integers(0, 6))
def test_a_slice_of_the_draws_does_its_images(augment, cut):
    images = picture(6, 3, 6, 5)
    draws = augment.draw(6, (3, 6, 5), generator(1))
    parts = [augment.apply(images[part], draws[part]) for part in (slice(0, cut), slice(cut, 6)) if len(images[part])]
    assert torch.equal(torch.cat(parts), augment.apply(images, draws))


def test_every_shift_flip_and_centre_comes_up_equally_often():
    draws = Augment(pad=1, flip=True, cutout=2).draw(36000, (3, 4, 6), generator())
    places = (3 * draws[:, 0] + draws[:, 1]).bincount(minlength=9)
    assert (places - 4000).abs().max() < 300  # five standard deviations
    assert abs(int(draws[:, 2].sum()) - 18000) < 475
    centres = (6 * draws[:, 3] + draws[:, 4]).bincount(minlength=24)
    assert (centres - 1500).abs().max() < 195


def test_draws_of_an_image_are_independent():
    draws = ALL.draw(20000, (3, 8, 8), generator()).double()
    correlations = torch.corrcoef(draws.T) - torch.eye(5, dtype=torch.float64)
    assert correlations.abs().max() < 0.036  # five standard deviations
    neighbours = torch.stack([torch.corrcoef(torch.stack([column[1:], column[:-1]]))[0, 1] for column in draws.T])
    assert neighbours.abs().max() < 0.036


def test_features_have_nothing_to_draw_and_stay():
    x = torch.rand(4, 7)
    draws = Augment().draw(4, (7,), generator())
    assert (draws == 0).all()
    assert torch.equal(Augment().apply(x, draws), x)


def test_the_default_changes_nothing():
    images = picture(4, 1, 5, 5)
    assert torch.equal(augmented(Augment(), images), images)


def test_images_are_copied_not_changed():
    images = picture(8, 3, 6, 6)
    before = images.clone()
    augmented(ALL, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_dtype_and_shape_are_kept(dtype):
    out = augmented(ALL, picture(4, 3, 5, 7, dtype=dtype))
    assert out.dtype == dtype
    assert out.shape == (4, 3, 5, 7)


@pytest.mark.parametrize("arguments", [{"cutout": -3}, {"pad": -1}, {"cutout": "3"}])
def test_sizes_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"=.*: expected a whole number, at least 0"):
        Augment(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_device_gives_the_images_of_the_cpu(device, dtype):
    images = picture(32, 3, 16, 12, dtype=dtype)
    draws = ALL.draw(32, (3, 16, 12), generator())
    assert torch.equal(ALL.apply(images.to(device), draws.to(device)).cpu(), ALL.apply(images, draws))
