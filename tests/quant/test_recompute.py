import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit.quant.activation import ActivationQuantizer
from flatbit.quant.recompute import recomputed_outputs
from flatbit.quant.rounding import fake_quantize
from flatbit.quant.table import quantizers_of

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


def quantized(method="uniq", **settings) -> nn.Module:
    torch.manual_seed(0)
    options = {"activation": "hardtanh"} if method == "xnor" else {}
    model = fb.models.build("preresnet8" if options else "resnet8", num_classes=5, in_channels=3, **options)
    fb.quantize_(model, fb.policy(method, **({"weights": 2, "activations": 2} | settings)))
    fb.calibrate_(model, [X], num_batches=1)
    return model.train()


def gradients(model: nn.Module, x: torch.Tensor = X) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), Y).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def outputs_alive(model: nn.Module) -> tuple[int, int]:
    """How many of the quantizers' outputs live on after the forward pass, and of how many."""
    seen: list[weakref.ref] = []
    handles = [
        q.register_forward_hook(lambda _, __, out: seen.append(weakref.ref(out))) for _, q in quantizers_of(model)
    ]
    loss = F.cross_entropy(model(X), Y)
    alive = sum(ref() is not None for ref in seen)
    loss.backward()
    for handle in handles:
        handle.remove()
    return alive, len(seen)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("uniq", {}),
        ("saq", {}),
        ("lsq_plus", {"weights": 4, "activations": 4}),
        ("faq", {"weights": 4, "activations": 4}),
        ("dq", {"weights": 4, "activations": 4}),
        ("xnor", {"weights": 1, "activations": 1}),
        ("uniq", {"placement": "output"}),
    ],
)
def test_gradients_are_the_same_to_the_bit(method, settings):
    model = quantized(method, **settings)
    expected = gradients(copy.deepcopy(model))
    with recomputed_outputs(model):
        assert_equal(gradients(model), expected)


@pytest.mark.parametrize("placement", ["input", "output"])
def test_no_output_lives_on_until_the_backward_pass(placement):
    model = quantized(placement=placement)
    alive, of = outputs_alive(model)
    assert alive >= of - 1 > 5  # nothing reads the last ReLU's but a sum
    with recomputed_outputs(model):
        alive, of = outputs_alive(model)
    assert (alive, of > 5) == (1, True)  # the linear layer keeps its weight, transposed
    assert outputs_alive(model)[0] > 5  # as before


def test_the_backward_pass_may_come_after_the_context_and_twice():
    model = quantized()
    expected = gradients(model)
    model.zero_grad()
    with recomputed_outputs(model):
        loss = F.cross_entropy(model(X), Y)
    loss.backward(retain_graph=True)
    assert_equal([p.grad.clone() for p in model.parameters() if p.grad is not None], expected)
    loss.backward()
    assert_equal([p.grad for p in model.parameters() if p.grad is not None], [2 * g for g in expected])


def test_hessian_vector_products_are_the_same():
    model = quantized()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def product() -> list[torch.Tensor]:
        loss = F.cross_entropy(model(X), Y)
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        norm = sum(g.square().sum() for g in first if g is not None)
        return [h for h in torch.autograd.grad(norm, parameters, allow_unused=True) if h is not None]

    expected = product()
    with recomputed_outputs(model):
        assert_equal(product(), expected)


class Shared(nn.Module):
    """Two layers read one quantized activation; ``spoil`` acts on what the first reads, or on what it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(6, 6), nn.ReLU()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)
        self.spoil: str = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        q = self.relu(hidden)
        if self.spoil == "before":
            q.mul_(2)
        out = self.left(q)
        if self.spoil == "between":
            q.mul_(2)
        return out + self.right(q)


def shared() -> tuple[Shared, torch.Tensor]:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(4, 6)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2, placement="output"))
    fb.calibrate_(model, [x], num_batches=1)
    return model, x


def test_two_readers_of_one_output():
    model, x = shared()
    expected = gradients(model, x)
    with recomputed_outputs(model):
        assert_equal(gradients(model, x), expected)


def test_an_output_modified_before_it_is_read_is_kept_as_it_is_read():
    model, x = shared()
    reference = copy.deepcopy(model)
    model.spoil = "before"
    with recomputed_outputs(model):
        found = gradients(model, x)
    reference.relu.register_forward_hook(lambda _, __, out: out * 2)
    assert_equal(found, gradients(reference, x))


def test_a_tensor_modified_in_place_is_refused():
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(x)
            x.add_(1)
            return out

    model = nn.Sequential(nn.BatchNorm2d(3), Late())
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2).override("*", weights=2, activations=2))
    fb.calibrate_(model, [X], num_batches=1)
    with recomputed_outputs(model), pytest.raises(RuntimeError, match=r"modified in place .*\(version 1, expected 0\)"):
        model(X.clone()).sum().backward()


def test_a_step_modified_between_forward_and_backward_is_refused():
    model = quantized("faq", weights=4, activations=4)  # its steps are buffers
    with recomputed_outputs(model):
        loss = F.cross_entropy(model(X), Y)
    for _, quantizer in quantizers_of(model):
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.step.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_a_copy_made_within_goes_on_recomputing():
    model = quantized()
    expected = gradients(model)
    with recomputed_outputs(model):
        twin = copy.deepcopy(model)
        assert_equal(gradients(twin), expected)
        assert outputs_alive(twin)[0] == 1
    assert_equal(gradients(twin), expected)


def test_sharpness_aware_steps_are_the_same():
    found = []
    for recomputed in (False, True):
        model = quantized("saq", weights=4, activations=4)
        optimizer = fb.train.SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), model, method="saq", rho=0.4)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        if recomputed:
            with recomputed_outputs(model):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
        optimizer.close()
        found.append([p.detach() for p in model.parameters()])
    assert_equal(*found)


def test_without_gradients_it_is_the_plain_primitive():
    model = quantized().eval()
    with torch.no_grad():
        expected = model(X)
        with recomputed_outputs(model):
            assert torch.equal(model(X), expected)


def test_all_is_as_before_after_an_error():
    model = quantized()
    hooks = [len(m._forward_hooks) for m in model.modules()]
    with pytest.raises(RuntimeError), recomputed_outputs(model):
        model(torch.randn(4, 7, 8, 8))
    assert all(q.primitive is fake_quantize for _, q in quantizers_of(model))
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    leaf = torch.ones(2, requires_grad=True)
    out = leaf.exp()
    out.add_(1)
    with pytest.raises(
        RuntimeError, match="modified by an inplace operation"
    ):  # autograd's own check, so no hook is left
        out.sum().backward()


def test_a_model_without_outputs_to_recompute_is_refused():
    model = fb.models.build("resnet8", num_classes=5)
    with pytest.raises(ValueError, match="has no quantizer"), recomputed_outputs(model):
        pass
    model = quantized()
    with recomputed_outputs(model), pytest.raises(ValueError, match="enter recomputed_outputs once"):  # noqa: SIM117
        with recomputed_outputs(model):
            pass
