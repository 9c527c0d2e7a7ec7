"""docs/performance.md and README's numbers on speed are what the newest records give (benchmarks/page.py)."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def checked(*words):
    return subprocess.run([sys.executable, "benchmarks/page.py", *words], cwd=ROOT, capture_output=True, text=True)


def record(folder, name, rows=(), times=None, environment=(), **settings):
    """A record's file."""
    usual = {"gpu": None, "processor": "X", "threads": 2, "cores": 2, "torch": "2.11.0", "python": "3.12.1"}
    content = {
        "environment": usual | dict(environment),
        "settings": {"batch": 128} | settings,
        "rows": list(rows),
        "times_s": times or {},
    }
    (folder / name).write_text(json.dumps(content))


STEP_ROW = {
    "median_ms": 1.0, "ratio_to_float": 1.0, "ratio_quartiles": [1.0, 1.0], "saved_bytes": 2**20, "saved_ratio": 1.0,
}  # fmt: skip


def step(variant, ratio, saved):
    return STEP_ROW | {"variant": variant, "ratio_to_float": ratio, "saved_ratio": saved}


def read(folder):
    from records import newest

    return newest(folder)


def test_the_committed_pages_are_what_the_records_give():
    done = checked("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_record_has_a_name_that_tells_of_it():
    from records import Record

    files = sorted(RESULTS.glob("*.json"))
    assert files
    for path in files:
        assert Record.read(path).environment["date"] == path.name[:10]


def test_the_numbers_in_readme_are_in_a_record():
    """By another way than the page's: read off the text, and looked for in the record of the step."""
    text = (ROOT / "README.md").read_text().partition("<!-- speed")[2].partition("<!-- /speed")[0]
    files = [path for path in sorted(RESULTS.glob("*-qat_step-cpu*.json")) if "batch" in path.read_text()]
    rows = [row for path in files for row in json.loads(path.read_text())["rows"]]
    known = {f"{row['ratio_to_float']:.2f}" for row in rows}
    known |= {f"{row['saved_ratio']:.1f}" for row in rows if row["saved_ratio"]}
    found = re.findall(r"\d+\.\d+", text)
    assert len(found) >= 3
    assert {*found} <= known


def test_of_one_benchmark_device_and_variant_the_newest_record_counts(tmp_path):
    for name in (
        "2026-11-01-epoch-cpu",
        "2026-11-03-epoch-cpu",
        "2026-11-02-epoch-cpu-graphs",
        "2026-11-02-epoch-h100",
    ):
        record(tmp_path, f"{name}.json")
    (tmp_path / "2026-11-02-epoch-cpu.png").write_text("")
    assert [found.path.stem for found in read(tmp_path)] == [
        "2026-11-03-epoch-cpu", "2026-11-02-epoch-cpu-graphs", "2026-11-02-epoch-h100",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["epoch-cpu.json", "2026-11-01-epoch.json", "2026-11-01-Epoch-cpu.json"])
def test_a_file_of_another_name_is_refused(tmp_path, name):
    record(tmp_path, name)
    with pytest.raises(ValueError, match="DATE-BENCHMARK-DEVICE"):
        read(tmp_path)


def test_names_are_made_as_they_are_read():
    from names import NAME, device_label, record_name

    name = record_name("2026-11-01", "qat_step", device_label("cuda:0", "NVIDIA H100 80GB HBM3"), "compiled-bf16")
    assert name == "2026-11-01-qat_step-h100-compiled-bf16.json"
    assert NAME.fullmatch(name)["variant"] == "compiled-bf16"
    labels = [device_label("cpu", None), device_label("cuda", "Tesla T4"), device_label("cuda", "NVIDIA Titan RTX")]
    assert labels == ["cpu", "t4", "nvidiatitanrtx"]
    with pytest.raises(ValueError, match="names no record"):
        record_name("2026-11-01", "Epoch", "cpu")


def test_what_no_record_tells_stands_among_the_unmeasured_with_its_command(tmp_path):
    from page import page

    text = page(read(tmp_path))
    unmeasured = text.partition("## What is not measured")[2]
    assert "GPU: an epoch of W2A2 by SGD: `scripts/gpu --out DIR`" in unmeasured
    assert "An epoch: `python benchmarks/epoch.py`" in unmeasured
    row = {"arm": "uniq, SGD", "engine": "graphs", "precision": "tf32", "epoch_s": 0.5, "ratio_to_float": None}
    record(tmp_path, "2026-11-01-engine-h100.json", [row], environment={"gpu": "NVIDIA H100"})
    text = page(read(tmp_path))
    assert "| GPU: an epoch of W2A2 by SGD | 0.600 s | 0.500 s |" in text
    assert "| GPU: SQWA's 425 epochs, training only | 5.00 min | 3.54 min |" in text
    assert "GPU: an epoch of W2A2 by SGD" not in text.partition("## What is not measured")[2]
    assert "uniq, SGD | graphs, tf32 |" in text


def test_a_rehearsal_on_the_cpu_is_no_measurement_of_a_gpu(tmp_path):
    from goals import best_epoch

    record(tmp_path, "2026-11-01-engine-cpu.json", [{"arm": "float", "precision": "bf16", "epoch_s": 9.0}])
    assert best_epoch("float")(read(tmp_path)) is None


def test_of_an_epoch_that_was_trained_whole_the_slower_of_both_counts(tmp_path):
    from goals import best_epoch, gpu_ratio

    rows = [
        {"arm": "float", "precision": "tf32", "epoch_s": 0.5},
        {"arm": "uniq, SGD", "precision": "tf32", "epoch_s": 0.5, "whole_epoch_s": 0.7},
        {"arm": "uniq, SGD", "precision": "bf16", "epoch_s": 0.9},
        {"arm": "uniq, SGD", "precision": "float32", "epoch_s": 0.1},
        {"arm": "uniq, SGD", "precision": "bf16", "missing": "no time"},
    ]
    record(tmp_path, "2026-11-01-engine-h100.json", rows, environment={"gpu": "NVIDIA H100"})
    assert best_epoch("uniq, SGD")(read(tmp_path)) == 0.7
    assert gpu_ratio(read(tmp_path)) == 0.7 / 0.5


def test_a_goal_that_is_passed_is_said_to_be_missed(tmp_path):
    from page import goals

    times = {"float": [1.0, 2.0, 4.0], "flatbit uniq": [1.3, 2.2, 4.4]}
    rows = [step("flatbit uniq", 1.1, 1.2), step("flatbit uniq, recomputed", 1.2, 1.5)]
    record(tmp_path, "2026-11-01-qat_step-cpu.json", rows, times)
    text = goals(read(tmp_path))
    assert "| CPU: ResNet-20, W2A2 step over float, eager | 1.12 x | 1.10 x |" in text  # the median of 1.3, 1.1, 1.1
    assert "| CPU: ResNet-20, bytes kept over float's, by --recompute | 1.25 x | 1.50 x (missed) |" in text


def test_readme_gets_its_sentences_between_its_marks(tmp_path):
    from page import BEGIN, END, readme

    rows = [step("flatbit uniq", 1.1, 1.2), step("flatbit saq", 1.3, 1.4), step("Brevitas", 1.9, 2.8)]
    record(tmp_path, "2026-11-01-qat_step-cpu.json", rows)
    record(tmp_path, "2026-11-02-qat_step-cpu-mobilenet_v2.json", [step("flatbit uniq", 7, 7)], model="mobilenet_v2")
    text = readme(f"before\n{BEGIN}old\n{END}after\n", read(tmp_path))
    assert text.startswith(f"before\n{BEGIN}A W2A2 training step of ResNet-20 (batch 128, 2 CPU threads)")
    assert text.endswith(f"{END}after\n")
    words = " ".join(text.split())
    assert "takes 1.10 to 1.30 times the float step and keeps 1.4 times its bytes" in words
    assert "Brevitas' takes 1.90 times and keeps 2.8 times" in words
    assert "old" not in words
    with pytest.raises(ValueError, match="put them where the numbers belong"):
        readme("no marks", read(tmp_path))


def test_rows_of_a_record_with_several_cases_tell_of_their_case(tmp_path):
    from goals import stacked_time
    from page import page

    case = {"data": "spirals", "bits": "W2A2", "batch": 500, "nets": 16}
    row = {"way": "stacked", "model_steps_per_s": 1234.5678, "gain": 2.5, "gain_quartiles": [2.0, 3.0]}
    record(tmp_path, "2026-11-01-stack-cpu.json", rounds=9)
    path = tmp_path / "2026-11-01-stack-cpu.json"
    content = json.loads(path.read_text())
    del content["rows"]
    path.write_text(json.dumps(content | {"cases": [{"case": case, "rows": [row]}]}))
    text = page(read(tmp_path))
    assert "| spirals, W2A2, batch 500 | 16 | stacked | 1,235 | 2.50 (2.00 to 3.00) |" in text
    assert "2026-11-01: X, 2 of 2 cores; torch 2.11.0, Python 3.12.1; batch 128, rounds 9" in text
    assert stacked_time(500)(read(tmp_path)) == 0.4
    assert stacked_time(64)(read(tmp_path)) is None


def test_of_stacked_nets_each_batch_size_is_a_goal_and_the_newest_record_counts(tmp_path):
    from page import goals

    def stack(name, **gains):
        facts = {"data": "spirals", "bits": "W2A2", "nets": 16, "way": "stacked"}
        record(tmp_path, name, [facts | {"batch": int(batch[1:]), "gain": gain} for batch, gain in gains.items()])

    stack("2026-11-01-stack-cpu.json", b64=8.0, b500=4.0)
    stack("2026-11-02-stack-cpu-quiet.json", b64=2.5, b500=1.25)
    stack("2026-11-03-stack-h100.json", b64=9.0, b500=9.0)
    text = goals(read(tmp_path))
    assert "| CPU: 16 spiral nets at W2A2 stacked, batch 64, time over one at a time | 0.500 x | 0.400 x |" in text
    assert "batch 500, time over one at a time | 0.500 x | 0.800 x (missed) |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("a", "a"),
        (True, "True"),
        (3, "3"),
        (0.5, "0.500"),
        (12345.6, "12,346"),
        (999.96, "1,000"),
        (150.0, "150"),
    ],
)
def test_numbers_have_three_digits_that_count(value, text):
    from tables import number

    assert number(value) == text


def test_peers_quantize_every_layer_and_learn():
    import torch
    from peers import FakeQuantized, layers, torch_ao_

    from flatbit import models

    model = models.build("resnet8", num_classes=3)
    names = [name for name, *_ in layers(model)]
    x = torch.randn(8, 3, 16, 16)
    torch_ao_(model, x)
    made = dict(model.named_modules())
    assert names
    assert all(isinstance(made[name], FakeQuantized) for name in names)
    model(x).square().sum().backward()
    for name in names:
        for quantizer in (made[name].weight_quantizer, made[name].input_quantizer):
            assert quantizer.scale.grad is not None
            assert quantizer.scale.grad.abs() > 0
        weight = made[name].weight_quantizer(made[name].layer.weight)
        assert len(weight.unique()) <= 4
