import pytest

from flatbit.quant.activation import ActivationQuantizer
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.quantizers import METHODS, Method, Methods
from flatbit.quant.quantizers.lsq import LsqActivation, LsqWeight
from flatbit.quant.site import Site


@pytest.fixture
def methods():
    return Methods("quantization method", "flatbit.nonempty")


def made(**attributes):
    whole = dict.fromkeys(("code_range", "step_of", "observe_"), lambda self, *args: None)
    return type("Mine", (Quantizer,), whole | {"method": "mine", "surrogate": "identity"} | attributes)


def lacking(attribute):
    return made(**{attribute: None})


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (LsqWeight, "expected a Method.*, got <class"),
        (Method(paper="none"), "quantizes neither weights nor activations"),
        (Method(weights=made()(4, Site()), paper=""), "weights=Mine.*: expected a subclass of Quantizer"),
        (Method(weights=Site, paper=""), "weights=.*Site.*: expected a subclass of Quantizer"),
        (Method(activations=ActivationQuantizer, paper=""), "activations=.*: it lacks .*signed_range.*step_of"),
        (Method(weights=LsqWeight, paper=""), "its attribute method is 'lsq': expected the name that it is"),
        (Method(weights=lacking("method"), paper=""), "its attribute method is None"),
        (Method(weights=lacking("surrogate"), paper=""), "its attribute surrogate is None: expected 'identity' or"),
        (Method(weights=made(surrogate="ste"), paper=""), "its attribute surrogate is 'ste': expected 'identity' or"),
        (Method(weights=made(ties="up"), paper=""), "its attribute ties is 'up': expected 'even' or"),
        (Method(weights=made(supported_bits=()), paper=""), "supported_bits is empty"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_refused_when_it_is_registered(methods, thing, words):
    with pytest.raises(ValueError, match=f"quantization method 'mine'.*{words}"):
        methods.add("mine", thing)
    assert methods.names() == []


def test_a_method_that_is_defined_anew_replaces_itself(methods):
    first, second = (Method(weights=made(), paper=paper) for paper in ("draft", "draft"))
    methods.add("mine", first)
    methods.add("mine", second)
    assert methods.get("mine") is second
    with pytest.raises(ValueError, match="quantization method 'mine' is registered twice"):
        methods.add("mine", Method(weights=type("Other", (made(),), {}), paper="draft"))


def test_ours_are_whole():
    methods = Methods("quantization method", "flatbit.nonempty")
    for name in METHODS.names():
        methods.add(name, METHODS.get(name))
    assert methods.get("lsq") == Method(weights=LsqWeight, activations=LsqActivation, paper=methods.get("lsq").paper)


@pytest.mark.parametrize("name", ["", "my method", "a:b", "a.b", "2bit", "--x", 3, None])
def test_a_name_is_a_plain_word(methods, name):
    with pytest.raises(ValueError, match="expected letters, digits, - and _, a letter first"):
        methods.add(name, Method(weights=made(method=name), paper=""))
