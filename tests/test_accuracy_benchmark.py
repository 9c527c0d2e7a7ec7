"""benchmarks/accuracy.py: arms are at their widths, all see the same batches, runs are kept, docs/peers.md is written.

Without Brevitas, and on digits, which need no files.
"""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from flatbit import models

ROOT = Path(__file__).parent.parent
HERE = ["uniq", "lsq", "saq", "faq", "torch_ao", "torch_ao_histogram"]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job(folder, arm="", **given):
    """A run that takes a second."""
    from accuracy_jobs import Job, Setting

    usual = {
        "data": "digits", "data_arguments": {}, "images": 100, "model": "preresnet8", "epochs": 1, "batch_size": 20,
        "model_arguments": {"num_classes": 10, "in_channels": 1, "first_width": 2}, "calibration_batches": 2,
        "float_epochs": 1,
    }  # fmt: skip
    known = {"bits": given.pop("bits", 2), "seed": given.pop("seed", 0)} if arm else {}
    return Job(setting=Setting(**usual | given), folder=folder, data_dir=None, arm=arm, **known)


def net_and_inputs():
    torch.manual_seed(0)
    model = models.build("preresnet8", num_classes=10, in_channels=1, first_width=4)
    inputs = [torch.randn(16, 1, 8, 8) for _ in range(2)]
    for x in inputs:
        model.train()(x)  # batch norms know something
    return model, inputs


def test_every_arm_is_told_of_and_those_of_a_package_that_is_not_here_are_named_with_the_reason(monkeypatch, capsys):
    from accuracy import available
    from accuracy_arms import ARMS, NAMES

    assert {*NAMES} == {*ARMS}
    assert all(set_up_.__doc__ for set_up_ in ARMS.values())
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "brevitas" else found(name))
    assert available(list(ARMS)) == HERE
    said = capsys.readouterr().out
    for arm in ("brevitas", "brevitas_mse"):
        assert f"{NAMES[arm]} is left out: brevitas is not installed (benchmarks/requirements.txt)\n" in said


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("arm", HERE)
def test_an_arm_has_its_widths_and_8_bits_at_both_ends(arm, bits):
    from accuracy_arms import ARMS
    from accuracy_run import levels

    model, inputs = net_and_inputs()
    ARMS[arm](model, bits, inputs)
    (image, first), *inner, (pooled, last) = levels(model, inputs[0])
    assert len(inner) == 8
    assert all(1 < count <= 2**bits for pair in inner for count in pair)
    assert 2**bits < image <= 256
    assert all(2 < count <= 256 for count in (first, pooled, last))


