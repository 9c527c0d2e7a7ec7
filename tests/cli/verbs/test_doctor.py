import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

import flatbit as fb
from flatbit.engine.run import read_run, run
from flatbit.recipes import RECIPES

FINDING = {
    "layer": "input of conv1",
    "problem": "step collapsed",
    "evidence": "1e-8 [red] of rms",
    "mend": "recalibrate",
}
FAILURE = {"stage": "uniq-w2a2", "message": "stage 'uniq-w2a2': the loss is not finite [bold]", "findings": [FINDING]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = RECIPES.get("uniq-preresnet8-digits")(model_arguments={"first_width": 4}, float_epochs=6, epochs=10)
    return run(recipe, tmp_path_factory.mktemp("run") / "run").folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def changed(folder, change):
    record = read_run(folder).record
    change(record)
    (folder / "run.json").write_text(json.dumps(record))


def broken(folder, change, stage="uniq-w2a2"):
    path = folder / "stages" / f"{stage}.safetensors"
    model = fb.load(path)
    change(model)
    fb.save(model, path)


def says(flatbit, *arguments):
    result = flatbit("doctor", *arguments, "--json")
    assert (result.status, result.err) == (0, ""), result
    return json.loads(result.out)


def test_a_healthy_run_has_no_findings(flatbit, trained):
    assert says(flatbit, trained) == {"failure": None, "quantizers": 20, "findings": [], "unfinished": []}
    result = flatbit("doctor", trained)
    assert (result.status, result.out) == (0, "no findings in 20 quantizers of 2 finished stages\n")


def test_what_is_broken_is_named_with_stage_layer_and_mend(flatbit, folder):
    def change(model):
        model.layers[1][0].conv2.input_quantizer.step.data *= 1e6

    broken(folder, change)
    found = says(flatbit, folder, "--updates", 0)["findings"]
    (finding,) = [finding for finding in found if finding["problem"] == "dead clip"]
    assert (finding["stage"], finding["layer"]) == ("uniq-w2a2", "input of layers.1.0.conv2")
    assert "flatbit.calibrate_" in finding["mend"]
    out = flatbit("doctor", folder, "--updates", 0).out
    for text in ("stage", "problem", "evidence", "mend", "uniq-w2a2", "dead clip", "findings in 20 quantizers"):
        assert text in out


def test_a_stage_that_is_not_finite_is_a_report_and_no_error(flatbit, folder):
    broken(folder, lambda model: model.fc.weight.data.fill_(float("nan")))
    (finding,) = says(flatbit, folder)["findings"]
    assert (finding["layer"], finding["problem"]) == ("weight of fc", "not finite")


def test_the_probe_has_the_stage_s_settings(flatbit, folder, monkeypatch):
    calls = []

    def spy(model, batches, **settings):
        calls.append((batches.batch_size, batches.seed, settings))
        return diagnose(model, batches, **settings | {"updates": 0})

    from flatbit.analysis.doctor import diagnose

    monkeypatch.setattr("flatbit.cli.verbs.doctor.diagnose", spy)
    says(flatbit, folder, "--stage", "uniq-w2a2", "--updates", 7)
    lrs = [epoch["lr"] for epoch in read_run(folder).record["stages"]["uniq-w2a2"]["epochs"]]
    expected = {
        "lr": max(lrs), "last_lr": lrs[-1], "updates": 7,
        "optimizer": "sgd", "weight_decay": 5e-4, "momentum": 0.9, "nesterov": False,
    }  # fmt: skip
    assert calls == [(64, 0, expected)]
    assert lrs[-1] < max(lrs) == pytest.approx(0.01)


def test_an_lr_too_high_for_the_steps_is_found(flatbit, folder):
    def change(record):
        epochs = record["stages"]["uniq-w2a2"]["epochs"]
        epochs[0]["lr"], epochs[-1]["lr"] = 1.0, 0.0
        next(s for s in record["recipe"]["stages"] if s["name"] == "uniq-w2a2")["optimizer"] = "adam"

    changed(folder, change)
    found = says(flatbit, folder, "--updates", 2)["findings"]
    assert {"lr too high for the step"} == {finding["problem"] for finding in found}
    assert len({finding["layer"] for finding in found}) == 20


def test_steps_that_the_stage_fixed_are_fixed_in_the_probe(flatbit, folder):
    def change(record):
        epochs = record["stages"]["uniq-w2a2"]["epochs"]
        epochs[0]["lr"], epochs[-1]["lr"] = 1.0, 0.0
        settings = next(s for s in record["recipe"]["stages"] if s["name"] == "uniq-w2a2")
        settings |= {"optimizer": "adam", "fixed_weight_steps": True}

    changed(folder, change)
    found = says(flatbit, folder, "--updates", 2)["findings"]
    assert {finding["layer"].partition(" ")[0] for finding in found} == {"input"}


def test_why_it_stopped_comes_first(flatbit, folder):
    changed(folder, lambda record: record.update(failure=FAILURE) or record["stages"].pop("uniq-w2a2"))
    said = says(flatbit, folder)
    assert (said["failure"], said["quantizers"]) == (FAILURE, 0)
    assert said["findings"] == [{"stage": "uniq-w2a2 (stopped)"} | FINDING]
    assert says(flatbit, folder, "--stage", "uniq-w2a2") == said
    out = flatbit("doctor", folder).out
    assert out.startswith("stopped: stage 'uniq-w2a2': the loss is not finite [bold]\n")
    assert "1e-8 [red] of rms" in out


def test_a_failure_before_any_stage_needs_no_data(flatbit, folder):
    changed(folder, lambda record: record.update(failure=FAILURE | {"findings": []}, stages={}))
    assert flatbit("doctor", folder).out.startswith("stopped: stage")


def test_a_stage_that_was_only_calibrated_is_examined(flatbit, tmp_path):
    recipe = RECIPES.get("finetune")(model="preresnet8", model_arguments={"first_width": 2}, epochs=0)
    done = run(recipe, tmp_path / "run", smoke=True)
    assert says(flatbit, done.folder, "--stage", "calibrated")["quantizers"] == 20


def test_mistakes_are_one_line(refuses, folder, tmp_path):
    assert "is not a run: it has no run.json" in refuses("doctor", tmp_path / "nowhere")
    assert "has no finished stage 'unik': it has float, uniq-w2a2" in refuses("doctor", folder, "--stage", "unik")


def test_data_that_a_run_names_is_imported_on_trust_only(flatbit, refuses, own, tmp_path):
    module = own("from flatbit.data.sets.digits import digits\n")
    recipe = partial(RECIPES.get("uniq-preresnet8-digits"), model_arguments={"first_width": 2})()
    done = run(replace(recipe, data=f"{module}:digits"), tmp_path / "run", smoke=True)
    assert f"wants to import its data from '{module}:digits': --trust it" in refuses("doctor", done.folder)
    assert says(flatbit, done.folder, "--trust", "--updates", 0)["quantizers"] == 20
