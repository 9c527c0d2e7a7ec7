import sys

import pytest

from flatbit.registry import Registry, import_object, nearest


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A plug-in folder of two files, and its registry."""
    folder = tmp_path / "plugin_folder"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text(
        "from flatbit.registry import Registry\nTHINGS = Registry('thing', __name__)\n"
    )
    folder.joinpath("one.py").write_text("from . import THINGS\nTHINGS.add('resnet20', 20)\n")
    folder.joinpath("two.py").write_text("from . import THINGS\nTHINGS.add('resnet32', 32)\nTHINGS.add('alpha', 1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import plugin_folder

    yield plugin_folder.THINGS
    for name in [name for name in sys.modules if name.startswith("plugin_folder")]:
        del sys.modules[name]


def test_files_of_the_folder_are_found_when_first_asked(plugins):
    assert "plugin_folder.one" not in sys.modules
    assert plugins.get("resnet32") == 32
    assert plugins.names() == ["alpha", "resnet20", "resnet32"]


def test_names_come_before_anything_was_got(plugins):
    assert plugins.names() == ["alpha", "resnet20", "resnet32"]


def test_unknown_name_suggests_the_nearest_first(plugins):
    with pytest.raises(ValueError, match=r"unknown thing 'resnet23': did you mean resnet32 or resnet20\?"):
        plugins.get("resnet23")


def test_a_name_near_nothing_lists_all(plugins):
    with pytest.raises(ValueError, match="known: alpha, resnet20, resnet32"):
        plugins.get("zzz")


def test_a_name_is_registered_once():
    registry = Registry("thing", "nowhere")
    assert registry.add("a", 1) == 1
    with pytest.raises(ValueError, match="thing 'a' is registered twice: rename"):
        registry.add("a", 2)


def test_nearest_offers_at_most_three():
    assert nearest("ab1", ["ab2", "ab3", "ab4", "ab5"]).count("ab") == 3
    assert nearest("q", iter("xyz")) == "known: x, y, z"


def test_import_object_finds_installed_modules():
    import math

    assert import_object("math:sqrt") is math.sqrt


def test_import_object_looks_in_the_working_directory_and_leaves_the_path_alone(tmp_path, monkeypatch):
    package = tmp_path / "import_object_package"
    package.mkdir()
    package.joinpath("nets.py").write_text("def small():\n    return 'small net'\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert import_object("import_object_package.nets:small")() == "small net"
    assert sys.path == before


@pytest.mark.parametrize("path", ["math", "math:", ":sqrt", ""])
def test_import_object_wants_module_and_name(path):
    with pytest.raises(ValueError, match=r"expected package\.module:name"):
        import_object(path)


def test_import_object_names_the_missing_module_and_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(ValueError, match="no module 'no_such_module_here'") as caught:
        import_object("no_such_module_here:net")
    assert str(tmp_path) in str(caught.value)
    assert sys.path == before


def test_import_object_suggests_the_nearest_attribute():
    with pytest.raises(ValueError, match="module 'math' has no 'sqr': did you mean sqrt"):
        import_object("math:sqr")
