import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.train.objective import (
    Distillation,
    cross_entropy,
    distill,
    lipschitz,
    objective_of,
)

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "wide": lambda: nn.Linear(5, 7),
    "conv1d": lambda: nn.Conv1d(2, 5, 4),
    "conv2d": lambda: nn.Conv2d(2, 5, 3),
    "conv3d": lambda: nn.Conv3d(2, 9, 2),
    "wide conv2d": lambda: nn.Conv2d(2, 40, 3),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "wide grouped": lambda: nn.Conv2d(4, 12, 1, groups=4),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, groups=6),
    "transposed1d": lambda: nn.ConvTranspose1d(3, 5, 4),
    "transposed2d": lambda: nn.ConvTranspose2d(3, 5, 2),
    "grouped transposed": lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
}


def test_cross_entropy_is_the_mean_negative_log_probability():
    x, y = torch.randn(6, 4, dtype=torch.double), torch.tensor([0, 1, 2, 3, 3, 0])
    loss, logits = cross_entropy(nn.Identity(), x, y)
    p = x.exp() / x.exp().sum(1, keepdim=True)
    torch.testing.assert_close(loss, -p[range(6), y].log().mean())
    assert logits is x


def test_gradient_is_probability_minus_label():
    x, y = torch.randn(5, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    cross_entropy(nn.Identity(), x, y)[0].backward()
    expected = (x.softmax(1) - nn.functional.one_hot(y, 3)) / 5
    torch.testing.assert_close(x.grad, expected.detach())


def test_pixels_are_averaged_like_samples():
    x, y = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    loss, _ = cross_entropy(nn.Identity(), x, y)
    flat, _ = cross_entropy(nn.Identity(), x.permute(0, 2, 3, 1).reshape(-1, 3), y.reshape(-1))
    torch.testing.assert_close(loss, flat)


def test_void_pixels_do_not_count_and_nothing_else_is_no_nan():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(3, (2, 4, 4))
    labels[0] = VOID
    loss, _ = cross_entropy(nn.Identity(), logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[1:], labels[1:]))
    empty, _ = cross_entropy(nn.Identity(), logits, torch.full_like(labels, VOID))
    empty.backward()
    assert empty == 0
    assert (logits.grad == 0).all()


def test_label_255_of_a_classifier_counts():
    logits, labels = torch.randn(2, 300), torch.tensor([VOID, 3])
    torch.testing.assert_close(cross_entropy(nn.Identity(), logits, labels)[0], F.cross_entropy(logits, labels))


