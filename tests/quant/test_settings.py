import pytest

from flatbit.quant.settings import Settings, check_bits, check_changes, check_quantizers


@pytest.mark.parametrize("bits", [0, -1, 9, 16, 31, 33])
def test_bits_are_one_to_eight_or_float(bits):
    with pytest.raises(ValueError, match="expected 1 to 8 bits"):
        check_bits("weights", bits)


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_bits_that_there_are_pass(bits):
    check_bits("weights", bits)


def test_values_are_checked_by_their_setting():
    check_changes("here", {"weights": 2, "activation_options": {}, "norm": None})
    with pytest.raises(ValueError, match="here: unknown setting 'wieghts': did you mean weights"):
        check_changes("here", {"wieghts": 2})
    with pytest.raises(ValueError, match=r"here: activation_options=\[1\]: expected a mapping"):
        check_changes("here", {"activation_options": [1]})


def test_one_possible_method_that_takes_what_is_given_is_enough():
    uniq = Settings(weights=2, activations=2, method="uniq", activation_method="uniq", granularity="channel")
    saq = Settings(weights=2, activations=2, method="saq", activation_method="saq", granularity="channel")
    given = {"granularity": "channel"}
    check_quantizers("fc", [saq, uniq], given)
    check_quantizers("fc", [saq], {"weights": 3})
    with pytest.raises(ValueError, match="weight of layer 'fc': method 'saq' takes one step per tensor, got 'channel'"):
        check_quantizers("fc", [saq], given)