@pytest.mark.parametrize("arm", HERE)
def test_an_arm_says_which_of_its_parameters_do_not_decay_and_all_learn(arm):
    from accuracy_arms import ARMS

    model, inputs = net_and_inputs()
    weights = {id(parameter) for parameter in model.parameters()}
    undecayed = ARMS[arm](model, 2, inputs)
    assert len(undecayed) == {"uniq": 20, "lsq": 20, "saq": 1, "faq": 0}.get(arm, 40)  # torch.ao: zero points too
    assert not weights & {id(parameter) for parameter in undecayed}
    model.train()(inputs[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_histogram_loses_less_than_the_largest_value_where_there_are_outliers():
    from accuracy_arms import ARMS

    for arm, wide in (("torch_ao", True), ("torch_ao_histogram", False)):
        model, inputs = net_and_inputs()
        weight = model.layers[0][0].conv1.weight.data
        weight[0, 0, 0, 0] = 8 * weight.std()
        ARMS[arm](model, 2, inputs)
        scale = model.layers[0][0].conv1.weight_quantizer.scale.item()
        assert math.isclose(scale, weight.max() / 1.5, rel_tol=1e-3) is wide, scale  # four levels are three steps wide
        assert scale <= weight.max() / 1.5 + 1e-6


def test_levels_are_counted_where_they_reach_the_kernels():
    from accuracy_run import levels

    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    model[0].weight.data = torch.tensor([1.0, 1.0]).reshape(2, 1, 1, 1)
    model[2].weight.data = torch.arange(24.0).reshape(3, 8) % 5
    x = torch.tensor([0.0, 1.0, 2.0, 2.0]).reshape(1, 1, 2, 2)
    assert levels(model, x)[0] == (3, 1)
    assert levels(model, x)[1][1] == 5


def test_a_run_is_kept_and_is_the_same_again(tmp_path):
    from accuracy_jobs import finished
    from accuracy_run import run

    made = {}
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert finished(job(folder)) is None
        made[folder] = [run(job(folder)), run(job(folder, "lsq")), run(job(folder, "lsq", seed=1))]
        assert finished(job(folder, "lsq")) == json.loads(json.dumps(made[folder][1]))
    (base, one, other), (_, again, _) = made.values()
    assert 0 < base["after"] < 100
    for key in ("before", "after", "losses", "levels"):
        assert one[key] == again[key]
    assert one["losses"] != other["losses"]
    assert one["how"].startswith('``flatbit.policy("lsq")``')
    assert one["peak_bytes"] >= one["peak_before_bytes"] > 2**20
    assert one["train_cpu_s"] > 0
    with pytest.raises(ValueError, match=r"was run with {'epochs': 1}"):
        finished(job(tmp_path / "a", "lsq", epochs=2))


def test_all_arms_see_the_same_batches_and_the_same_loop(tmp_path, monkeypatch):
    """Two arms that leave the float net as it is end as one."""
    import accuracy_run

    monkeypatch.setattr(accuracy_run, "ARMS", dict.fromkeys(("uniq", "torch_ao"), lambda model, bits, inputs: []))
    accuracy_run.run(job(tmp_path))
    ours, theirs = (accuracy_run.run(job(tmp_path, arm)) for arm in ("uniq", "torch_ao"))
    assert ours["losses"] == theirs["losses"]
    assert ours["after"] == theirs["after"]


def test_what_does_not_decay_does_not_decay():
    from accuracy_run import train_

    model = nn.Linear(2, 2)
    before = model.weight.detach().clone(), model.bias.detach().clone()

    class Zeros:
        """Batches that give no gradient."""

        def __len__(self):
            return 1

        def epoch(self, epoch):
            yield torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])

    model.bias.data.zero_()
    train_(model, [model.weight], Zeros(), replace(job(Path()).setting, weight_decay=0.5))
    assert torch.equal(model.weight, before[0])
    model.bias.data.zero_()
    train_(model, [], Zeros(), replace(job(Path()).setting, weight_decay=0.5))
    assert torch.allclose(model.weight, before[0] * (1 - 0.01 * 0.5))


def test_a_run_that_diverges_is_a_result(tmp_path):
    from accuracy import summary
    from accuracy_jobs import finished
    from accuracy_run import run

    run(job(tmp_path))
    found = run(job(tmp_path, "uniq", lr=1e20, epochs=3))
    assert found["diverged_in_epoch"]
    assert found["after"] is None
    assert finished(job(tmp_path, "uniq", lr=1e20, epochs=3))["after"] is None
    assert "not finite, diverged in epoch" in summary(found)


def result(arm, seed, after, bits=2, **more):
    """What a run leaves, of a made-up one."""
    facts = job(Path(), arm, bits=bits, seed=seed).facts() if arm else job(Path()).facts()
    environment = {
        "date": "2026-11-28", "processor": "X", "cores": 2, "threads": 1, "torch": "2.13.0", "python": "3.11.7",
        "brevitas": None,
    }  # fmt: skip
    usual = {
        "before": 50.0, "how": f"How {arm} is set up.", "train_cpu_s": 10.0, "start_cpu_s": 1.0, "levels": [[4, 4]],
        "peak_bytes": 2**29, "peak_before_bytes": 2**28, "wall_s": 12.0, "diverged_in_epoch": None,
    }  # fmt: skip
    return {"facts": facts, "after": after, "environment": environment} | usual | more


def record_in(folder, results):
    from accuracy_page import record_of

    from records import Record

    name, content = record_of({"fashion_mnist": results, "cifar10": []}, "cpu")
    (folder / name).write_text(json.dumps(content))
    return Record.read(folder / name)