def matrices(layer):
    """W (fan_in, c_out) of each group, channel by channel from the layer's answers to each single input."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    c_out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    found = []
    for group in range(groups):
        channels = range(group * c_out // groups, (group + 1) * c_out // groups)
        if transposed:
            inputs = slice(group * layer.in_channels // groups, (group + 1) * layer.in_channels // groups)
            columns = [weight[inputs, channel - channels[0]].flatten() for channel in channels]
        else:
            columns = [weight[channel].flatten() for channel in channels]
        found.append(torch.stack(columns, dim=1))
    return found


@pytest.mark.parametrize("kind", LAYERS)
def test_lipschitz_is_the_sum_over_groups_of_the_definition(kind):
    layer = LAYERS[kind]().double()
    parts = [0.5 * torch.linalg.norm(W.T @ W - torch.eye(W.shape[1]), "fro") ** 2 for W in matrices(layer)]
    torch.testing.assert_close(lipschitz(layer), sum(parts))


@pytest.mark.parametrize("kind", ["linear", "wide"])
def test_gradient_of_lipschitz_is_the_papers(kind):
    layer = LAYERS[kind]().double()
    lipschitz(layer).backward()
    W = layer.weight.detach().T
    torch.testing.assert_close(layer.weight.grad.T, 2 * W @ (W.T @ W - torch.eye(W.shape[1])))


def test_depthwise_holds_each_channel_to_length_one():
    layer = nn.Conv2d(6, 6, 3, groups=6).double()
    squares = layer.weight.detach().square().sum((1, 2, 3))
    torch.testing.assert_close(lipschitz(layer), (squares - 1).square().sum() / 2)


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_least_value_is_an_orthogonal_matrix(fan_in, c_out):
    layer = nn.Linear(fan_in, c_out).double()
    nn.init.orthogonal_(layer.weight)
    value = lipschitz(layer)
    value.backward()
    assert value.item() == pytest.approx(max(c_out - fan_in, 0) / 2, abs=1e-9)
    assert layer.weight.grad.abs().max() < 1e-9


def test_descent_on_lipschitz_alone_ends_at_an_orthogonal_matrix():
    layer = nn.Linear(9, 4).double()
    descent = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(300):
        descent.zero_grad()
        lipschitz(layer).backward()
        descent.step()
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight.detach()), torch.ones(4, dtype=torch.double))


def test_layers_add_up_and_others_do_not_count():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4))
    torch.testing.assert_close(lipschitz(model), lipschitz(model[0]) + lipschitz(model[4]))


def test_a_tied_weight_counts_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    torch.testing.assert_close(lipschitz(model), lipschitz(model[:2]))


@pytest.mark.parametrize("bits", [{"weights": 2}, {"activations": 2}, {"weights": 3, "activations": 3}])
def test_of_a_quantized_net_the_latent_weights_of_quantized_layers_count(bits):
    model = fb.models.build("resnet8", first_width=4)
    inner = [module for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and name != "conv1"]
    expected = sum(lipschitz(copy.deepcopy(layer)) for layer in inner)
    fb.quantize_(model, fb.policy("hol", **bits))  # edges float
    torch.testing.assert_close(lipschitz(model), expected)
    lipschitz(model).backward()
    assert model.conv1.weight.grad is None
    assert all(layer.weight.grad is not None for layer in inner)


def test_a_float_net_counts_all_its_weights():
    model = fb.models.build("resnet8", first_width=4)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    torch.testing.assert_close(lipschitz(model), sum(lipschitz(layer) for layer in weighted))


def test_half_precision_and_autocast_give_the_value_in_float():
    layer = nn.Linear(64, 32)
    expected = lipschitz(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert lipschitz(layer) == expected
    assert lipschitz(copy.deepcopy(layer).half()).dtype == torch.float32


def test_nothing_to_hold_orthogonal():
    with pytest.raises(ValueError, match="Lipschitz term of ReLU: expected a convolution or linear layer"):
        lipschitz(nn.ReLU())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_its_closed_form(temperature):
    z_s, z_t = torch.randn(2, 6, 5, dtype=torch.double)
    p, q = (z_t / temperature).softmax(1), (z_s / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distill(z_s, z_t, temperature), expected)


def test_gradient_of_distillation_is_the_difference_of_probabilities():
    z_s = torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    z_t = torch.randn(6, 5, dtype=torch.double, requires_grad=True)
    distill(z_s, z_t, 4.0).backward()
    torch.testing.assert_close(z_s.grad, (4.0 * ((z_s / 4).softmax(1) - (z_t / 4).softmax(1)) / 6).detach())
    assert z_t.grad is None


@given(st.floats(0.5, 20), st.integers(0, 1000))
def test_distillation_is_never_negative_and_zero_at_the_teacher(temperature, seed):
    z = torch.randn(2, 4, 7, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    assert distill(z[0], z[1], temperature) > 0
    assert distill(z[0], z[0] + 3.0, temperature).abs() < 1e-12  # a shift changes no probability


def test_at_high_temperature_distillation_is_the_squared_difference_of_centred_logits():
    """Hinton et al., 2015: T^2 KL goes to |z_s - z_t|^2 / (2 classes) for logits of mean zero."""
    z = torch.randn(2, 4, 7, dtype=torch.double)
    z -= z.mean(-1, keepdim=True)
    torch.testing.assert_close(distill(*z, 1e4), (z[0] - z[1]).square().sum(1).mean() / 14, rtol=1e-3, atol=0)


def test_void_pixels_are_not_distilled():
    z = torch.randn(2, 3, 4, 5, 5)
    labels = torch.randint(4, (3, 5, 5))
    labels[0, :2], labels[2] = VOID, VOID
    kept = z.permute(0, 1, 3, 4, 2)[:, labels != VOID]
    torch.testing.assert_close(distill(*z, 4.0, labels=labels), distill(*kept, 4.0))
    torch.testing.assert_close(distill(*z, 4.0), distill(*z.permute(0, 1, 3, 4, 2).reshape(2, -1, 4), 4.0))
    assert distill(*z, 4.0, labels=torch.full_like(labels, VOID)) == 0


def test_class_255_of_a_classifier_is_distilled():
    z = torch.randn(2, 2, 300)
    assert distill(*z, 4.0, labels=torch.tensor([VOID, 3])) == distill(*z, 4.0)


def test_half_precision_is_distilled_in_float():
    z = torch.randn(2, 4, 5).half()
    torch.testing.assert_close(distill(*z, 4.0), distill(*z.float(), 4.0))


def test_a_teacher_of_other_classes():
    with pytest.raises(ValueError, match=r"student's logits have shape \(4, 10\), the teacher's \(4, 100\)"):
        distill(torch.zeros(4, 10), torch.zeros(4, 100), 4.0)
    with pytest.raises(ValueError, match="expected equal ones"):
        distill(torch.zeros(4, 10), torch.zeros(1, 10), 4.0)  # no broadcasting


def batch():
    return torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def test_nothing_added_is_the_base_itself():
    assert objective_of(cross_entropy) is cross_entropy


def test_all_terms_add_up():
    student, teacher, (x, y) = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), batch()
    x = x.double()
    settings = Distillation(temperature=3.0, weight=0.7)
    composed = objective_of(cross_entropy, distillation=settings, teacher=teacher, lipschitz=0.01)
    loss, logits = composed(student, x, y)
    expected = (
        0.3 * F.cross_entropy(student(x), y) + 0.7 * distill(student(x), teacher(x), 3.0) + 0.01 * lipschitz(student)
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits, student(x))
    plain, _ = objective_of(cross_entropy, lipschitz=0.01)(student, x, y)
    torch.testing.assert_close(plain, F.cross_entropy(student(x), y) + 0.01 * lipschitz(student))


def test_gradients_reach_the_student_alone():
    student, teacher, (x, y) = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    objective_of(cross_entropy, distillation=Distillation(), teacher=teacher)(student, x, y)[0].backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None
    assert all(p.requires_grad for p in teacher.parameters())


def test_the_teacher_keeps_no_graph():
    seen, teacher = [], nn.Linear(4, 3)
    teacher.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    objective_of(cross_entropy, distillation=Distillation(), teacher=teacher)(nn.Linear(4, 3), *batch())
    assert seen == [False]


def test_the_teacher_is_in_eval_mode_and_the_student_as_it_was():
    teacher = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    student, (x, y) = copy.deepcopy(teacher), batch()
    before = copy.deepcopy(teacher.state_dict())
    objective = objective_of(cross_entropy, distillation=Distillation(), teacher=teacher)
    objective(student, x, y)
    assert not any(module.training for module in teacher.modules())
    assert all(module.training for module in student.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_without_labels_the_base_is_not_called():
    def never(model, x, y):
        raise AssertionError("labels were asked for")

    student, teacher, (x, _) = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    objective = objective_of(never, distillation=Distillation(weight=1.0), teacher=teacher)
    loss, logits = objective(student, x, torch.full((6,), -1))
    torch.testing.assert_close(loss, distill(student(x), teacher(x), 4.0))
    assert logits.requires_grad


def test_a_student_learns_its_teacher_without_labels():
    student, teacher, x = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), torch.randn(64, 4).double()
    objective = objective_of(cross_entropy, distillation=Distillation(weight=1.0), teacher=teacher)
    descent = torch.optim.LBFGS(student.parameters(), max_iter=200)

    def closure():
        descent.zero_grad()
        loss, _ = objective(student, x, torch.zeros(64))
        loss.backward()
        return loss

    descent.step(closure)
    torch.testing.assert_close(student(x).softmax(1), teacher(x).softmax(1), rtol=1e-3, atol=1e-3)


def test_a_quantized_student_learns_from_its_float_self():
    teacher = fb.models.build("preresnet8", first_width=4)
    student, x = copy.deepcopy(teacher), torch.randn(4, 3, 8, 8)
    fb.quantize_(student, fb.policy("uniq", weights=4, activations=4))
    fb.calibrate_(student, [x])
    objective = objective_of(cross_entropy, distillation=Distillation(), teacher=teacher, lipschitz=1e-4)
    objective(student, x, torch.arange(4))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"distillation": Distillation()}, "with teacher=NoneType: expected both or neither"),
        ({"teacher": nn.Identity()}, "distillation=None with teacher=Identity: expected both or neither"),
        ({"lipschitz": -1.0}, "lipschitz=-1.0: expected 0 or more"),
        ({"lipschitz": float("nan")}, "expected 0 or more"),
    ],
)
def test_compositions_that_are_none(settings, says):
    with pytest.raises(ValueError, match=says):
        objective_of(cross_entropy, **settings)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"weight": 0.0}, {"weight": 1.1}])
def test_distillations_that_are_none(wrong):
    with pytest.raises(ValueError, match="expected a positive temperature and a weight above 0, up to 1"):
        Distillation(**wrong)
