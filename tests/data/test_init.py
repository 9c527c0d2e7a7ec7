import re

import pytest
from PIL import Image

from flatbit.data import DATASETS, Data, load, user_data
from flatbit.data.sets.digits import load_digits
from flatbit.data.stream import default_workers


@pytest.fixture
def own_sets(tmp_path, monkeypatch, request):
    """A module of the user's in the working directory; its name is unique to the test."""
    name = "own_sets_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    tmp_path.joinpath(f"{name}.py").write_text(
        "from dataclasses import replace\n"
        "from flatbit.data.sets.digits import load_digits\n"
        "def files(*, root, size=3):\n"
        "    return replace(load_digits(), name=f'{root}/{size}')\n"
        "def reads(workers=1):\n"
        "    return replace(load_digits(), name=f'read by {workers}')\n"
        "def wrong():\n"
        "    return [1, 2]\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


def test_digits_are_the_embedded_set():
    assert "digits" in DATASETS.names()
    assert load("digits").test.labels.equal(load_digits().test.labels)


def test_a_root_for_a_set_without_files_is_refused(own_sets, tmp_path):
    for name in ("digits", f"{own_sets}:reads"):
        with pytest.raises(ValueError, match=rf"'{name}' has no files: root= \(--data-dir\) cannot act: leave it out"):
            load(name, tmp_path)
    assert load("digits", None).name == "digits"


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'digit': did you mean digits"):
        load("digit")


def test_unknown_argument_is_named():
    with pytest.raises(ValueError, match="data set 'digits' has no argument 'size'"):
        load("digits", size=3)


def test_a_function_of_the_users_gets_root_and_arguments(own_sets):
    data = load(f"{own_sets}:files", "some/where", size=7)
    assert isinstance(data, Data)
    assert data.name == "some/where/7"


def test_unknown_argument_of_the_users_function_suggests_the_nearest(own_sets):
    with pytest.raises(ValueError, match="has no argument 'sizes': did you mean size"):
        load(f"{own_sets}:files", "x", sizes=7)


def test_missing_argument_is_named(own_sets):
    words = "missing a required argument: 'root' (the folder that holds its files: root="
    with pytest.raises(ValueError, match=re.escape(words)):
        load(f"{own_sets}:files")


def test_workers_are_given_to_sets_that_are_read_and_to_functions_that_take_them(own_sets, tmp_path):
    folder = tmp_path / "images"
    for split in ("train", "val"):
        (folder / split / "one").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / split / "one" / "a.png")
    data = load("image_folder", folder, workers=3)
    assert data.workers == 3
    assert data.with_workers(0).workers == 0
    assert load("image_folder", folder).workers == default_workers()
    assert load(f"{own_sets}:reads", workers=5).name == "read by 5"


def test_workers_that_nobody_needs_are_refused():
    with pytest.raises(ValueError, match="workers=2: data set 'digits' is not read by worker processes"):
        load("digits", workers=2)


def test_what_is_no_data_is_refused(own_sets):
    with pytest.raises(ValueError, match=r"returned list: expected a flatbit\.data\.Data"):
        load(f"{own_sets}:wrong")


def test_every_set_is_registered_and_says_in_a_line_what_it_is():
    names = DATASETS.names()
    assert {"camvid", "cifar10", "cifar100", "digits", "fashion_mnist", "image_folder", "imagenet", "spirals"} <= set(
        names
    )
    assert "voc2012" in names
    for name in names:
        assert DATASETS.get(name).__doc__.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", [name for name in DATASETS.names() if name not in ("digits", "spirals")])
def test_sets_with_files_say_where_they_looked_and_how_to_get_them(tmp_path, name):
    with pytest.raises(ValueError, match=f"(?s)'{name}' is not in .*{tmp_path}.*To get it: "):
        load(name, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"data set '{name}': missing a required argument: 'root'"):
        load(name)


def test_the_users_own_come_through_the_door_too():
    assert user_data.__module__ == "flatbit.data.user"


@pytest.mark.parametrize("channels", [-1, 0, "3"])
def test_channels_that_make_no_sense_are_refused(channels):
    with pytest.raises(ValueError, match=r"channels=.*: expected a whole number, at least 1"):
        load("digits", channels=channels)
