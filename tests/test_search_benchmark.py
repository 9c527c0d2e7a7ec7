"""benchmarks/search.py: nets keep to the budget, runs are kept, docs/search.md is what the newest record gives.

On digits, which need no files.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def place(folder, **given):
    """Of runs that take a second."""
    from search_jobs import Place, Setting

    tiny = {
        "data": "digits", "data_arguments": {}, "model": "preresnet8", "batch_size": 400,
        "model_arguments": {"first_width": 2, "variant": "saq"}, "float_epochs": 1, "search_epochs": 2,
        "tune_epochs": 2,
    }  # fmt: skip
    return Place(out=folder, data_dir=None, setting=Setting(**tiny | given))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A place with a float net; a search there accepts whatever costs less than the budget."""
    import search_jobs

    made = search_jobs.Samq
    monkeypatch.setattr(search_jobs, "Samq", lambda **given: made(**given, window=0.6, accepted=3))
    here = place(tmp_path / "out")
    here.claim()
    search_jobs.train_float(here)
    return here


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("method", ["samq", "samq-plain", "ilp", "uniform"])
def test_every_method_keeps_to_the_cost_of_the_uniform_net_and_is_kept(trained, method, bits):
    from search_jobs import WIDTHS, find, searched

    found = find(trained, method, bits)
    net = searched(trained, WIDTHS[bits])
    uniform = net.prices.total(net.space.uniform(bits)).bitops
    assert found["budget_bitops"] == uniform
    assert found["bitops"] == net.prices.total(found["bits"]).bitops <= uniform
    assert {*found["bits"].values()} <= {*WIDTHS[bits]}
    assert (method != "uniform") or found["bitops"] == uniform
    trained.found(method, bits).write_text(json.dumps(found | {"kept": True}))
    assert find(trained, method, bits)["kept"]


def test_a_fine_tuned_net_has_the_bits_from_the_float_weights_and_is_kept(trained):
    from search_jobs import WIDTHS, alone, searched, tune

    import flatbit as fb

    names = [choice.name for choice in searched(trained, WIDTHS[3]).space.choices]
    bits = alone(names[1], names)
    assert bits == {name: 2 if name == names[1] else 4 for name in names}
    assert {*alone(None, names).values()} == {4}
    done = tune(trained, bits, 1, 3)
    found = fb.assignment(fb.load(done.folder / "model.safetensors"))
    assert {name: found[name] for name in names} == {name: (width, width) for name, width in bits.items()}
    assert (done.record.seed, done.folder) == (3, trained.tuned(bits, 1, 3))
    before = (done.folder / "run.json").stat().st_mtime_ns
    tune(trained, bits, 1, 3)
    assert (done.folder / "run.json").stat().st_mtime_ns == before


def test_a_folder_of_another_setting_is_refused(trained):
    other = replace(trained, setting=replace(trained.setting, tune_epochs=7))
    with pytest.raises(ValueError, match=r"holds runs with \{'tune_epochs': 2\}: take another --out"):
        other.claim()
    trained.claim()


def test_the_record_and_the_page_say_what_was_run(trained, tmp_path, monkeypatch):
    import search_page
    from search_jobs import WIDTHS, alone, find, measure, searched, tune
    from timing import save

    from records import Record

    monkeypatch.setattr(search_page, "RESAMPLES", 20)
    names = [choice.name for choice in searched(trained, WIDTHS[3]).space.choices]
    for method in ("uniform", "ilp"):
        for seed in range(2):
            tune(trained, find(trained, method, 3)["bits"], trained.setting.tune_epochs, seed)
    for name in (None, *names):
        tune(trained, alone(name, names), trained.setting.alone_epochs, 0)
    measure(trained, "noise")
    name, content = search_page.record_of(trained)
    assert name.endswith("-search-cpu.json")
    record = Record.read(save(content, tmp_path / name))
    ilp, uniform = (row for row in record.rows if row["part"] == "nets")
    assert (ilp["method"], ilp["after"]["n"], uniform["difference"]) == ("ilp", 2, None)
    measured = {row["measure"] for row in record.rows if row["part"] == "measures"}
    assert measured == {"loss", "noise"}
    text = search_page.page(record)
    assert f"| uniform | 3 3 3 3 3 3 | {uniform['bitops'] / 1e6:,.3f} |" in text
    assert f"{ilp['after']['mean']:.2f} ± {ilp['after']['std']:.2f}" in text
    assert "| quantization noise (SQNR) |" in text
    assert "uniform net of 2 bits" not in text
    assert "Seconds of `flatbit sensitivity` are not measured" in text


def test_a_measure_that_ranks_as_the_truth_does_is_told_from_one_that_does_not():
    from search_page import interval, spearman

    truth = [0.1 * place for place in range(12)]
    assert spearman([place**3 for place in range(12)], truth) == pytest.approx(1)
    low, high = interval([3, 1, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12], truth)
    assert 0.6 < low < high <= 1
    low, high = interval([5, 9, 1, 12, 3, 8, 2, 11, 6, 4, 10, 7], truth)
    assert low < 0 < high


def test_the_page_is_what_the_newest_record_gives():
    from search_page import PAGE, page

    from records import newest, of

    record = next(reversed(of(newest(), "search")), None)
    assert PAGE.read_text() == page(record)
    if record is not None:
        assert record.path.with_suffix(".png").is_file()
