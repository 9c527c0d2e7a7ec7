from flatbit.engine.discarding import LEFT, discard

from .cases import FLOAT, ran, recipe


def test_what_a_run_left_goes_and_the_rest_stays(tmp_path):
    ran(recipe(FLOAT), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.html").write_text("report")
    (tmp_path / "tensorboard/float").mkdir(parents=True)
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_without_a_run_is_left_alone(tmp_path):
    for name in LEFT[:-1]:
        (tmp_path / name).mkdir()
    discard(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*LEFT[:-1]}
    discard(tmp_path / "gone")
