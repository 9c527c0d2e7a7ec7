import pytest

from flatbit.engine import read_run
from flatbit.engine.record import write_record

from ...engine.cases import exported


@pytest.fixture(scope="module")
def runs(flatbit, tmp_path_factory):
    """Two seeds of two updates a stage, one of them exported since."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = flatbit(
        "run", "uniq-preresnet8-digits", "--smoke", "--seeds", "0,10", "--engine", "eager", "--out", folder
    )
    assert result.status == 0, result
    (folder / "report.html").unlink()
    write_record(folder / "seed10", read_run(folder / "seed10").record.with_export(exported(file="export/mine.onnx")))
    return folder


def test_the_page_of_several_seeds_is_written_anew(flatbit, runs):
    result = flatbit("report", runs)
    assert (result.status, result.out.strip()) == (0, str(runs / "report.html"))
    text = (runs / "report.html").read_text()
    assert "export/mine.onnx" in text
    assert "the run's, seed 10" in text.replace("&#39;", "'")


def test_the_page_of_one_run_goes_where_it_is_told(flatbit, runs, tmp_path):
    assert flatbit("report", runs / "seed0", "--out", tmp_path / "page.html").status == 0
    assert "Exported files" not in (tmp_path / "page.html").read_text()


def test_a_folder_without_a_run_is_named(refuses, tmp_path):
    assert f"no run in {tmp_path}: neither it nor a folder seedN in it has a run.json" in refuses("report", tmp_path)
