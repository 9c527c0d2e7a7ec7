from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flatbit.analysis.mistakes import Misread
from flatbit.figures import ANALYSES
from flatbit.figures.mistakes import misread_gallery, misread_in_words, misread_pictures
from flatbit.figures.style import RIGHT, WRONG

IMAGES = np.arange(50 * 4, dtype=np.uint8).reshape(50, 1, 2, 2)


def wrong(n, pictures=IMAGES, names=("zero", "one")):
    index = np.arange(n)
    answers = {"float": np.zeros(n, int), "W1/A1": np.ones(n, int)}
    return Misread(
        index=index, labels=0 * index, answers=answers, pictures=pictures[:n], class_names=names, num_samples=5000
    )


def gallery(*arguments, **settings):
    return misread_gallery(wrong(*arguments, **settings), title="misread")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_it_says_truth_and_both_answers_wrong_ones_in_red():
    drawn = gallery(3)
    axes = drawn.axes[1]
    assert drawn.get_suptitle() == "misread"
    assert axes.get_title() == "is zero"
    assert texts(axes) == ["float: zero", "W1/A1: one"]
    assert [text.get_color() for text in axes.texts] == [RIGHT, WRONG]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[4, 5], [6, 7]])


@pytest.mark.filterwarnings("error")
def test_a_net_of_many_widths_has_a_short_name_below_its_picture():
    found = wrong(1)
    name = "W2/A3, W3/A3, W3/A4, W4/A4, W4/A5, W5/A4, W5/A5, W6/A4, W6/A5"
    drawn = misread_gallery(replace(found, answers={name: found.answers["float"]}), title="misread")
    (said,) = texts(drawn.axes[0])
    assert len(said) < 20
    assert said.startswith("W2/A")


@pytest.mark.parametrize(("misread", "kept"), [(3, 3), (40, 18), (40, 5)])
def test_it_is_as_long_as_there_are_pictures(misread, kept):
    assert len(gallery(misread, IMAGES[:kept]).axes) == kept


def test_what_is_no_class_of_the_data_or_has_no_name_is_a_number():
    assert texts(gallery(1, names=("zero",)).axes[0]) == ["float: zero", "W1/A1: 1"]
    assert texts(gallery(1, names=()).axes[0]) == ["float: 0", "W1/A1: 1"]


def test_of_nothing_it_says_so():
    (axes,) = gallery(0).axes
    assert texts(axes) == ["Of 5,000 images none is misread."]


def test_coloured_images():
    assert gallery(2, np.zeros((2, 3, 2, 2), np.uint8)).axes[0].images[0].get_array().shape == (2, 2, 3)


def test_the_analysis_is_of_one_net(blobs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # says 1, whatever it sees
    mistakes = ANALYSES.get("mistakes")
    found = mistakes.compute(model, blobs)
    assert found.num_wrong == {"net": int((blobs.test.labels != 1).sum())}
    assert texts(mistakes.draw(found, title="").axes[0]) == ["net: 1"]


def test_every_picture_alone_is_that_of_the_gallery_and_says_what_it_shows():
    found = wrong(3)
    alone, together = misread_pictures(found), gallery(3)
    assert len(alone) == 3
    for figure, axes in zip(alone, together.axes, strict=True):
        (own,) = figure.axes
        assert (texts(own), own.get_title()) == (texts(axes), axes.get_title())
        np.testing.assert_array_equal(own.images[0].get_array(), axes.images[0].get_array())
    assert misread_in_words(found, 2) == "test image 2, which is zero: float says zero, W1/A1 says one"
