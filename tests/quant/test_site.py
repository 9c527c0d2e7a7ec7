from flatbit.quant.site import Site


def test_names_its_tensor_and_layer():
    assert str(Site(layer="fc", role="weight")) == "weight of layer 'fc'"
    assert str(Site(layer="lstm", role="weight", tensor="weight_ih")) == "weight_ih of layer 'lstm'"
    assert Site(role="output").name == "output"


def test_stands_nowhere_by_default():
    assert str(Site()) == "input of layer '(no layer)'"
    assert Site().step_shape == Site().candidates == ()
