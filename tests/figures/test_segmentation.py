import numpy as np

from flatbit.analysis.segmentation import Segments
from flatbit.figures.segmentation import segment_gallery

NAMES = ("sky", "road", "car", "tree")


def result(networks=("float", "W4/A4"), n=3, channels=3, names=NAMES):
    truth = np.random.default_rng(0).integers(0, 3, (n, 8, 10))
    truth[0, 0] = 255
    answers = {name: np.where(truth == 255, 0, truth) for name in networks}
    return Segments(pictures=np.zeros((n, channels, 8, 10), np.uint8), truth=truth, answers=answers, class_names=names)


def test_it_has_input_truth_and_every_answer():
    drawn = segment_gallery(result(), title="seen")
    assert drawn.get_suptitle() == "seen"
    assert [axes.get_title() for axes in drawn.axes[:4]] == ["input", "truth", "float", "W4/A4"]
    assert len(drawn.axes) == 12


def test_void_is_white_and_classes_have_the_colour_of_the_key():
    drawn = segment_gallery(result(), title="seen")
    truth = result().truth
    shown = drawn.axes[1].images[0].get_array()
    assert (shown[0] == 1).all()
    colors = [patch.get_facecolor()[:3] for patch in drawn.legends[0].get_patches()]
    np.testing.assert_allclose(shown[4], [colors[label] for label in truth[0, 4]])


def test_the_key_names_the_classes_that_are_to_be_seen():
    drawn = segment_gallery(result(), title="seen")
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["sky", "road", "car"]


def test_answers_that_are_no_class_of_the_data_are_white():
    found = result(names=NAMES[:2])
    drawn = segment_gallery(found, title="seen")
    assert (drawn.axes[2].images[0].get_array()[found.answers["float"][0] == 2] == 1).all()
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["sky", "road"]


def test_grey_images_are_drawn_as_they_are():
    drawn = segment_gallery(result(channels=1), title="seen")
    assert drawn.axes[0].images[0].get_array().shape == (8, 10)
    assert drawn.axes[0].images[0].get_clim() == (0, 255)