def test_the_table_has_mean_and_deviation_over_seeds_and_differences_in_pairs(tmp_path):
    from accuracy_page import page, table

    ours = [result("uniq", seed, after) for seed, after in enumerate((80.0, 82.0, 84.0))]
    theirs = [result("torch_ao", seed, after) for seed, after in enumerate((79.0, 80.0, 81.0))]
    theirs.append(result("torch_ao", 3, None, diverged_in_epoch=1))
    record = record_in(tmp_path, [result("", 0, 90.0), *ours, *theirs, result("uniq", 0, 89.0, bits=4)])
    assert record.path.name == "2026-11-28-accuracy-cpu.json"
    lines = table(record.rows).splitlines()[2:]
    assert lines == [
        "| W4A4 | flatbit uniq | 50.00 | 89.00 |  | 10 | 512 | 1 |",
        "| W2A2 | flatbit uniq | 50.00 ± 0.00 | 82.00 ± 2.00 |  | 10 | 512 | 3 |",
        "| W2A2 | torch.ao, min-max start | 50.00 ± 0.00 | 80.00 ± 1.00 | -2.00 ± 1.00 (p 0.074) | 10 | 512 | "
        "4, 1 diverged |",
    ]
    text = page(record)
    assert "not edited by hand" in text
    assert "float 90.00 % (1 epochs here); 100 training images, 1 epochs, rate 0.01, batch 20" in text
    assert "**torch.ao, min-max start.** How torch_ao is set up." in text
    assert "## cifar10" not in text
    assert "Nothing is run yet" not in text
    text = page(None)
    assert "Nothing is run yet" in text
    assert "**torch.ao, min-max start.** torch.ao's learnable fake-quantization from its usual start" in text


def test_the_committed_page_is_what_the_record_gives():
    done = subprocess.run([sys.executable, "benchmarks/accuracy_page.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_budget_ends_between_seeds_and_the_arms_of_a_seed_come_together(tmp_path, monkeypatch, capsys):
    import accuracy

    from flatbit.atomic import replacing

    def work(jobs, processes):
        done.append([(each.arm, each.bits, each.seed) for each in jobs])
        for each in jobs:
            with replacing(each.path) as path:
                path.write_text(json.dumps({"facts": each.facts(), "wall_s": 50.0, "after": 1.0}))

    def call(*words):
        done.clear()
        monkeypatch.setattr(sys, "argv", ["accuracy.py", "--data-dir", "D", "--out", str(tmp_path), *words])
        accuracy.main()

    done: list = []
    monkeypatch.setattr(accuracy, "work", work)
    few = ("--sets", "fashion_mnist", "--arms", "uniq", "lsq", "--seeds", "2", "--bits", "2", "3")
    call(*few, "--budget-minutes", "1")
    assert done == [[("", 32, 0)], [("uniq", 2, 0), ("lsq", 2, 0)]]
    assert "no time for fashion_mnist, W2A2, seed 1, flatbit uniq and what follows" in capsys.readouterr().out
    call(*few, "--budget-minutes", "1", "--processes", "2")
    assert done == [[("uniq", 2, 1), ("lsq", 2, 1)], *[[("uniq", 3, s), ("lsq", 3, s)] for s in (0, 1)]]
    call(*few)
    assert done == []
    with pytest.raises(ValueError, match="take another --out"):
        call(*few, "--epochs", "1")


def test_without_runs_there_is_nothing_to_report_and_without_data_nothing_to_run(tmp_path, monkeypatch):
    import accuracy

    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--report", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="no finished run"):
        accuracy.main()
    monkeypatch.setattr(sys, "argv", ["accuracy.py"])
    with pytest.raises(SystemExit, match="--data-dir"):
        accuracy.main()


def test_the_rate_falls_along_a_cosine_to_0():
    from accuracy_run import train_

    rates = []

    class Batches:
        """Two steps an epoch."""

        def __len__(self):
            return 2

        def epoch(self, epoch):
            for _ in range(2):
                yield torch.zeros(2, 2), torch.tensor([0, 1])

    model = nn.Linear(2, 2)
    step = torch.optim.SGD.step

    def noted(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", noted)
        train_(model, [], Batches(), replace(job(Path()).setting, epochs=2, lr=1.0))
    assert rates == pytest.approx([(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])
