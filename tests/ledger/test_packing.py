"""What a session wrote, in few files of bounded size, in bounded time."""

import os
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatbit.ledger.packing import CHECKPOINTS, END_BYTES, LOGS, RECORDS, Item, pack, plan_packing, unpack


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3), st.floats(-9, 9)), max_size=40),
    st.integers(0, 5),
    st.integers(1, 4000),
)
def test_any_files_fit_the_limits_and_what_does_not_is_told(sizes, files, file_bytes):
    items = [Item(name=f"é{i}", size=s, kind=kind, age=age) for i, (s, kind, age) in enumerate(sizes)]
    packing = plan_packing(items, files=files, file_bytes=file_bytes)
    by_name = {item.name: item for item in items}
    packed = [name for names in packing.archives for name in names]
    assert sorted([*packed, *packing.left_out]) == sorted(by_name)
    assert len(packing.archives) <= files
    for names in packing.archives:
        assert names
        assert sum(by_name[name].cost for name in names) + END_BYTES <= file_bytes


@given(st.lists(st.integers(0, 900), max_size=20), st.lists(st.integers(0, 900), max_size=20), st.integers(1, 3))
def test_records_go_first(records, others, files):
    """No checkpoint takes the place of a record: the records are packed as if there were nothing else."""
    made = [Item(name=f"r{i}", size=size, kind=RECORDS) for i, size in enumerate(records)]
    rest = [Item(name=f"c{i}", size=size, kind=CHECKPOINTS) for i, size in enumerate(others)]
    alone, both = (plan_packing(items, files=files, file_bytes=1500) for items in (made, [*rest, *made]))
    assert {name for name in both.left_out if name[0] == "r"} == {*alone.left_out}


def test_of_one_kind_the_newest_go_first():
    items = [
        Item(name=name, size=900, kind=CHECKPOINTS, age=age)
        for name, age in (("old", 3.0), ("new", 1.0), ("between", 2.0))
    ]
    packing = plan_packing(items, files=1, file_bytes=2200)
    assert packing.archives == (("new", "between"),)
    assert packing.left_out == {"old": "900 bytes: no room in 1 files"}


def test_archives_are_as_large_as_planned_and_hold_what_was_written(work, out):
    (work / "a/b").mkdir(parents=True)
    contents = {f"a/b/{i}.safetensors": os.urandom(20_000 + i) for i in range(7)} | {"run.json": b"[1]" * 10_000}
    for name, content in contents.items():
        (work / name).write_bytes(content)
    (work / "a/.half.pt.7.partial").write_bytes(b"half")
    packing = pack(work, out, files=3, file_bytes=50_000, seconds=60)
    assert len(packing.left_out) == 3
    assert "run.json" in packing.archives[0]
    found = {}
    for path in out.iterdir():
        assert path.stat().st_size <= 50_000
        with zipfile.ZipFile(path) as archive:
            found |= {name: archive.read(name) for name in archive.namelist()}
    assert found == {name: content for name, content in contents.items() if name not in packing.left_out}


def test_headers_count_where_members_are_many_and_small(work, out):
    for i in range(60):
        (work / f"a-rather-long-name-of-a-small-file-é-{i}.json").write_text("{}")
    packing = pack(work, out, files=3, file_bytes=3000, seconds=60)
    assert packing.left_out
    assert [path.stat().st_size <= 3000 for path in out.iterdir()] == [True] * 3


def test_packing_again_leaves_no_archive_of_before(work, out):
    for i in range(3):
        (work / f"{i}.pt").write_bytes(os.urandom(900))
    assert len(pack(work, out, files=3, file_bytes=1200, seconds=60).archives) == 3
    for i in range(2):
        (work / f"{i}.pt").unlink()
    pack(work, out, files=3, file_bytes=1200, seconds=60)
    assert [path.name for path in out.iterdir()] == ["part-1.zip"]
    assert {path.name for path in work.parent.iterdir()} == {"work", "out"}


def test_text_is_deflated_and_the_rest_is_stored_as_it_is(work, out):
    for name in ("a.json", "a.log", "a.pt", "a.safetensors", "a.npz", "a.zip", "a.png"):
        (work / name).write_bytes(bytes(9000))
    pack(work, out, files=1, file_bytes=10**6, seconds=60)
    with zipfile.ZipFile(out / "part-1.zip") as archive:
        sizes = {found.filename: found.compress_size for found in archive.infolist()}
    assert {name for name, size in sizes.items() if size == 9000} == {
        "a.pt", "a.safetensors", "a.npz", "a.zip", "a.png",
    }  # fmt: skip


def test_a_file_that_is_too_long_is_not_even_read(work, out):
    with (work / "long.pt").open("wb") as file:
        file.truncate(2**40)  # a hole
    (work / "short.pt").write_bytes(b"1")
    packing = pack(work, out, files=2, file_bytes=10**6, seconds=60)
    assert packing.archives == (("short.pt",),)
    assert packing.left_out == {"long.pt": f"{2**40:,} bytes: more than a file may have"}


