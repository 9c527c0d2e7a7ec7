import os
import pickle

import numpy as np
import pytest
import torch

from flatbit.data import class_names, load
from flatbit.data.sets.cifar import CIFAR10, CIFAR100

from ..cases import write_shard

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def content(n, classes, seed):
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (n, 3072), dtype=np.uint8), [int(y) for y in draws.integers(0, classes, n)]


def parts(kind, n=4):
    return {file: content(n, kind.classes, seed) for seed, file in enumerate((*kind.train, kind.test))}


def names(kind):
    return [f"class_{k}" for k in range(kind.classes)]


def write_pickles(root, kind):
    folder = root / kind.python
    folder.mkdir()
    for file, (rows, labels) in parts(kind).items():
        made = {b"data": rows, kind.labels_key: labels, b"filenames": [b"x.png"] * len(labels)}
        (folder / file).write_bytes(pickle.dumps(made, protocol=2))
    (folder / kind.names).write_bytes(pickle.dumps({kind.names_key: [n.encode() for n in names(kind)]}, protocol=2))
    return folder


def write_binary(root, kind):
    folder = root / kind.binary
    folder.mkdir()
    for file, (rows, labels) in parts(kind).items():
        fine = np.array(labels, dtype=np.uint8)[:, None]
        coarse = [fine // 5] if kind.binary_label_bytes == 2 else []
        (folder / f"{file}.bin").write_bytes(np.concatenate([*coarse, fine, rows], axis=1).tobytes())
    (folder / kind.binary_names).write_text("\n".join(names(kind)) + "\n")
    return folder


WRITERS = {"pickle": write_pickles, "binary": write_binary}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("name", KINDS)
def test_pixels_and_labels_come_as_they_were_written(tmp_path, name, layout):
    kind = KINDS[name]
    folder = WRITERS[layout](tmp_path, kind)
    made = parts(kind)
    for root in (tmp_path, folder):
        data = load(name, root)
        rows = np.concatenate([made[file][0] for file in kind.train])
        assert np.array_equal(data.train.images.numpy(), rows.reshape(-1, 3, 32, 32))
        assert data.train.labels.tolist() == [y for file in kind.train for y in made[file][1]]
        assert np.array_equal(data.test.images.numpy(), made[kind.test][0].reshape(-1, 3, 32, 32))
        assert data.test.labels.tolist() == made[kind.test][1]
        assert data.class_names == tuple(names(kind))
        assert data.image_shape == (3, 32, 32)
        assert (data.name, data.num_classes, data.mean) == (name, kind.classes, kind.mean)
        assert (data.augment.pad, data.augment.flip, data.augment.cutout) == (4, True, 0)


def test_pixels_are_kept_once_in_memory(tmp_path):
    write_pickles(tmp_path, CIFAR10)
    data = load("cifar10", tmp_path)
    assert data.train_batches(2, seed=0).images.data_ptr() == data.train.images.data_ptr()


def test_batches(tmp_path):
    write_pickles(tmp_path, CIFAR10)
    data = load("cifar10", tmp_path, cutout=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    x, y = next(iter(data.train_batches(8, seed=0)))
    assert (x.shape, x.dtype, y.dtype) == ((8, 3, 32, 32), torch.float32, torch.int64)
    assert (x == -2).all(1).any()  # black squares
    x, _ = next(iter(data.test_batches()))
    torch.testing.assert_close(x, (data.test.images / 255 - 0.5) / 0.25)


def rewrite(path, **changes):
    made = pickle.loads(path.read_bytes())
    made |= {key.encode(): value for key, value in changes.items()}
    path.write_bytes(pickle.dumps(made, protocol=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1, 2, 10]}, r"data_batch_2 holds the label 10, expected 0\.\.9: is it cifar10"),
        ({"labels": [0, -1, 2, 9]}, "data_batch_2 holds the label -1"),
        ({"labels": [0, 1, 2]}, r"data_batch_2 holds pixels \(4, 3072\) and 3 labels"),
        ({"labels": [0, 1, 2, 3.0]}, "data_batch_2: labels is no list of whole numbers"),
        ({"data": np.zeros((4, 784), np.uint8)}, r"data_batch_2 holds pixels \(4, 784\)"),
        ({"data": np.zeros((4, 3072), np.float32)}, "data_batch_2: data is float32, expected an array of uint8"),
        ({"data": b"pixels"}, "data_batch_2: data is bytes"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "data_batch_2 holds no images: is it cifar10"),
    ],
)
def test_wrong_content_is_named_by_path(tmp_path, changes, message):
    rewrite(write_pickles(tmp_path, CIFAR10) / "data_batch_2", **changes)
    with pytest.raises(ValueError, match=message):
        load("cifar10", tmp_path)


def test_cifar100_in_the_place_of_cifar10_is_noticed(tmp_path):
    folder = write_pickles(tmp_path, CIFAR10)
    folder.joinpath("test_batch").write_bytes(pickle.dumps({b"data": 1, b"fine_labels": [1]}))
    with pytest.raises(ValueError, match="test_batch holds no data and labels: is it cifar10"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("made", [[1, 2], {b"label_names": 3}, {b"label_names": [b"one"]}])
def test_wrong_names_are_named_by_path(tmp_path, made):
    (write_pickles(tmp_path, CIFAR10) / "batches.meta").write_bytes(pickle.dumps(made))
    with pytest.raises(ValueError, match=r"batches\.meta .* is it cifar10"):
        load("cifar10", tmp_path)


def test_a_truncated_pickle_is_named(tmp_path):
    path = write_pickles(tmp_path, CIFAR10) / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="data_batch_3 is no pickle, or is cut off"):
        load("cifar10", tmp_path)


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_pickle_does_not_run(tmp_path):
    target = tmp_path / "ran"
    rewrite(write_pickles(tmp_path, CIFAR10) / "test_batch", filenames=Hostile(f"touch {target}"))
    target.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"test_batch asks for posix\.system"):
        load("cifar10", tmp_path)
    assert not target.exists()


