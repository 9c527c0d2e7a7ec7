import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flatbit as fb
from flatbit import data as datasets
from flatbit.engine.fit import arguments_of, build_model, fitted, matched, outputs_of
from flatbit.engine.recipe import Recipe, Stage
from flatbit.quant.table import has_quantized_layers

from .cases import recipe, shades, small

MEASURED = Stage(name="float", epochs=0)
GREY = datasets.load("digits")


def coloured(**arguments):
    """A builder that says how many channels it takes, and takes no other."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def quantized(num_classes):
    """A builder that quantizes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    fb.quantize_(model, fb.policy("sqwa-all", weights=2))
    return model


def test_the_builder_gets_the_datas_classes_and_channels_where_it_takes_them():
    assert arguments_of(small(MEASURED), GREY) == {"num_classes": 10, "in_channels": 1, "first_width": 2}
    flat = Recipe(name="f", model="fcdnn", data="digits", stages=(MEASURED,))
    assert arguments_of(flat, GREY) == {"num_classes": 10}


def test_what_the_recipe_says_goes_before_the_data():
    assert arguments_of(small(MEASURED, num_classes=12, in_channels=3), GREY) == {
        "num_classes": 12, "in_channels": 3, "first_width": 2,
    }  # fmt: skip


def test_the_model_is_that_of_the_seed():
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(build_model(recipe(MEASURED), shades()))
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))


def test_a_builder_that_quantizes_gives_its_float_net():
    assert not has_quantized_layers(build_model(recipe(MEASURED, model=f"{__name__}:quantized"), shades()))


def test_grey_data_match_a_coloured_net_and_nothing_else_changes():
    assert matched(GREY, fb.models.build("resnet8")).image_shape == (3, 8, 8)
    for model in (fb.models.build("resnet8", in_channels=1), nn.Linear(64, 10), nn.Identity()):
        assert matched(GREY, model) is GREY


def test_data_of_the_plane_match_whatever_they_are_given():
    points = datasets.load("spirals")
    assert matched(points, fb.models.build("fcdnn")) is points


def test_outputs_are_those_of_the_last_layer():
    assert outputs_of(fb.models.build("resnet8", num_classes=7)) == 7
    assert outputs_of(nn.Identity()) is None


def test_what_fits_is_left_alone_and_nothing_is_said():
    made = small(MEASURED)
    assert fitted(made, GREY, build_model(made, GREY)) == (made, GREY, ())


def test_grey_images_are_repeated_and_that_is_said_and_part_of_the_recipe():
    made = small(MEASURED, in_channels=3)
    fit, data, notes = fitted(made, GREY, build_model(made, GREY))
    assert fit.data_arguments == {"channels": 3}
    assert data.image_shape == datasets.load(fit.data, **fit.data_arguments).image_shape == (3, 8, 8)
    assert notes == ("resnet8 takes images of 3 channels: the grey ones of digits are repeated",)


def test_more_outputs_than_classes_are_said():
    made = small(MEASURED, num_classes=12)
    _, _, notes = fitted(made, GREY, build_model(made, GREY))
    assert notes == ("resnet8 has 12 outputs, the data 10 classes: --model-arg num_classes= mends it",)


def test_both_are_said_of_a_builder_of_ones_own():
    made = recipe(MEASURED, model=f"{__name__}:coloured")
    fit, data, notes = fitted(made, shades(), coloured())
    assert (data.image_shape, fit.data_arguments, len(notes)) == ((3, 8, 8), {"channels": 3}, 2)


def test_samples_that_come_in_their_own_order_are_told():
    source = TensorDataset(torch.rand(8, 1, 8, 8), torch.arange(8))
    for train, said in ((source, ()), (DataLoader(source, 4), ("come in the order that its iterable has",))):
        data = datasets.user_data(train, source, num_classes=10)
        notes = fitted(small(MEASURED), data, build_model(small(MEASURED), data))[2]
        assert len(notes) == len(said)
        assert all(part in note for part, note in zip(said, notes, strict=True))
