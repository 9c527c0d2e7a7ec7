import pytest
import torch

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.metrics.scores import Scores


def logits_of(said, classes):
    return torch.nn.functional.one_hot(said, classes).movedim(-1, 1).float()


def test_miou_by_hand_with_void_left_out():
    truth = torch.tensor([[[0, 0, 1, 1], [2, 2, VOID, VOID]]])
    said = torch.tensor([[[0, 1, 1, 1], [2, 0, 2, 1]]])
    scores = Scores()
    scores.add(logits_of(said, 4), truth)
    # class 0: 1 of {2 true, 1 more said}; class 1: 2 of 3; class 2: 1 of 2; class 3 never occurs
    assert scores.miou == pytest.approx(100 * (1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert (scores.hits1, scores.count, scores.num_samples) == (4, 6, 1)
    assert scores.confusion.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_miou_is_that_of_scikit_learn_in_any_batches():
    from sklearn.metrics import jaccard_score

    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(5, (12, 7, 9), generator=generator)
    logits = torch.randn(12, 5, 7, 9, generator=generator) + 2 * logits_of(truth, 5)
    truth[:, 0] = VOID
    for size in (1, 5, 12):
        scores = Scores()
        for x, y in zip(logits.split(size), truth.split(size), strict=True):
            scores.add(x, y)
        valid = truth != VOID
        expected = jaccard_score(truth[valid], logits.argmax(1)[valid], average="macro")
        assert scores.miou == pytest.approx(100 * expected)


def test_loss_is_the_mean_over_pixels_that_count():
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    truth = torch.randint(4, (3, 5, 5))
    truth[0] = VOID
    scores = Scores()
    scores.add(logits, truth)
    expected = torch.nn.functional.cross_entropy(logits, truth, ignore_index=VOID)
    assert scores.loss / scores.count == pytest.approx(float(expected), rel=1e-6)


def test_classification_has_no_miou_and_label_255_is_a_class():
    scores = Scores()
    scores.add(torch.eye(300)[[255, 3]], torch.tensor([VOID, 4]))
    assert scores.miou is None
    assert (scores.hits1, scores.count) == (1, 2)


def test_a_label_without_an_output_is_an_error_in_both():
    with pytest.raises(ValueError, match="a label is 3, but TinyNet has 3 outputs"):
        Scores("TinyNet").add(torch.randn(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="a label is 4, but the model has 3 outputs"):
        Scores().add(torch.randn(1, 3, 2, 2), torch.tensor([[[0, 4], [VOID, 1]]]))


def test_evaluate_reports_it():
    truth = torch.tensor([[[0, 1], [1, VOID]]])
    metrics = fb.evaluate(torch.nn.Identity(), [(logits_of(torch.tensor([[[0, 1], [1, 0]]]), 2), truth)])
    assert metrics.miou == 100.0
    assert metrics.score == ("miou", 100.0)
    assert metrics.as_dict()["miou"] == 100.0
    assert metrics.top1 == 100.0
    plain = fb.evaluate(torch.nn.Identity(), [(torch.eye(3), torch.arange(3))])
    assert plain.score == ("top1", 100.0)
    assert "miou" not in plain.as_dict()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 3), [0, -1], "a label is -1: expected 0 or more"),
        ((2, 3), [[[0]], [[1]]], "for labels of shape"),
        ((1, 3, 2, 2), [[[0, 1, 2]]], "for labels of shape"),
        ((1, 3, 1, 2), [[[-100, 1]]], "a label is -100"),
    ],
)
def test_labels_that_do_not_fit_are_errors(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        Scores().add(torch.randn(logits), torch.tensor(labels))


def test_nothing_but_void_cannot_be_scored():
    with pytest.raises(ValueError, match="all labels of 1 images are void"):
        fb.evaluate(torch.nn.Identity(), [(torch.randn(1, 2, 2, 2), torch.full((1, 2, 2), VOID))])


WHOLE = [torch.uint8, torch.int16, torch.int32, torch.uint16]


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("classes", [5, 17, 150, 255])
def test_masks_of_any_whole_number_are_counted_alike(classes, dtype):
    generator = torch.Generator().manual_seed(classes)
    truth = torch.randint(classes, (2, 20, 30), generator=generator)
    logits = torch.randn(2, classes, 20, 30, generator=generator) + 3 * logits_of(truth, classes)
    truth[0, 0] = VOID
    expected, scores = Scores(), Scores()
    expected.add(logits, truth)
    scores.add(logits, truth.to(dtype))
    assert torch.equal(scores.confusion, expected.confusion)
    assert (scores.miou, scores.hits5, scores.loss) == (expected.miou, expected.hits5, expected.loss)


def test_masks_of_bools_are_two_classes():
    truth = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    scores = Scores()
    scores.add(logits_of(truth.long(), 2), truth)
    assert (scores.miou, scores.hits1, scores.count) == (100.0, 84, 84)


def test_a_negative_label_of_few_bits_is_not_void():
    with pytest.raises(ValueError, match="a label is -1: expected 0 or more"):
        Scores().add(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), -1, dtype=torch.int8))


def test_labels_with_an_axis_of_one_are_those_without():
    logits, y = torch.randn(6, 300), torch.tensor([0, 1, 2, 0, 1, VOID])
    expected, scores = Scores(), Scores()
    expected.add(logits, y)
    scores.add(logits, y[:, None].to(torch.uint8))
    assert (scores.hits1, scores.hits5, scores.loss, scores.count) == (
        expected.hits1, expected.hits5, expected.loss, 6,
    )  # fmt: skip
    assert scores.miou is None


@pytest.mark.parametrize("y", [torch.zeros(4), torch.eye(3)[[0, 1, 2, 0]], torch.zeros(4, dtype=torch.float64)])
def test_labels_that_are_floats_are_refused_by_name(y):
    with pytest.raises(ValueError, match=rf"TinyNet: labels are {y.dtype}, expected whole numbers"):
        Scores("TinyNet").add(torch.zeros(4, 3), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_summed_in_float(dtype):
    logits = (8 * torch.randn(2, 4, 200, 200, generator=torch.Generator().manual_seed(0))).to(dtype)
    truth = torch.randint(4, (2, 200, 200), generator=torch.Generator().manual_seed(1))
    scores = Scores()
    scores.add(logits, truth)
    expected = torch.nn.functional.cross_entropy(logits.double(), truth, reduction="sum")
    assert float(expected) > 65504
    assert scores.loss == pytest.approx(float(expected), rel=1e-6)
