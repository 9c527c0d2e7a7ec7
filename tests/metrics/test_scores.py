import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.metrics.scores import Scores, tally

from ..no_waits import as_on_a_device, no_waits


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


def by_selection(logits, y):
    """Scores as they are defined: pixels that count are selected, then counted."""
    classes, pixels = logits.shape[1], y.ndim > 1
    if pixels:
        logits, y = logits.movedim(1, -1)[y != VOID], y[y != VOID]
    ranked = logits.topk(min(5, classes), dim=1).indices == y[:, None]
    confusion = torch.bincount(classes * y + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
    loss = float(F.cross_entropy(logits, y, reduction="none").sum(dtype=torch.float64)) if len(y) else 0.0
    return int(ranked[:, 0].sum()), int(ranked.sum()), len(y), loss, confusion if pixels else None


def batches_of(seed, classes, pixels, ties):
    """Three batches, of logits that tie where asked; some pixels void."""
    generator = torch.Generator().manual_seed(seed)
    for n in (1, 4, 7):
        shape = (n, 3, 5) if pixels else (n,)
        logits = torch.randn(n, classes, *shape[1:], generator=generator)
        y = torch.randint(classes, shape, generator=generator)
        if pixels:
            y[torch.rand(shape, generator=generator) < 0.3] = VOID
        yield logits.round() if ties else logits, y


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1, 2, 7, 255]), st.booleans(), st.booleans(), st.booleans())
def test_sums_are_those_of_a_selection_on_the_cpu_and_as_on_a_device(seed, classes, pixels, ties, waits):
    expected, scores = [0, 0, 0, 0.0, None], Scores()
    batches = list(batches_of(seed, classes, pixels, ties))
    for batch in batches:
        sums = by_selection(*batch)
        expected = [a + b if a is not None and b is not None else b for a, b in zip(expected, sums, strict=True)]
    if waits:
        for batch in batches:
            scores.add(*batch)
    else:
        with no_waits():
            for batch in batches:
                scores.add(*batch)
        assert (scores.count, scores.loss, scores.confusion) == (0, 0.0, None)
        scores.settle()
    hits1, hits5, count, loss, confusion = expected
    assert (scores.hits1, scores.hits5, scores.count, scores.num_samples) == (hits1, hits5, count, 12)
    assert scores.loss == pytest.approx(loss, rel=1e-12, abs=0)
    assert (scores.confusion is None) if confusion is None else torch.equal(scores.confusion, confusion)


def test_a_label_without_an_output_reaches_no_index_and_is_said_at_settlement():
    for label, message in (
        (3, "a label is 3, but TinyNet has 3"),
        (-1, "a label is -1: "),
        (2**62, "4611686018427387904"),
    ):
        scores, y = Scores("TinyNet"), torch.tensor([0, label, 1])
        logits = torch.randn(3, 3)
        assert tally(logits, y).loss.isfinite()
        with as_on_a_device():
            scores.add(logits, y.clamp(0, 2))
            scores.add(logits, y)
        with pytest.raises(ValueError, match=message):
            scores.settle()
        assert scores.count == 3


def test_labels_of_pixels_out_of_range_are_in_no_cell():
    found = tally(torch.randn(1, 3, 2, 2), torch.tensor([[[300, 4], [VOID, -7]]]))
    assert found.cells.sum() == 4
    assert found.cells[-1] == 1
    assert found.whole[2:].tolist() == [3, -7, 300]


def test_a_model_without_outputs_is_an_error():
    with pytest.raises(ValueError, match="TinyNet has no outputs"):
        Scores("TinyNet").add(torch.zeros(2, 0), torch.tensor([0, 1]))
