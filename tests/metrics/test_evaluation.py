import itertools
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import flatbit as fb
from flatbit import plain
from flatbit.bounded import bounded
from flatbit.metrics import evaluation
from flatbit.metrics.evaluation import Metrics
from flatbit.quant import as_float
from flatbit.quant.proof import Proof, Usage

from ..no_waits import as_on_a_device, waits_of

LOGITS = nn.Identity()  # a model whose input is its logits


def scores(n=37, classes=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


def by_hand(x, y):
    x, y = x.double().numpy(), y.numpy()
    ranks = [int((row > row[label]).sum()) for row, label in zip(x, y, strict=True)]
    losses = [math.log(np.exp(row).sum()) - row[label] for row, label in zip(x, y, strict=True)]
    n = len(y)
    return 100 * sum(r < 1 for r in ranks) / n, 100 * sum(r < 5 for r in ranks) / n, sum(losses) / n


@pytest.mark.parametrize("size", [1, 10, 37, 100])
def test_metrics_are_those_of_the_hand_computation(size):
    x, y = scores()
    metrics = fb.evaluate(LOGITS, zip(x.split(size), y.split(size), strict=True))
    top1, top5, loss = by_hand(x, y)
    assert (metrics.top1, metrics.top5) == (pytest.approx(top1), pytest.approx(top5))
    assert metrics.loss == pytest.approx(loss, rel=1e-6)
    assert metrics.num_samples == 37


def test_top5_of_few_classes_is_everything():
    x, y = scores(classes=3)
    assert fb.evaluate(LOGITS, [(x, y)]).top5 == 100.0


def test_half_precision_logits_are_scored_in_float():
    x, y = scores()
    assert fb.evaluate(LOGITS, [(x.half(), y)]).loss == pytest.approx(by_hand(x.half(), y)[2], rel=1e-6)


def test_modes_are_restored_and_eval_is_used():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(8), nn.Dropout(0.1)).train()
    model[1].eval()
    x, y = scores()
    expected = by_hand(x / (1 + model[1].eps) ** 0.5, y)[2]
    assert fb.evaluate(model, [(x, y)]).loss == pytest.approx(expected, rel=1e-5)
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_modes_are_restored_after_an_error():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 8)).train()
    with pytest.raises(RuntimeError):
        fb.evaluate(model, [scores()])
    assert all(m.training for m in model.modules())


def test_the_model_is_as_before():
    model = quantized()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    fb.evaluate(model, [batch()])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("batches", [[], iter([])])
def test_no_batches_is_an_error(batches):
    with pytest.raises(ValueError, match="evaluate got no batches: the iterable is empty, or was used up before"):
        fb.evaluate(LOGITS, batches)


