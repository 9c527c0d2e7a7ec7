import numpy as np
import pytest
import torch
from torch import nn

from flatbit.analysis.segmentation import segments
from flatbit.figures import style as figure


def batches():
    x = torch.randn(6, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    return [(x, x.argmax(1))]


def test_each_network_answers_in_eval_mode_for_the_first_images():
    flipped = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9))
    result = segments({"float": nn.Identity(), "W1": flipped}, batches(), num_images=2)
    assert result.truth.shape == (2, 8, 10)
    assert (result.answers["float"] == result.truth).all()
    assert (result.answers["W1"] == result.truth).all()  # fresh batch norm in eval mode keeps the order
    assert flipped.training
    assert flipped[1].training


def test_labels_have_to_be_per_pixel():
    with pytest.raises(ValueError, match=r"shape \(2,\): expected one per pixel"):
        segments({}, [(torch.randn(2, 3, 4, 4), torch.zeros(2))])
    with pytest.raises(ValueError, match="no batches"):
        segments({}, [])


def test_the_gallery_has_input_truth_and_every_answer():
    result = segments({"float": nn.Identity(), "W4/A4": nn.Identity()}, batches(), num_images=3)
    result.truth[0, 0] = 255
    drawn = figure.segment_gallery(result, np.zeros((3, 8, 10, 3), np.uint8), ["sky", "road", "car"])
    assert [axes.get_title() for axes in drawn.axes[:4]] == ["input", "truth", "float", "W4/A4"]
    assert len(drawn.axes) == 12
    shown = drawn.axes[1].images[0].get_array()
    assert (shown[0] == 1).all()  # void is white
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["sky", "road", "car"]