def test_after_its_time_no_file_is_begun(work, out, monkeypatch):
    """Each reading of the clock is a second later; the records came first, and what an archive has not is no file."""
    for name in ("a.json", "b.pt", "c.pt", "d.pt"):
        (work / name).write_bytes(bytes(700))
    seconds = iter(range(100))
    monkeypatch.setattr("flatbit.ledger.packing.time.monotonic", lambda: next(seconds))
    packing = pack(work, out, files=4, file_bytes=1000, seconds=2)
    assert [names[0] for names in packing.archives][:1] == ["a.json"]
    assert len(packing.archives) == 2
    assert {*packing.left_out.values()} == {"no time was left to pack it"}
    assert len(packing.left_out) == 2
    assert sorted(path.name for path in out.iterdir()) == ["part-1.zip", "part-2.zip"]


@settings(deadline=None)
@given(st.binary(max_size=200_000) | st.integers(0, 300_000).map(os.urandom))
def test_deflating_adds_no_more_than_an_item_counts(content):
    deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
    added = len(deflate.compress(content) + deflate.flush()) - len(content)
    assert added <= Item(name="", size=len(content), kind=LOGS).cost - Item(name="", size=len(content)).cost


def test_of_a_file_that_grows_what_was_found_is_packed_and_one_that_vanished_is_told(work, out, monkeypatch):
    """Between the finding and the packing."""
    (work / "a.log").write_bytes(b"old")
    (work / "b.log").write_bytes(b"old")

    def meanwhile(items, **limits):
        planned = plan_packing(items, **limits)
        (work / "a.log").write_bytes(b"old and new")
        (work / "b.log").unlink()
        return planned

    monkeypatch.setattr("flatbit.ledger.packing.plan_packing", meanwhile)
    packing = pack(work, out, files=1, file_bytes=1000, seconds=60)
    assert packing.left_out == {"b.log": "could not be read: No such file or directory"}
    with zipfile.ZipFile(out / "part-1.zip") as archive:
        assert archive.read("a.log") == b"old"


# Unpacking


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(["a.json", "b/c.pt", "b/d.json", "é/f.log", "g"]), st.binary(max_size=3000)))
def test_what_was_packed_is_put_back(tmp_path_factory, contents):
    here, out, there = (tmp_path_factory.mktemp(name) / name for name in ("here", "out", "there"))
    for folder in (here, out, there):
        folder.mkdir()
    for name, content in contents.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content)
    pack(here, out, files=3, file_bytes=20_000, seconds=60)
    assert sorted(unpack(out, there)) == sorted(contents)
    assert tree(there) == contents
    assert unpack(out, there) == []


def test_what_is_there_already_stays(work, out, tmp_path):
    (work / "a.json").write_text("old")
    (work / "b.json").write_text("b")
    pack(work, out, files=1, file_bytes=2000, seconds=60)
    (work / "a.json").write_text("newer")
    (work / "b.json").unlink()
    assert unpack(out, work) == ["b.json"]
    assert tree(work) == {"a.json": b"newer", "b.json": b"b"}


def test_nothing_leaves_the_folder(work, out):
    with zipfile.ZipFile(out / "part-1.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    unpack(out, work)
    assert not (work.parent / "outside.txt").exists()


def test_what_is_no_archive_is_named(work, out):
    (out / "part-1.zip").write_bytes(b"half an archive")
    with pytest.raises(
        ValueError, match=r"part-1\.zip is no archive of a queue \(.*\): take it away, or fetch it again"
    ):
        unpack(out, work)
    assert not tree(work)


def test_a_damaged_archive_is_named(work, out):
    (work / "a.pt").write_bytes(os.urandom(500))
    pack(work, out, files=1, file_bytes=2000, seconds=60)
    content = bytearray((out / "part-1.zip").read_bytes())
    content[100] ^= 1
    (out / "part-1.zip").write_bytes(content)
    (work / "a.pt").unlink()
    with pytest.raises(ValueError, match=r"part-1\.zip is no archive of a queue"):
        unpack(out, work)
    assert not (work / "a.pt").exists()


def test_a_folder_without_archives_holds_nothing(work, out):
    (out / "other.zip").write_bytes(b"somebody's")
    assert unpack(out, work) == []


def test_only_what_is_wanted_is_packed(work, out):
    (work / "a").mkdir()
    for name in ("a/x.json", "a/y.json", "z.json"):
        (work / name).write_text(name)
    packing = pack(
        work, out, files=1, file_bytes=5000, seconds=60, keep=lambda name: name.startswith("a/") and "y" not in name
    )
    assert packing.archives == (("a/x.json",),)
    assert packing.left_out == {}
    with zipfile.ZipFile(out / "part-1.zip") as archive:
        assert archive.namelist() == ["a/x.json"]