def test_empty_batches_do_not_count():
    x, y = scores()
    assert fb.evaluate(LOGITS, [(x[:0], y[:0]), (x, y), (x[:0], y[:0])]) == fb.evaluate(LOGITS, [(x, y)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    x, y = scores()
    model = nn.Linear(8, 8)
    model.weight.data[3, 3] = bad
    with pytest.raises(ValueError, match=r"the logits are NaN or infinite: .* of Linear is not finite"):
        fb.evaluate(model, zip(x.split(10), y.split(10), strict=True))


def test_an_impossible_label_is_an_error_too():
    x, y = scores()
    model = nn.Linear(8, 8)
    model.bias.data[y[20]] = -math.inf
    with pytest.raises(ValueError, match="the logits are NaN or infinite"):
        fb.evaluate(model, [(x, y)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("index", [0, 2])
def test_images_that_are_not_finite_are_named_by_their_batch(bad, index):
    x, y = batch()
    x[4 * index + 1, 0, 0, 0] = bad
    for model in (quantized(), fb.models.build("preresnet8", first_width=4)):
        with pytest.raises(ValueError, match=rf"batch {index} has NaN or infinite values in its images"):
            fb.evaluate(model, zip(x.split(4), y.split(4), strict=True))


def test_a_label_without_output_is_an_error():
    x, y = scores()
    y[5] = 8
    with pytest.raises(ValueError, match="a label is 8, but Identity has 8 outputs: it was built for another data set"):
        fb.evaluate(LOGITS, [(x, y)])


def batch(n=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)


def quantized(method="uniq", bits=2):
    torch.manual_seed(0)
    model = fb.models.build("preresnet8", first_width=4)
    fb.quantize_(model, fb.policy(method, weights=bits, activations=bits))
    fb.calibrate_(model, [batch()])
    return model


@pytest.mark.parametrize("method", ["uniq", "faq", "saq"])
def test_the_proof_and_the_convention_come_with_the_numbers(method):
    metrics = fb.evaluate(quantized(method), [batch()])
    assert metrics.convention.policy == method
    assert metrics.convention.inner.startswith("W2/A2")
    counts = metrics.proof.usage["layers.1.0.conv2.weight_quantizer"]
    assert 2 <= counts.used <= counts.allowed <= 4
    assert metrics.proof.usage["conv1.weight_quantizer"].allowed in (255, 256)


def test_a_float_model_has_nothing_to_prove():
    metrics = fb.evaluate(LOGITS, [scores()])
    assert metrics.convention.policy == "float"
    assert metrics.proof.usage == {}


def test_as_dict_is_plain():
    metrics = fb.evaluate(quantized(), [batch()])
    written = json.loads(json.dumps(metrics.as_dict()))
    assert (written["top1"], written["loss"], written["num_samples"]) == (metrics.top1, metrics.loss, 16)
    assert written["convention"] == asdict(metrics.convention)
    assert written["proof"]["fc.weight_quantizer"] == [metrics.proof.usage["fc.weight_quantizer"].used, 256]
    assert "miou" not in written


@pytest.mark.parametrize("miou", [None, 12.5])
def test_as_dict_is_read_back_equal(miou):
    for model, data in ((quantized(), batch()), (LOGITS, scores())):
        metrics = replace(fb.evaluate(model, [data]), miou=miou)
        written = json.loads(json.dumps(metrics.as_dict()))
        assert plain.from_plain(Metrics, written) == metrics


def test_a_proof_that_is_none_is_refused():
    written = fb.evaluate(LOGITS, [scores()]).as_dict()
    for wrong in (3, [1], {"fc": 3}, {"fc": [1, 2, 3]}, {"fc": None}):
        with pytest.raises(ValueError, match=r"^proof=.*: expected levels as \{quantizer: \[used, allowed\]\}"):
            plain.from_plain(Metrics, written | {"proof": wrong})


def bypass(model):
    """The last layer computes with its float weight."""
    model.fc.forward = lambda x: F.linear(x, model.fc.weight, model.fc.bias)


def nudge(model):
    """One weight leaves its grid."""
    quantizer = model.fc.weight_quantizer
    exact = quantizer.primitive
    quantizer.primitive = lambda x, *args, **settings: exact(x, *args, **settings) + 1e-3 * (x == x.max())


def disable(model):
    """One quantizer lets its input through."""
    model.layers[0][0].conv1.weight_quantizer.enabled = False


def widen(model):
    """A weight is not finite."""
    model.fc.weight.data[0, 0] = math.nan


@pytest.mark.parametrize("tamper", [bypass, nudge, disable, widen])
def test_a_model_that_is_not_quantized_as_it_says_gets_no_number(tamper):
    model = quantized()
    fb.evaluate(model, [batch()])
    tamper(model)
    layer = "layers.0.0.conv1" if tamper is disable else "fc"
    with pytest.raises(fb.QuantizationError, match=layer.replace(".", r"\.")):
        fb.evaluate(model, [batch()])


def test_a_quantized_model_run_as_float_gets_no_number():
    model = quantized()
    with as_float(model), pytest.raises(fb.QuantizationError, match="switched off"):
        fb.evaluate(model, [batch()])


def test_an_uncalibrated_model_says_which_call_to_make():
    model = fb.models.build("preresnet8", first_width=4)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    with pytest.raises(RuntimeError, match=r"call flatbit\.calibrate_"):
        fb.evaluate(model, [batch()])


class Samples(IterableDataset):
    """Three samples, or the same again and again; states no length."""

    def __init__(self, most):
        self.most = most

    def __iter__(self):
        for index in itertools.count() if self.most is None else range(self.most):
            yield torch.eye(8)[index % 8], index % 8


def test_a_loader_that_states_no_length_is_read_to_its_end():
    metrics = fb.evaluate(LOGITS, DataLoader(Samples(11), batch_size=4))
    assert (metrics.num_samples, metrics.top1) == (11, 100.0)


ENDLESS = {
    "cycle": lambda: itertools.cycle([scores()]),
    "repeat": lambda: itertools.repeat(scores()),
    "generator": lambda: (scores() for _ in itertools.count()),
    "loader": lambda: DataLoader(Samples(None), batch_size=4),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_an_error_or_scored_as_far_as_asked(kind, monkeypatch):
    monkeypatch.setattr(bounded, "__kwdefaults__", {"most": 20, "mend": bounded.__kwdefaults__["mend"]})
    with pytest.raises(
        ValueError, match=r"evaluate: .*(never ends|seems endless).*: say how many to take with num_batch"
    ):
        fb.evaluate(LOGITS, ENDLESS[kind]())
    first = [batch for batch, _ in zip(ENDLESS[kind](), range(3), strict=False)]
    assert fb.evaluate(LOGITS, ENDLESS[kind](), num_batches=3) == fb.evaluate(LOGITS, first)


def test_what_is_no_batch_is_named_by_its_number():
    x, y = scores()
    for wrong, message in (
        (x[:2], "batch 1 is a Tensor, expected a pair"),
        ((x, y, y), "batch 1 is a tuple of 3, expected a pair"),
        ({"x": x, "more": y}, "batch 1 is a dict of 'x', 'more': expected one input"),
        ((x[0], y[0]), r"batch 1 has x of shape \(8,\) and y of shape \(\)"),
        ((x.numpy(), y.numpy()), "batch 1 is a pair of ndarray and ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            fb.evaluate(LOGITS, [(x, y), wrong])


def test_one_image_without_its_batch_axis_is_not_scored_as_rows():
    x, y = torch.randn(3, 5, 6), torch.zeros(5, 6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"x of shape \(3, 5, 6\) and y of shape \(5, 6\), expected a batch"):
        fb.evaluate(nn.Conv2d(3, 5, 1), [(x, y)])  # logits (5, 5, 6) would do for 5 rows of labels


def test_double_precision_logits_are_scored_in_double():
    x, y = scores()
    x = x.double() * 1e-9
    assert fb.evaluate(LOGITS, [(x, y)]).top1 == by_hand(x, y)[0]
    assert fb.evaluate(LOGITS, [(x + 1, y)]).top1 == by_hand(x + 1, y)[0]


@pytest.mark.parametrize("pixels", [False, True])
def test_as_on_a_device_nothing_waits_between_batches(pixels):
    """The images of the first are looked at before its proof; of the others at the end, with the sums of all."""
    x, y = scores(40)
    x, y = (x.reshape(10, 4, 8).movedim(1, -1)[..., None], y.reshape(10, 4, 1)) if pixels else (x, y)
    first, rest = (x[:2], y[:2]), list(zip(x[2:].split(2), y[2:].split(2), strict=True))
    known = fb.evaluate(LOGITS, [first, *rest])
    looks = {n: len(waits_of(lambda n=n: fb.evaluate(LOGITS, [first, *rest[:n]]))) for n in (0, 1, 3)}
    assert looks[1] - looks[0] == 1
    assert looks[3] == looks[1]
    with as_on_a_device():
        assert fb.evaluate(LOGITS, [first, *rest]) == known


@pytest.mark.parametrize("at", [0, 3, 6])
def test_as_on_a_device_what_is_wrong_is_said_at_a_settlement(at, monkeypatch):
    monkeypatch.setattr(evaluation, "SETTLE_EVERY", 2)
    x, y = scores(70)
    seen = []

    def batches(x, y):
        for batch in zip(x.split(10), y.split(10), strict=True):
            seen.append(batch)
            yield batch

    bad_label, bad_image = y.clone(), x.clone()
    bad_label[10 * at] = 8
    bad_image[10 * at, 0] = math.nan
    for data, message in (((x, bad_label), "a label is 8, but"), ((bad_image, y), f"batch {at} has NaN or infinite")):
        seen.clear()
        with pytest.raises(ValueError, match=message), as_on_a_device():
            fb.evaluate(LOGITS, batches(*data))
        assert len(seen) <= at + 2
        seen.clear()
        with pytest.raises(ValueError, match=message):
            fb.evaluate(LOGITS, batches(*data))
        assert len(seen) == at + 1


@pytest.mark.gpu
@pytest.mark.parametrize("pixels", [False, True])
def test_on_a_device_it_scores_the_same_and_no_batch_waits(device, pixels):
    x, y = scores(40)
    x, y = (x.reshape(10, 4, 8).movedim(1, -1)[..., None], y.reshape(10, 4, 1)) if pixels else (x, y)
    batches = list(zip(x.split(2), y.split(2), strict=True))
    model = nn.BatchNorm2d(8).eval() if pixels else nn.BatchNorm1d(8).eval()
    known = fb.evaluate(model, batches)

    def on_device():
        for index, (images, labels) in enumerate(batches):
            batch = images.to(device), labels.to(device)
            torch.cuda.set_sync_debug_mode("error" if index else "default")
            try:
                yield batch
            finally:
                torch.cuda.set_sync_debug_mode("default")

    found = fb.evaluate(model.to(device), on_device())
    assert (found.top1, found.top5, found.miou) == (known.top1, known.top5, known.miou)
    assert found.loss == pytest.approx(known.loss, rel=1e-5)


class Returns(nn.Module):
    def __init__(self, net, what):
        super().__init__()
        self.net, self.what = net, what

    def forward(self, x):
        return self.what(self.net(x))


def test_named_batches_and_outputs_score_as_plain_ones(small, quantized, images):
    y = torch.arange(4)
    model = quantized(small, "lsq", 4, 4)
    expected = fb.evaluate(model, [(images, y)])
    named = Returns(model, lambda logits: {"out": logits, "aux": -logits})
    assert fb.evaluate(named, [{"label": y, "image": images}]).loss == expected.loss
    curved = [fb.analysis.hessian(net, [{"x": images, "y": y}], max_iterations=1).eigenvalue for net in (model, named)]
    assert curved[0] == curved[1]
    with pytest.raises(ValueError, match=r"Returns returns a tuple of 0: tensor \(4, 10\), 1: tensor \(4, 10\), and"):
        fb.evaluate(Returns(model, lambda logits: (logits, -logits)), [(images, y)])


def test_a_model_of_several_inputs_is_named():
    model = type("Pair", (nn.Module,), {"forward": lambda self, left, right: left + right})()
    for call in (fb.evaluate, fb.analysis.hessian):
        with pytest.raises(ValueError, match="Pair needs left, right, expected one input"):
            call(model, [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))])


def test_metrics_print_as_a_table():
    metrics = fb.evaluate(fb.trained("digits-uniq-w2a2"), fb.data.load("digits").test_batches())
    text = str(metrics)
    for word in ("top-1 %", f"{metrics.top1:.2f}", f"{metrics.loss:.4f}", "450", "4/4", "uniq: W2/A2"):
        assert word in text
    assert "mIoU" not in text
    assert "mIoU %" in str(replace(metrics, miou=55.5))


def test_the_levels_are_those_of_weights():
    usage = {"a.weight_quantizer": Usage(used=3, allowed=4), "a.input_quantizer": Usage(used=2, allowed=8)}
    metrics = fb.evaluate(fb.trained("digits-uniq-w2a2"), fb.data.load("digits").test_batches(), num_batches=1)
    assert replace(metrics, proof=Proof(usage=usage)).levels() == "3/4"
    assert replace(metrics, proof=Proof(usage=usage)).levels({"a.input_quantizer"}) == "2/8"
    assert replace(metrics, proof=Proof()).levels() == "float"
