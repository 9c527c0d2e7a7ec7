import sys
import types

import pytest

from flatbit.data.files import decoded, download, find_folder, one_of

LAYOUTS = {"usual": ["a", "b|b.gz"], "other": ["c"]}


def test_found_in_the_usual_folder_or_in_root_itself(tmp_path):
    (tmp_path / "usual").mkdir()
    for name in ("a", "b.gz"):
        (tmp_path / "usual" / name).touch()
    assert find_folder("set", tmp_path, LAYOUTS, "how") == ("usual", tmp_path / "usual")
    assert find_folder("set", tmp_path / "usual", LAYOUTS, "how") == ("usual", tmp_path / "usual")
    (tmp_path / "c").touch()
    (tmp_path / "usual" / "a").unlink()
    assert find_folder("set", tmp_path, LAYOUTS, "how") == ("other", tmp_path)


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c").touch()
    assert find_folder("set", "~", LAYOUTS, "how")[1] == tmp_path


def test_what_is_missing_is_said_with_where_and_how(tmp_path):
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "a").touch()
    with pytest.raises(ValueError, match="'set' is not in") as caught:
        find_folder("set", tmp_path, LAYOUTS, "ask for it")
    text = str(caught.value)
    assert f"{tmp_path / 'usual'} has no b or b.gz\n" in text
    assert f"{tmp_path} has no a, b or b.gz\n" in text
    assert f"{tmp_path / 'other'} is not there\n" in text
    assert text.endswith("To get it: ask for it")


def test_one_of_takes_the_first_there_is(tmp_path):
    (tmp_path / "b.gz").touch()
    assert one_of(tmp_path, "b|b.gz").name == "b.gz"
    (tmp_path / "b").touch()
    assert one_of(tmp_path, "b|b.gz").name == "b"


def test_download_without_torchvision_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValueError, match=r"needs torchvision .*: pip install torchvision, or get it by hand"):
        download("CIFAR10", tmp_path, "get it by hand")


@pytest.fixture
def torchvision(monkeypatch):
    sets = types.ModuleType("torchvision.datasets")
    package = types.ModuleType("torchvision")
    package.datasets = sets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", sets)
    return sets


def test_download_asks_torchvision(tmp_path, torchvision):
    asked = []
    torchvision.VOC = lambda *arguments, **named: asked.append((arguments, named))
    download("VOC", tmp_path, "how", year="2012")
    assert asked == [((str(tmp_path),), {"download": True, "year": "2012"})]


def test_a_download_that_fails_says_how_to_do_without(tmp_path, torchvision):
    def failing(root, download):
        raise RuntimeError("no network")

    torchvision.CIFAR10 = failing
    with pytest.raises(ValueError, match=r"could not download CIFAR10 .*no network.*: get it by hand"):
        download("CIFAR10", tmp_path, "get it by hand")


def test_text_that_is_not_utf_8_is_named_by_path(tmp_path):
    assert decoded("é".encode(), tmp_path) == "é"
    with pytest.raises(ValueError, match=r"names\.txt holds no UTF-8 text .*: it is damaged or another file"):
        decoded(b"\xff\xfe", tmp_path / "names.txt")
