import json
import shutil
from dataclasses import asdict, replace

import pytest

import flatbit as fb
from flatbit.analysis.doctor import diagnose
from flatbit.engine import plan, run
from flatbit.engine.record import Failure, read_run, write_record
from flatbit.metrics.health import Finding
from flatbit.recipes import RECIPES, Network
from flatbit.train.optimizers import SGD, Adam

FINDING = Finding(layer="input of conv1", problem="step collapsed", evidence="1e-8 [red] of rms", mend="recalibrate")
FAILURE = Failure(stage="uniq-w2a2", message="stage 'uniq-w2a2': the loss is not finite [bold]", findings=(FINDING,))


def recipe_of(name, width, **settings):
    """A recipe on a narrow net; settings with ``__`` for dots."""
    given = {place.replace("__", "."): value for place, value in settings.items()}
    return RECIPES.get(name).recipe(name, given, Network(arguments={"first_width": width}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = recipe_of("uniq-preresnet8-digits", 4, pretraining__epochs=6, training__epochs=10)
    return run(plan(recipe), tmp_path_factory.mktemp("run") / "run").folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def changed(folder, **parts):
    """Write other parts into a run's record."""
    write_record(folder, replace(read_run(folder).record, **parts))


def with_jumping_lr(folder, **settings):
    """Say that the quantized stage was trained by Adam, at lr 1 at first and 0 at last."""
    record = read_run(folder).record
    entry = record.stages["uniq-w2a2"]
    first, *between, last = entry.epochs
    epochs = (replace(first, lr=1.0), *between, replace(last, lr=0.0))
    stages = tuple(
        replace(stage, optimizer=Adam(), **settings) if stage.name == "uniq-w2a2" else stage
        for stage in record.recipe.stages
    )
    changed(
        folder,
        recipe=replace(record.recipe, stages=stages),
        stages=dict(record.stages) | {"uniq-w2a2": replace(entry, epochs=epochs)},
    )


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
    said = says(flatbit, trained)
    (compared,) = said.pop("compared")
    assert said == {"failure": None, "quantizers": 20, "findings": [], "unfinished": []}
    result = flatbit("doctor", trained)
    first, *rest = result.out.splitlines()
    assert (result.status, first) == (0, "no findings in 20 quantizers of 2 finished stages")
    entries = read_run(trained).record.stages
    below = entries["float"].score - entries["uniq-w2a2"].score
    assert (compared["stage"], compared["below"]) == ("uniq-w2a2", pytest.approx(below))
    assert f"points {'below' if below >= 0 else 'above'} the float net's" in " ".join(rest)
    assert f"Next: {compared['next']}" in " ".join(rest)


def test_what_is_broken_is_named_with_stage_layer_and_mend(flatbit, folder):
    def change(model):
        model.layers[1][0].conv2.input_quantizer.step.data *= 1e6

    broken(folder, change)
    found = says(flatbit, folder, "--updates", 0)["findings"]
    (finding,) = [finding for finding in found if finding["problem"] == "dead clip"]
    assert (finding["stage"], finding["layer"]) == ("uniq-w2a2", "input of layers.1.0.conv2")
    assert "flatbit.calibrate_" in finding["mend"]
    out = flatbit("doctor", folder, "--updates", 0).out
    for text in ("stage", "problem", "evidence", "mend", "uniq-w2a2", "dead clip"):
        assert text in out
    assert "\n1 finding in 20 quantizers of 2 finished stages\n" in out


def test_a_stage_that_is_not_finite_is_a_report_and_no_error(flatbit, folder):
    broken(folder, lambda model: model.fc.weight.data.fill_(float("nan")))
    (finding,) = says(flatbit, folder)["findings"]
    assert (finding["layer"], finding["problem"]) == ("weight of fc", "not finite")


def test_the_probe_has_the_stage_s_settings(flatbit, folder, monkeypatch):
    calls = []

    def spy(model, batches, **settings):
        calls.append((batches.batch_size, batches.seed, settings))
        return diagnose(model, batches, **settings | {"updates": 0})

    monkeypatch.setattr("flatbit.cli.verbs.doctor.diagnose", spy)
    says(flatbit, folder, "--stage", "uniq-w2a2", "--updates", 7)
    lrs = [epoch.lr for epoch in read_run(folder).record.stages["uniq-w2a2"].epochs]
    expected = {"lr": max(lrs), "last_lr": lrs[-1], "updates": 7, "optimizer": SGD(), "weight_decay": 5e-4}
    assert calls == [(64, 0, expected)]
    assert lrs[-1] < max(lrs) == pytest.approx(0.01)


def test_an_lr_too_high_for_the_steps_is_found(flatbit, folder):
    with_jumping_lr(folder)
    found = says(flatbit, folder, "--updates", 2)["findings"]
    assert {"lr too high for the step"} == {finding["problem"] for finding in found}
    assert len({finding["layer"] for finding in found}) == 20


def test_steps_that_the_stage_fixed_are_fixed_in_the_probe(flatbit, folder):
    with_jumping_lr(folder, fixed_weight_steps=True)
    found = says(flatbit, folder, "--updates", 2)["findings"]
    assert {finding["layer"].partition(" ")[0] for finding in found} == {"input"}


def test_why_it_stopped_comes_first(flatbit, folder):
    stages = read_run(folder).record.stages
    changed(folder, failure=FAILURE, stages={"float": stages["float"]})
    said = says(flatbit, folder)
    assert (said["failure"], said["quantizers"]) == (asdict(FAILURE) | {"findings": [asdict(FINDING)]}, 0)
    assert said["findings"] == [{"stage": "uniq-w2a2 (stopped)"} | asdict(FINDING)]
    assert said["unfinished"] == ["uniq-w2a2"]
    assert says(flatbit, folder, "--stage", "uniq-w2a2") == said
    out = flatbit("doctor", folder).out
    assert out.startswith("stopped: stage 'uniq-w2a2': the loss is not finite [bold]\n")
    assert "1e-8 [red] of rms" in out
    assert "not finished: uniq-w2a2: the same settings stop again" in " ".join(out.split())


def test_what_was_only_cut_off_goes_on(flatbit, folder):
    changed(folder, stages={"float": read_run(folder).record.stages["float"]})
    out = flatbit("doctor", folder).out
    assert out.startswith("not finished: uniq-w2a2: flatbit run ... --resume goes on\n")


def test_a_failure_before_any_stage_needs_no_data(flatbit, folder):
    changed(folder, failure=replace(FAILURE, findings=()), stages={})
    assert flatbit("doctor", folder).out.startswith("stopped: stage")


def test_a_stage_that_was_only_calibrated_is_examined(flatbit, tmp_path):
    recipe = RECIPES.get("finetune").recipe(
        "finetune", {"training.epochs": 0}, Network(model="preresnet8", arguments={"first_width": 2})
    )
    done = run(plan(recipe, smoke=True), tmp_path / "run")
    assert says(flatbit, done.folder, "--stage", "calibrated")["quantizers"] == 20


def test_mistakes_are_one_line(refuses, folder, tmp_path):
    assert f"no run in {tmp_path / 'nowhere'}: it has no run.json" in refuses("doctor", tmp_path / "nowhere")
    assert "has no finished stage 'unik': it has float, uniq-w2a2" in refuses("doctor", folder, "--stage", "unik")


def test_data_that_a_run_names_is_imported_on_trust_only(flatbit, refuses, own, tmp_path):
    module = own("from flatbit.data.sets.digits import load_digits\n")
    recipe = replace(recipe_of("uniq-preresnet8-digits", 2), data=f"{module}:load_digits")
    done = run(plan(recipe, smoke=True), tmp_path / "run")
    assert f"wants to import its data from '{module}:load_digits': --trust it" in refuses("doctor", done.folder)
    assert says(flatbit, done.folder, "--trust", "--updates", 0)["quantizers"] == 20


@pytest.mark.parametrize("data", ["--data", "--data=x"])
def test_the_folder_of_files_is_data_dir(refuses, data):
    assert refuses("doctor", "run", data, "x") == "flatbit: --data is --data-dir DIR now"
