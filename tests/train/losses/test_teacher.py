import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit import plain
from flatbit.data.batches import VOID
from flatbit.reference import From
from flatbit.train.losses import LossTerm, weighted_sum
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz, lipschitz
from flatbit.train.losses.teacher import Distillation, distill, taught


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


# The term


def batch():
    return torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def loss_of(terms, model, x, y):
    return weighted_sum(terms, model, x, y, model(x))[0]


def with_teacher(teacher, **settings):
    return taught(Distillation(network=teacher, **settings))


def test_all_terms_add_up():
    student, teacher, (x, y) = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), batch()
    x = x.double()
    terms = (*with_teacher(teacher, temperature=3.0, weight=0.7), Lipschitz(weight=0.01))
    loss, values = weighted_sum(terms, student, x, y, student(x))
    parts = F.cross_entropy(student(x), y), distill(student(x), teacher(x), 3.0), lipschitz(student)
    torch.testing.assert_close(values, list(parts))
    torch.testing.assert_close(loss, 0.3 * parts[0] + 0.7 * parts[1] + 0.01 * parts[2])


def test_gradients_reach_the_student_alone():
    student, teacher, (x, y) = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    loss_of(with_teacher(teacher), student, x, y).backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None
    assert all(p.requires_grad for p in teacher.parameters())


def test_the_teacher_keeps_no_graph():
    seen, teacher = [], nn.Linear(4, 3)
    teacher.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    loss_of(with_teacher(teacher), nn.Linear(4, 3), *batch())
    assert seen == [False]


@pytest.mark.parametrize("how", ["network=", "bound"])
def test_the_teacher_is_in_eval_mode_and_the_student_as_it_was(how):
    teacher = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    student, (x, y) = copy.deepcopy(teacher), batch()
    before = copy.deepcopy(teacher.state_dict())
    term = Distillation(network=teacher) if how == "network=" else Distillation().bound(lambda source: teacher)
    loss_of(taught(term), student, x, y)
    assert not any(module.training for module in teacher.modules())
    assert all(module.training for module in student.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_void_pixels_of_the_batch_are_left_out():
    teacher, student = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
    x, labels = torch.randn(2, 1, 5, 5), torch.randint(4, (2, 5, 5))
    labels[0, :2] = VOID
    term = Distillation(network=teacher)
    torch.testing.assert_close(
        term(student, x, labels, student(x)), distill(student(x), teacher(x), 4.0, labels=labels)
    )


def test_a_student_learns_its_teacher_without_labels():
    student, teacher, x = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), torch.randn(64, 4).double()
    terms = with_teacher(teacher, weight=1.0)
    descent = torch.optim.LBFGS(student.parameters(), max_iter=200)

    def closure():
        descent.zero_grad()
        loss = loss_of(terms, student, x, torch.zeros(64))
        loss.backward()
        return loss

    descent.step(closure)
    torch.testing.assert_close(student(x).softmax(1), teacher(x).softmax(1), rtol=1e-3, atol=1e-3)


def test_a_quantized_student_learns_from_its_float_self():
    teacher = fb.models.build("preresnet8", first_width=4)
    student, x = copy.deepcopy(teacher), torch.randn(4, 3, 8, 8)
    fb.quantize_(student, fb.policy("uniq", weights=4, activations=4))
    fb.calibrate_(student, [x])
    loss_of((*with_teacher(teacher), Lipschitz()), student, x, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_without_its_network_it_says_what_is_missing():
    with pytest.raises(ValueError, match="distillation: the teacher stage:float is not loaded: give the term its netw"):
        loss_of(taught(Distillation(teacher=From.stage("float"))), nn.Linear(4, 3), *batch())


def test_a_teacher_of_other_classes_is_said_when_it_is_asked():
    with pytest.raises(ValueError, match=r"student's logits have shape \(6, 3\), the teacher's \(6, 5\)"):
        loss_of(with_teacher(nn.Linear(4, 5)), nn.Linear(4, 3), *batch())


# What it asks


def test_it_asks_its_teacher_and_is_bound_to_it():
    asked, network = [], nn.Linear(4, 3)
    term = Distillation(teacher=From.stage("float"), weight=0.5, name="kd")
    assert term.teachers() == (From.stage("float"),)
    bound = term.bound(lambda source: asked.append(source) or network)
    assert asked == [From.stage("float")]
    assert bound.network is network
    assert term.network is None
    assert bound == term  # the network is no setting
    assert replace(bound, weight=0.6) != term


def test_the_network_is_in_no_record_and_in_no_text():
    term = Distillation(network=nn.Linear(4, 3))
    assert plain.to_plain(term) == {
        "kind": "distillation", "teacher": "start", "temperature": 4.0, "weight": 0.9, "name": "distillation",
    }  # fmt: skip
    assert plain.from_plain(LossTerm, plain.to_plain(term)) == term
    assert "Linear" not in repr(term)


# The labels' share


def test_labels_have_the_rest_of_the_weight():
    term = Distillation(weight=0.7)
    assert taught(term) == (CrossEntropy(weight=1 - 0.7), term)
    assert taught(None) == (CrossEntropy(),)


def test_without_labels_they_are_not_looked_at():
    student, teacher, (x, _) = nn.Linear(4, 3), nn.Linear(4, 3), batch()
    terms = with_teacher(teacher, weight=1.0)
    loss = loss_of(terms, student, x, torch.full((6,), -1))
    torch.testing.assert_close(loss, distill(student(x), teacher(x), 4.0))
    assert len(terms) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": float("inf")}, {"temperature": "4"}, {"weight": 0.0}, {"weight": 1.1},
     {"weight": float("nan")}],
)  # fmt: skip
def test_distillations_that_are_none(wrong):
    with pytest.raises(ValueError, match="expected a positive temperature and a weight above 0, up to 1"):
        Distillation(**wrong)


@pytest.mark.parametrize("teacher", ["start", "float", None])
def test_a_teacher_is_a_reference(teacher):
    with pytest.raises(ValueError, match=r"teacher=.*: expected a From, such as From\.stage\('float'\)"):
        Distillation(teacher=teacher)


def test_labels_of_images_are_not_looked_at_whatever_they_are():
    z = torch.randn(2, 4, 5)
    for labels in (torch.zeros(4, 1, dtype=torch.long), torch.zeros(4), torch.ones(4, 5) / 5):
        assert distill(*z, 4.0, labels=labels) == distill(*z, 4.0)


def test_void_pixels_are_told_in_any_type_and_with_an_axis_of_one():
    z, labels = torch.randn(2, 2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    labels[0] = VOID
    for masks in (labels.to(torch.uint8), labels[:, None].int()):
        assert distill(*z, 4.0, labels=masks) == distill(*z, 4.0, labels=labels)
    assert distill(*z, 4.0, labels=torch.full((2, 4, 4), -1, dtype=torch.int8)) == distill(*z, 4.0)
    with pytest.raises(ValueError, match=r"distillation: the student: labels are torch\.float32, expected whole"):
        distill(*z, 4.0, labels=labels.float())
