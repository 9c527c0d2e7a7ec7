import pytest
import torch

from flatbit.export.gate import EXACT, check
from flatbit.export.verification import ExportError

from .cases import digits, network


@pytest.fixture(scope="module")
def model():
    return network("preresnet8", "uniq", 4, 4, first_width=4)


def test_logits_of_another_scale_are_no_agreement(model):
    x, y = digits(8)
    with pytest.raises(ExportError, match="the logits of 8 of 8 images differ"):
        check(model, lambda given: 1.01 * model(given), [(x, x, y)])
    with pytest.raises(ExportError, match="by more than 0 of their largest"):
        check(model, lambda given: model(given) + 1e-6, [(x, x, y)], EXACT)
    assert check(model, model, [(x, x, y)], EXACT).identical == 8


def test_bit_for_bit_is_of_every_image_however_many_there_are(model):
    x, y = digits(450)
    batches = [(x, x, y)] * 3

    def run(given):
        logits = model(given).clone()
        logits[7] *= 3
        return logits

    with pytest.raises(ExportError, match="the logits of 3 of 1350 images"):
        check(model, run, batches, EXACT)


def test_close_is_by_the_image_and_not_by_the_batch():
    own = torch.tensor([[1000.0, 0.0]] * 3 + [[1.0, 0.0]] * 5)
    labels = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ExportError, match="the logits of 5 of 8 images differ"):
        check(lambda _: own, lambda _: own + torch.tensor([0.1, 0.0]), [(own, own, labels)])


def test_scores_are_shares_of_labels():
    x, _ = digits(2)
    maps = torch.zeros(2, 3, 4, 4)
    maps[:, 1] = 1
    labels = torch.ones(2, 4, 4, dtype=torch.int64)
    labels[0] = 2
    found = check(lambda _: maps, lambda _: maps, [(x, x, labels)])
    assert found.top1 == found.top1_model == 50


def test_values_that_are_not_finite_and_no_images_are_refused(model):
    with pytest.raises(ExportError, match="not finite"):
        check(model, lambda x: torch.full((len(x), 10), float("nan")), [(*digits(2)[:1], *digits(2))])
    with pytest.raises(ValueError, match="no images"):
        check(model, model, [])


def test_the_largest_difference_is_found(model):
    x, y = digits(5)

    def run(given):
        logits = model(given).clone()
        logits[3, 7] -= 0.25
        return logits

    found = check(model, run, [(x, x, y)])
    assert found.largest_at == (3, 7)
    assert found.largest == pytest.approx(0.25, rel=1e-5)
    assert found.identical == 4


def turned(model, images):
    """The model, but for the class of these images."""

    def run(given):
        logits = model(given).clone()
        logits[images] = logits[images].roll(1, 1)
        return logits

    return run


def test_classes_change_as_far_as_they_are_allowed_to_and_the_refusal_names_what_to_say(model):
    x, y = digits(40)
    with pytest.raises(
        ExportError, match=r"the class of 2 of 40 images is not the model's \(images 3, 7; logits of up"
    ) as e:
        check(model, turned(model, [3, 7]), [(x, x, y)])
    assert "moved by 0 in the median image and by" in str(e.value)
    assert "--allow-changed 5%, most_changed= in Python" in str(e.value)
    found = check(model, turned(model, [3, 7]), [(x, x, y)], most_changed=0.05)
    assert (found.num_changed, found.changed, found.most_changed) == (2, (3, 7), 0.05)
    assert check(model, turned(model, [3]), [(x, x, y)]).changed == (3,)
    with pytest.raises(ExportError, match=r"the class of 1 of 40 images .* and 0 % may change"):
        check(model, turned(model, [3]), [(x, x, y)], most_changed=0)


def test_where_classes_may_change_logits_may_too(model):
    x, y = digits(8)
    with pytest.raises(ExportError, match="the logits of 8 of 8 images differ"):
        check(model, lambda given: 1.01 * model(given), [(x, x, y)], most_changed=0.9)
    assert check(model, lambda given: 1.01 * model(given), [(x, x, y)], most_changed=1.0).num_changed == 0
