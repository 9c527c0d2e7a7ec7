import pytest

from flatbit.atomic import replacing


def test_writes_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_leaves_everything_as_it_was(tmp_path, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ([] if old is None else [old])


def test_leaves_nothing_beside_the_file(tmp_path):
    with replacing(tmp_path / "file.txt") as partial:
        partial.write_bytes(b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_nothing_written_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"
