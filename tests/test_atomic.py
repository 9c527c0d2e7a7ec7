import os
import stat
import tempfile
from pathlib import Path

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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_users_umask_whatever_wrote_it(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file.txt") as partial:
            Path(tempfile.mkstemp(dir=tmp_path)[1]).replace(partial)  # private, as safetensors makes them
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path) as partial:
        partial.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_one(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "file.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "store" / "file.txt")
    with replacing(tmp_path / "link.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "store" / "file.txt").read_text() == "new"
