"""The contract of everything that runs in a training step: it never makes the host wait for a device."""

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.train.losses import LOSSES, weighted_sum
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy, cross_entropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.optimizers import OPTIMIZERS, SGD, make_optimizer
from flatbit.train.sharpness import SHARPNESS_METHODS, SharpnessAware

from ..no_waits import WaitError, as_on_a_device, no_waits
from .cases import CASES, TENSORS, calibrated, class_of, every_quantizer, sample, widths
from .part_cases import acting, made

WIDE = [(*tensor, widths(*tensor)) for tensor in TENSORS if len(widths(*tensor)) > 1]

PER_CHANNEL = [case for case in CASES if "channel" in class_of(*case.values[:2]).granularities]


def gradients(quantizer, x):
    """The output, its gradient with respect to x, and to each parameter."""
    x = x.clone().requires_grad_()
    quantizer.zero_grad()
    output = quantizer(x)
    output.square().sum().backward()
    return output, x.grad, *(p.grad.clone() for p in quantizer.parameters() if p.grad is not None)


def check_quantizer(quantizer, x):
    """After one warm forward neither pass waits; the output is that of the CPU's kernels, to the bit."""
    expected, *known = gradients(quantizer, x)
    with as_on_a_device():
        quantizer(x)
    with no_waits():
        output, *found = gradients(quantizer, x)
    assert torch.equal(output, expected)
    torch.testing.assert_close(found, known)


@every_quantizer
def test_a_quantizer_never_waits(name, role, bits, signed):
    check_quantizer(calibrated(name, role, bits, signed), sample(role, signed))
    for kind in ("linear", "normalization"):
        check_quantizer(calibrated(name, role, bits, signed, kind=kind), sample(role, signed))


@pytest.mark.parametrize(("name", "role", "bits", "signed"), PER_CHANNEL)
def test_a_quantizer_per_channel_never_waits(name, role, bits, signed):
    check_quantizer(calibrated(name, role, bits, signed, granularity="channel"), sample(role, signed))


@pytest.mark.parametrize(("name", "role", "signed", "candidates"), WIDE)
def test_a_quantizer_with_a_step_for_each_width_never_waits(name, role, signed, candidates):
    for granularity in class_of(name, role).granularities:
        quantizer = calibrated(name, role, candidates[0], signed, granularity=granularity, candidates=candidates[:3])
        for bits in candidates[:3]:
            quantizer.assign_(bits)
            check_quantizer(quantizer, sample(role, signed))


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_never_waits(name):
    term, model, x, y = acting(LOSSES.get(name))

    def loss():
        logits = model(x)
        return term(model, x, y, logits)

    with as_on_a_device():
        loss().backward()
    with no_waits():
        loss().backward()


IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(4)
LABELLED = (CrossEntropy(),)


def net(policy="uniq", weights=2, activations=2, candidates=(), **options):
    model = fb.models.build("resnet8", in_channels=1, first_width=4)
    policy = fb.policy(policy, weights=weights, activations=activations, **options)
    fb.quantize_(model, policy, candidates=candidates)
    fb.calibrate_(model, [IMAGES])
    return model.train()


def counts_of(optimizer):
    """What torch's optimizers count on the host, where they are not told to be captured."""
    return tuple(state["step"] for state in optimizer.state.values() if "step" in state)


def check_step(model, optimizer, terms=LABELLED):
    """After one warm step, a whole one never waits, and it moves the weights."""

    def closure():
        optimizer.zero_grad()
        loss, _ = weighted_sum(terms, model, IMAGES, LABELS, model(IMAGES))
        loss.backward()
        return loss.detach()

    with as_on_a_device():
        optimizer.step(closure)
    before = [p.detach().clone() for p in model.parameters()]
    with no_waits(host=counts_of(optimizer)):
        optimizer.step(closure)
    assert any(map(lambda a, b: bool((a != b).any()), before, model.parameters()))
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_never_waits(name):
    model = net()
    check_step(model, make_optimizer(model, made(OPTIMIZERS.get(name)), lr=0.01, weight_decay=1e-4))


@pytest.mark.parametrize("batchnorm", ["freeze", "update"])
@pytest.mark.parametrize("perturb", ["authors", "weights_only"])
@pytest.mark.parametrize("method", SHARPNESS_METHODS)
def test_neither_half_of_a_sharpness_aware_step_waits(method, perturb, batchnorm):
    model = net("saq")
    optimizer = SharpnessAware(
        make_optimizer(model, SGD(), lr=0.01), model, method, 0.1, perturb=perturb, batchnorm=batchnorm
    )
    check_step(model, optimizer)


def test_the_two_halves_written_out_never_wait():
    model = net("saq")
    optimizer = SharpnessAware(make_optimizer(model, SGD(), lr=0.01), model, "asaq", 0.1)
    with as_on_a_device():
        model(IMAGES)
    with no_waits():
        cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.ascend()
        cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.restore()
        optimizer.base.step()


STEPS = {
    "uniq": {},
    "uniq, 1 bit": {"weights": 1, "activations": 1},
    "a step per channel": {"policy": "uniq-imagenet"},
    "candidates": {"candidates": (2, 4)},
    "faq": {"policy": "faq", "weights": 4, "activations": 4},
    "faq at each input": {"policy": "faq", "weights": 4, "activations": 4, "placement": "input"},
    "outputs": {"policy": "uniq", "placement": "output"},
    "hol": {"policy": "hol"},
    "lsq_plus": {"policy": "lsq_plus"},
    "dorefa": {"policy": "dorefa"},
    "dq": {"policy": "dq", "weights": 3, "activations": 3},
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_of_sgd_never_waits(kind):
    model = net(**STEPS[kind])
    check_step(model, make_optimizer(model, SGD(), lr=0.01, weight_decay=1e-4))


@pytest.mark.parametrize(
    "terms",
    [
        lambda: taught(Distillation(network=fb.models.build("resnet8", in_channels=1, first_width=4))),
        lambda: (CrossEntropy(), Lipschitz()),
        lambda: (CrossEntropy(), CostPenalty(target_mbitops=0.01)),
    ],
    ids=["distillation", "lipschitz", "cost"],
)
def test_a_step_by_several_terms_never_waits(terms):
    model = net("dq", 3, 3)
    check_step(model, make_optimizer(model, SGD(), lr=1e-3), terms())


def test_a_step_that_reads_is_found():
    class Logged(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            logits = self.net(x)
            self.largest = logits.detach().abs().max().item()
            return logits

    model = Logged(net())
    with pytest.raises(WaitError, match="reads a number"):
        check_step(model, make_optimizer(model, SGD(), lr=0.01))
