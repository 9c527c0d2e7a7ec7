import json

import pytest

from flatbit.engine.record import read_run

STAGES = ["float", "faq-w8a8", "faq-w4a4", "uniq-w4a4", "uniq-w2a2", "uniq-w1a1"]


@pytest.fixture(scope="module")
def done(flatbit, tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart") / "out"
    return out, flatbit("quickstart", "--smoke", "--seeds", 2, "--out", out)


def test_one_table_of_every_stage_on_standard_output(done):
    _, result = done
    assert result.status == 0
    rows = [line.split("│")[1:-1] for line in result.out.splitlines() if line.startswith("│")]
    rows = [row for row in rows if row[0].strip()]  # a long convention takes two lines
    assert [row[0].strip() for row in rows] == STAGES
    assert all("±" in row[2] for row in rows)
    assert "over 2 seeds" in " ".join(result.out.split())


def test_progress_and_the_report_s_place_on_standard_error(done):
    out, result = done
    lines = [line for line in result.err.splitlines() if ": epoch " not in line]
    assert [line.split(":")[0] for line in lines] == ["seed 0", *STAGES, "seed 1", *STAGES, "report"]
    assert lines[-1] == f"report: {out / 'report.html'}"


def test_a_folder_per_seed_and_one_page(done):
    out, _ = done
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "seed0", "seed1"]
    assert [read_run(out / f"seed{seed}").record.seed for seed in (0, 1)] == [0, 1]


def test_json_is_the_same_result(flatbit, done, no_page):
    out, _ = done
    result = flatbit("quickstart", "--smoke", "--seeds", 2, "--out", out, "--resume", "--json")
    rows = json.loads(result.out)
    assert [row["stage"] for row in rows] == STAGES
    for row in rows:
        file = out / "seed0" / "export" / f"{row['stage']}.safetensors"
        assert row["file_bytes"] == file.stat().st_size >= row["size_bytes"]
        tops = [read_run(out / f"seed{seed}").record.stages[row["stage"]].test.top1 for seed in (0, 1)]
        assert row["score"] == pytest.approx(sum(tops) / 2)
        assert row["num_seeds"] == 2


def test_a_folder_with_runs_is_left_alone(refuses, done):
    out, _ = done
    assert "holds a run already: --resume goes on with it" in refuses("quickstart", "--smoke", "--out", out)


def test_its_folder_is_where_the_readme_looks(flatbit, own, no_page):
    result = flatbit("quickstart", "--smoke", "--seeds", 1)
    assert result.status == 0
    assert result.err.splitlines()[-1] == "report: runs/quickstart/report.html"
    assert "±" not in result.out


@pytest.mark.parametrize("seeds", [0, -2])
def test_no_seeds_is_the_callers_mistake(refuses, own, seeds):
    assert f"--seeds {seeds}: expected at least 1" in refuses("quickstart", "--seeds", seeds)