def test_a_truncated_binary_is_named(tmp_path):
    path = write_binary(tmp_path, CIFAR100) / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.bin has 12295 bytes, no multiple of 3074 .* cut off"):
        load("cifar100", tmp_path)


def test_a_binary_label_out_of_range_is_named(tmp_path):
    path = write_binary(tmp_path, CIFAR10) / "data_batch_1.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"data_batch_1\.bin holds the label 10"):
        load("cifar10", tmp_path)


def test_missing_files_say_what_where_and_how(tmp_path):
    (write_pickles(tmp_path, CIFAR10) / "data_batch_4").unlink()
    with pytest.raises(ValueError, match="'cifar10' is not in") as caught:
        load("cifar10", tmp_path)
    text = str(caught.value)
    assert f"{tmp_path / 'cifar-10-batches-py'} has no data_batch_4\n" in text
    assert f"{tmp_path / 'cifar-10-batches-bin'} is not there" in text
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in text
    with pytest.raises(ValueError, match=r"kriz/cifar-100-python\.tar\.gz"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize(("name", "asked"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_download_is_asked_for_only_when_told(tmp_path, monkeypatch, name, asked):
    calls = []

    def fake(set_name, root, how):
        calls.append(set_name)
        write_pickles(root, KINDS[name])

    monkeypatch.setattr("flatbit.data.sets.cifar.download_with_torchvision", fake)
    with pytest.raises(ValueError, match="is not in"):
        load(name, tmp_path)
    assert not calls
    assert len(load(name, tmp_path, download=True).test.labels) == 4
    assert calls == [asked]


@pytest.mark.parametrize("name", KINDS)
def test_class_names_that_are_not_utf_8_are_named_by_path(tmp_path, name):
    kind = KINDS[name]
    path = write_binary(tmp_path, kind) / kind.binary_names
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(ValueError, match=rf"{path} holds no UTF-8 text"):
        load(name, tmp_path)
    path = write_pickles(tmp_path, kind) / kind.names
    path.write_bytes(pickle.dumps({kind.names_key: [b"\xff"] * kind.classes}))
    with pytest.raises(ValueError, match=rf"{path} holds no UTF-8 text"):
        load(name, tmp_path)


@pytest.mark.parametrize("arguments", [{"mean": 0.5}, {"std": "abc"}, {"cutout": -3}])
def test_arguments_that_make_no_sense_are_refused(tmp_path, arguments):
    write_binary(tmp_path, CIFAR10)
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*: expected"):
        load("cifar10", tmp_path, **arguments)


OFFICIAL = {"cifar10": class_names.CIFAR10, "cifar100": class_names.CIFAR100}


def write_shards(root, kind, **labels):
    """Five shards of training images, of 4, 5, ... 8 images, and one of test images; what is in them."""
    made = {}
    for seed, part in enumerate((*(f"train_{k}" for k in range(5)), "test")):
        rows, fine = content(4 + seed, kind.classes, seed)
        images, fine = rows.reshape(-1, 32, 32, 3), labels.get(part, fine)
        write_shard(root / f"{kind.name}_{part}.npz", images, fine, each=3)
        made[part] = images.transpose(0, 3, 1, 2), fine
    return made


@pytest.mark.parametrize("name", KINDS)
def test_shards_give_their_images_in_order_and_the_official_names(tmp_path, name):
    *train, test = write_shards(tmp_path, KINDS[name]).values()
    data = load(name, tmp_path)
    assert np.array_equal(data.train.images.numpy(), np.concatenate([images for images, _ in train]))
    assert data.train.labels.tolist() == [label for _, fine in train for label in fine]
    assert np.array_equal(data.test.images.numpy(), test[0])
    assert data.test.labels.tolist() == test[1]
    assert data.class_names == OFFICIAL[name]
    assert data.train_batches(2, seed=0).images.data_ptr() == data.train.images.data_ptr()


def test_shards_of_two_sets_may_lie_in_one_folder(tmp_path):
    for kind in KINDS.values():
        write_shards(tmp_path, kind)
    assert [load(name, tmp_path).num_classes for name in KINDS] == [10, 100]


def test_official_files_are_read_before_shards(tmp_path):
    write_pickles(tmp_path, CIFAR10)
    write_shards(tmp_path, CIFAR10)
    assert load("cifar10", tmp_path).class_names == tuple(names(CIFAR10))


def test_shards_that_are_missing_are_named(tmp_path):
    write_shards(tmp_path, CIFAR10)
    for part in ("train_2", "train_4"):
        (tmp_path / f"cifar10_{part}.npz").unlink()
    with pytest.raises(ValueError, match=rf"\n  {tmp_path} has no cifar10_train_2\.npz, cifar10_train_4\.npz\n"):
        load("cifar10", tmp_path)


def test_a_label_of_a_shard_out_of_range_is_named(tmp_path):
    write_shards(tmp_path, CIFAR10, train_3=[0, 1, 2, 3, 4, 5, 10])
    with pytest.raises(ValueError, match=r"cifar10_train_3\.npz holds the label 10, expected 0\.\.9: is it cifar10"):
        load("cifar10", tmp_path)


def test_a_shard_that_is_cut_off_is_named(tmp_path):
    write_shards(tmp_path, CIFAR100)
    path = tmp_path / "cifar100_test.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cifar100_test\.npz cannot be read"):
        load("cifar100", tmp_path)
