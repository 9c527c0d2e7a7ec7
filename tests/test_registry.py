import sys

import pytest

from flatbit.registry import Registry, import_object, importing, is_registered, nearest, registered_by


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


def test_a_scan_that_failed_fails_again_with_its_cause_until_the_file_is_mended(plugins, tmp_path):
    broken = tmp_path / "plugin_folder" / "three.py"
    broken.write_text("from . import THINGS\nTHINGS.add('three', 3)\nraise OSError('no disk')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            plugins.get("three")
        with pytest.raises(OSError, match="no disk"):
            plugins.names()
    broken.write_text("from . import THINGS\nTHINGS.add('three', 33)\n")
    assert plugins.get("three") == 33
    assert plugins.names() == ["alpha", "resnet20", "resnet32", "three"]
    with pytest.raises(ValueError, match="registered twice"):
        plugins.add("three", 4)


def test_a_file_that_another_imported_before_that_one_failed_keeps_its_names(plugins, tmp_path):
    first = tmp_path / "plugin_folder" / "a.py"
    first.write_text("from . import two\nraise OSError('no disk')\n")
    with pytest.raises(OSError, match="no disk"):
        plugins.names()
    first.write_text("from . import THINGS, two\n")
    assert plugins.names() == ["alpha", "resnet20", "resnet32"]


def test_one_module_can_hold_them_all(tmp_path, monkeypatch):
    tmp_path.joinpath("plugin_module.py").write_text(
        "from flatbit.registry import Registry\nTHINGS = Registry('thing', __name__)\nTHINGS.add('one', 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry("thing", "plugin_module").names() == []
    assert sys.modules.pop("plugin_module").THINGS.names() == ["one"]


def test_the_name_of_a_thing_is_that_of_this_very_object():
    registry = Registry("thing", "nowhere")
    thing = registry.add("a", [1])
    registry.add("b", thing)
    assert registry.name_of(thing) == "a"
    assert registry.name_of([1]) is None


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


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("fc.weight", "fc"),
        ("FC", "fc"),
        ("module.layers.2.0.conv1", "layers.2.0.conv1"),
        ("layers.2.0.conv1.weight_quantizer", "layers.2.0.conv1"),
        ("2.0.conv1", "layers.2.0.conv1"),
        ("layers.2.0.con1", "layers.2.0.conv1"),
    ],
)
def test_the_nearest_of_dotted_names_is_the_one_within(name, first):
    known = ["conv1", "fc", *(f"layers.{stage}.0.conv1" for stage in range(3))]
    assert nearest(name, known).startswith(f"did you mean {first}")


def test_what_is_defined_anew_in_the_same_place_replaces_itself():
    registry = Registry("thing", "flatbit.nonempty")

    def define(number):
        class Thing:
            pass

        Thing.__qualname__, Thing.number = "Thing", number  # as at the top of a notebook's cell
        return Thing

    registry.add("one", define(1))
    registry.add("one", define(2))
    assert registry.get("one").number == 2
    other = define(3)
    other.__module__ = "elsewhere"
    for taken in (other, 3, lambda: 3):
        with pytest.raises(ValueError, match="thing 'one' is registered twice"):
            registry.add("one", taken)


def test_an_unknown_name_may_be_one_of_the_users():
    with pytest.raises(ValueError, match=r"unknown thing 'x': .*--plugin FILE on the command line"):
        Registry("thing", "flatbit.nonempty").get("x")


def test_it_knows_what_a_source_registered_and_what_the_package_s_own_files_did(plugins):
    with importing("mine"):
        plugins.add("of_mine", 1)
        assert plugins.names() == ["alpha", "of_mine", "resnet20", "resnet32"]  # a scan within is not of mine
    plugins.add("later", 2)
    assert registered_by("mine") == {"thing": {"of_mine"}}
    assert is_registered("thing", "later")
    assert not is_registered("thing", "gone")
    assert not is_registered("nothing", "later")
