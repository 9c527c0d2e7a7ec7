import copy
import json
import math

import pytest
import torch
from scipy import stats

import flatbit as fb
from flatbit.search.sensitivity import (
    MEASURES,
    Sensitivity,
    noise_share,
    rank_correlation,
    sensitivity,
    weight_error,
)

from .cases import LSQ, probe_of


@pytest.mark.parametrize("measure", MEASURES.names())
def test_every_measure_is_less_at_8_bits_than_at_2(trained, measure):
    model, batches, choices = trained
    found = sensitivity(model, LSQ, choices, batches, measure=measure)
    assert (found.measure, found.num_samples) == (measure, 96)
    assert found.seconds > 0
    assert list(found.values) == ["3", "5"]
    for row in found.values.values():
        assert list(row) == [2, 4, 8]
        assert all(math.isfinite(value) for value in row.values())
        assert row[8] < row[2]


def test_the_model_is_left_as_it_was(trained):
    model, batches, choices = trained
    model.train()
    before = copy.deepcopy(model.state_dict())
    for measure in MEASURES.names():
        sensitivity(model, LSQ, choices, batches[:1], measure=measure)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_only_the_layers_of_the_choice_are_quantized(trained):
    model, batches, choices = trained
    alone = probe_of(model, batches).alone(choices.choices[0], 4)
    assert {name: bits for name, bits in fb.assignment(alone).items() if bits != (32, 32)} == {"3": (4, 4)}
    assert not alone.training


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (3.0, -2.0), (-0.5, 1.0)])
def test_a_scale_and_a_shift_are_no_noise(scale, shift):
    x = torch.randn(100)
    assert noise_share(x, scale * x + shift) == pytest.approx(0, abs=1e-6)


def test_the_share_of_noise_in_closed_form():
    """``1 - r^2`` of a signal and itself with orthogonal noise of a third of its power is 1/4."""
    signal, noise = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert noise_share(signal, signal + noise / 3**0.5) == pytest.approx(0.25)
    assert noise_share(signal, torch.zeros(4)) == 1.0


def test_the_error_of_weights_is_the_noise_times_their_power(trained):
    model, batches, choices = trained
    probe = probe_of(model, batches)
    (found,) = weight_error(probe, choices.choices[0], 3).values()
    layer = probe.alone(choices.choices[0], 3)[3]
    weights = (weight.detach().double().flatten() for weight in (layer.weight, layer.quantized_weight()))
    a, b = (weight - weight.mean() for weight in weights)
    assert found == pytest.approx(float((a - (a @ b) / (b @ b) * b).square().sum()), rel=1e-5)


def test_it_is_saved_and_read_equal_and_prints_a_table(trained, tmp_path):
    model, batches, choices = trained
    found = sensitivity(model, LSQ, choices, batches, measure="noise")
    found.save(tmp_path / "new" / "s.json")
    assert Sensitivity.load(tmp_path / "new" / "s.json") == found
    text = " ".join(str(found).split())
    assert "noise when one layer alone is quantized, 96 images" in text
    assert "2 bits" in text
    assert f"{found.values['3'][2]:.4g}" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "3",
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('"format": 1, ', ""),
        lambda text: text.replace('"values"', '"value"'),
        lambda text: text.replace("0.5", '"a half"'),
        lambda text: text.replace('"2"', '"two"'),
        lambda text: text.replace("9", "9.5"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    path = tmp_path / "s.json"
    Sensitivity(measure="loss", values={"a": {2: 0.5}}, num_samples=9).save(path)
    text = json.dumps(json.loads(path.read_text()))
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(ValueError, match=r"s\.json: no sensitivity that this version wrote"):
        Sensitivity.load(path)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: no sensitivity that this version wrote \(.*No such file"):
        Sensitivity.load(tmp_path / "gone.json")


def test_no_batches_and_no_such_measure(trained):
    model, batches, choices = trained
    with pytest.raises(ValueError, match="sensitivity needs batches: got none"):
        sensitivity(model, LSQ, choices, [])
    with pytest.raises(ValueError, match="unknown measure 'nois': did you mean noise"):
        sensitivity(model, LSQ, choices, batches, measure="nois")


def test_the_rank_correlation_is_scipys_with_fishers_interval():
    generator = torch.Generator().manual_seed(1)
    one = {str(i): float(v) for i, v in enumerate(torch.randn(20, generator=generator))}
    other = {name: value + 0.8 * float(torch.randn((), generator=generator)) for name, value in one.items()}
    rho, low, high = rank_correlation(one, other | {"more": 0.0})
    assert rho == pytest.approx(stats.spearmanr(list(one.values()), list(other.values())).statistic)
    z, half = math.atanh(rho), 1.959963985 / math.sqrt(17)
    assert (low, high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)), rel=1e-6)
    _, wider, _ = rank_correlation(one, other, level=0.99)
    assert wider < low


def test_ranks_that_agree_entirely_or_not_at_all():
    one = {name: float(index) for index, name in enumerate("abcdef")}
    assert rank_correlation(one, {name: value**3 for name, value in one.items()})[0] == pytest.approx(1)
    rho, low, high = rank_correlation(one, {name: -value for name, value in one.items()})
    assert rho == pytest.approx(-1)
    assert -1 <= low <= high <= -0.99


def test_too_few_ranks():
    with pytest.raises(ValueError, match="a rank correlation of 3 values: expected 4 or more"):
        rank_correlation(dict.fromkeys("abcd", 1.0), dict.fromkeys("abcx", 1.0))
