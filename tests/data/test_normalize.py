import pytest
import torch

from flatbit.data.normalize import Normalize

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.5, 1.0)


def column(values):
    return torch.tensor(values).reshape(3, 1, 1)


def test_pixels_count_from_zero_to_one():
    pixels = torch.randint(256, (6, 3, 4, 5), dtype=torch.uint8)
    x = Normalize(MEAN, STD)(pixels)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x, (pixels / 255 - column(MEAN)) / column(STD))


def test_floats_count_as_they_are():
    images = torch.rand(6, 3, 4, 5, dtype=torch.float64)
    before = images.clone()
    torch.testing.assert_close(Normalize(MEAN, STD)(images), ((images - column(MEAN)) / column(STD)).float())
    assert torch.equal(images, before)


def test_float32_inputs_are_not_changed_in_place():
    features = torch.rand(6, 3)
    before = features.clone()
    Normalize(MEAN, STD)(features)
    assert torch.equal(features, before)


def test_one_normalization_serves_shapes_and_dtypes():
    normalize = Normalize((0.5,), (0.25,))
    for x in (torch.full((2, 1), 0.75), torch.full((1, 1, 2, 2), 0.75), torch.full((1, 1, 3, 2), 0.75)):
        assert torch.equal(normalize(x), torch.ones_like(x))
    assert torch.equal(normalize(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)), torch.full((1, 1, 2, 2), -2.0))


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        *[((0.1,), (1.0, 1.0)), ((0.1,), ()), ((0.1,), (0.0,)), ((0.1,), (-1.0,)), ((0.1,), (NAN,))],
        *[((0.1,), (INFINITE,)), ((0.1,), "a"), ((0.1,), 1.0)],
    ],
)
def test_mean_and_std_that_do_not_fit_are_refused(mean, std):
    with pytest.raises(ValueError, match="std"):
        Normalize(mean, std)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="inputs have 1 channels, mean and std are of 3"):
        Normalize(MEAN, STD)(torch.zeros(2, 1, 4, 4))


def test_shapes_are_checked_before_there_is_a_batch():
    Normalize(MEAN, STD).check((3, 4, 4))
    with pytest.raises(ValueError, match="inputs have 1 channels"):
        Normalize(MEAN, STD).check((1, 4, 4))


@pytest.mark.parametrize("mean", [(), (NAN,) * 3, (INFINITE,) * 3, "abc", 0.5])
def test_a_mean_that_is_not_finite_numbers_is_refused(mean):
    with pytest.raises(ValueError, match=r"mean=.*: expected a list of finite numbers"):
        Normalize(mean, STD)


def test_constants_do_not_follow_the_default_dtype():
    x = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(x)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(x)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)
