from torch import nn

from flatbit.quant.first_last import FIRST_LAST, at_8_bits, at_bits, in_float
from flatbit.quant.policy import Rule, base_policy

MODEL = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))


def widths(*rules, weights=2, activations=3):
    specs = base_policy("uniq", weights, activations, rules).resolve(MODEL)
    return [(s.weight.bits if s.weight else 32, s.input.bits if s.input else 32) for s in specs.values()]


def test_at_8_bits_in_what_is_quantized():
    assert widths(*at_8_bits(2, 3)) == [(8, 8), (2, 3), (8, 8)]
    assert widths(*at_8_bits(2, 32), activations=32) == [(8, 32), (2, 32), (8, 32)]
    assert widths(*at_8_bits(32, 3), weights=32) == [(32, 8), (32, 3), (32, 8)]


def test_at_bits_of_their_own_or_those_of_the_policy():
    assert widths(*at_bits(6, None)) == [(6, 3), (2, 3), (6, 3)]
    assert widths(*at_bits(None, 5)) == [(2, 5), (2, 3), (2, 5)]
    assert at_bits(None, None, placement="input") == tuple(Rule(p, {"placement": "input"}) for p in FIRST_LAST)


def test_more_settings_go_with_the_bits():
    assert at_8_bits(2, 2, placement="input")[0].changes == {"weights": 8, "activations": 8, "placement": "input"}


def test_in_float_first_and_last_or_others():
    assert widths(*in_float()) == [(32, 32), (2, 3), (32, 32)]
    assert widths(*in_float("1")) == [(2, 3), (32, 32), (2, 3)]
    assert [rule.pattern for rule in in_float(*FIRST_LAST, "@shortcut")] == ["@first", "@last", "@shortcut"]
