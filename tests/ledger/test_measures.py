"""Measures: taken on the nets that a run left, where a row asks for them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.analysis.curvature import hessian
from flatbit.data.augment import Augment
from flatbit.files import save
from flatbit.ledger.experiments import Experiment, experiment, experiments
from flatbit.ledger.measures import MEASURES, lambda_max, measured, train_top1, wanted
from flatbit.ledger.published import published


def test_what_rows_ask_for_is_measured_at_their_point():
    assert wanted(experiment("saq/resnet20-saq-4")) == {"": ("lambda_max",)}
    assert wanted(experiment("sqwa/t1-kd")) == {"float": ("train_top1",)}
    assert wanted(experiment("sqwa/t2-late"))["retrain@250"] == ("train_top1",)
    assert wanted(experiment("uniq/t4-uniq-2")) == {}


def test_every_row_that_a_measure_could_fill_is_asked_for():
    asked = {row.id for row in published() if row.metric in MEASURES}
    filled = {id for entry in experiments().values() for ids in entry.fills.values() for id in ids} & asked
    counted = sum(len(names) for entry in experiments().values() for names in wanted(entry).values())
    assert 0 < counted <= len(filled)
    for entry in experiments().values():
        for point, ids in entry.fills.items():
            assert {r.metric for r in published() if r.id in ids and r.id in asked} == {*wanted(entry).get(point, ())}


def test_the_training_set_is_scored_without_augmentation(blobs):
    blobs = replace(blobs, augment=Augment(pad=2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = blobs.train.images, blobs.train.labels
    right = (model((x / 255 - 0.5) / 0.25).argmax(1) == y).float().mean().item()
    assert train_top1(model, blobs, "cpu") == pytest.approx(100 * right)


def test_curvature_is_that_of_the_mean_loss_over_the_first_images(blobs, monkeypatch):
    monkeypatch.setattr("flatbit.ledger.measures.SAMPLES", 48)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = (blobs.train.images / 255 - 0.5) / 0.25, blobs.train.labels
    assert lambda_max(model, blobs, "cpu") == pytest.approx(hessian(model, [(x, y)]).eigenvalue, rel=1e-2)


def test_a_runs_nets_are_measured_each_at_its_point(tmp_path, blobs):
    """The last one is the run's model, a stage's its file, a capture's that with its epoch."""
    scores = {}
    for place in ("model", "stages/float", "stages/retrain@3"):
        torch.manual_seed(len(scores))
        model = models.build("fcdnn", width=4, depth=2, in_features=16, num_classes=3)
        save(model, tmp_path / f"{place}.safetensors")
        scores[place] = train_top1(model, blobs, "cpu")
    asked = "SQWA-T1-01"
    fills = {"": (asked,), "float": (asked,), "retrain@3": (asked,)}
    entry = Experiment(name="a/b", what="", recipe="float", fills=fills)
    found = measured(entry, tmp_path, blobs, "cpu")
    assert [found[point]["train_top1"] for point in fills] == [*scores.values()]
    assert len({*scores.values()}) > 1
