import numpy as np
import pytest

import flatbit as fb
from flatbit.analysis.weights import WeightHistogram, WeightHistograms, weight_histograms
from flatbit.figures import ANALYSES
from flatbit.figures.weights import weight_panels


def histogram(levels, layer="conv"):
    return WeightHistogram(
        layer=layer,
        edges=np.linspace(-1, 1, 5),
        counts=np.array([1, 3, 3, 1]),
        levels=np.linspace(-1, 1, levels),
        occupancy=np.full(levels, 1 / levels),
    )


def panels(*layers):
    return weight_panels(WeightHistograms(layers=layers), title="weights").axes


@pytest.mark.parametrize("count", [1, 3, 7])
def test_there_is_one_panel_per_layer(count):
    axes = panels(*[histogram(4)] * count)
    assert len(axes) == count
    assert axes[0].get_title(loc="left") == "conv  (4 levels)"


def test_few_levels_are_as_high_as_their_share_and_many_are_ticks():
    few, many = panels(histogram(4), histogram(255))
    assert few.lines[0].get_xdata().tolist() == pytest.approx(np.linspace(-1, 1, 4))
    assert few.lines[0].get_ydata().tolist() == [1.0] * 4
    assert len(many.lines[0].get_xdata()) == 255
    assert max(many.lines[0].get_ydata()) < 0
    np.testing.assert_allclose(few.patches[0].get_data().values, [1 / 3, 1, 1, 1 / 3])


def test_long_names_of_layers_keep_to_their_panel():
    (axes,) = panels(histogram(4, "features.stage4.block23.conv_pointwise.conv"))
    assert axes.get_title(loc="left") == "features.st…ntwise.conv  (4 levels)"


def test_the_analysis_is_that_of_the_model_and_needs_no_data():
    weights = ANALYSES.get("weights")
    assert not weights.needs_data
    model = fb.models.build("preresnet8", first_width=2)
    with pytest.raises(ValueError, match="weights: PreResNetCifar has no layer with quantized weights: expected one"):
        weights.compute(model, None)
    fb.quantize_(model, fb.policy("faq", weights=4, activations=32))
    found = weights.compute(model, None)
    assert [layer.layer for layer in found.layers] == [layer.layer for layer in weight_histograms(model).layers]
