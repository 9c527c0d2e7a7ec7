import gzip
import struct

import numpy as np
import pytest
import torch

from flatbit.data import load
from flatbit.data.sets.fashion_mnist import read_idx

from ..cases import write_shard


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def split(n, seed):
    draws = np.random.default_rng(seed)
    return draws.integers(0, 256, (n, 28, 28), dtype=np.uint8), draws.integers(0, 10, n, dtype=np.uint8)


def write(folder, *, zipped=True, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, n, seed in (("train", 6, 0), ("t10k", 3, 1)):
        images, labels = split(n, seed)
        made |= {f"{name}-images-idx3-ubyte": idx(images), f"{name}-labels-idx1-ubyte": idx(labels)}
    for name, content in (made | changes).items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "raw", ""])
def test_pixels_and_labels_come_as_they_were_written(tmp_path, zipped, place):
    write(tmp_path / place, zipped=zipped)
    data = load("fashion_mnist", tmp_path)
    for found, (images, labels) in ((data.train, split(6, 0)), (data.test, split(3, 1))):
        assert np.array_equal(found.images[:, 0].numpy(), images)
        assert found.labels.tolist() == labels.tolist()
        assert found.labels.dtype == torch.int64
    assert data.image_shape == (1, 28, 28)
    assert len(data.class_names) == data.num_classes == 10
    x, _ = next(iter(data.train_batches(4, seed=0)))
    assert x.shape == (4, 1, 28, 28)


def test_files_may_be_zipped_in_part(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert len(load("fashion_mnist", tmp_path).train.labels) == 6


def test_missing_files_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"has no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize("kept", [0, 30, -40])
def test_a_truncated_gzip_is_named(tmp_path, kept):
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        load("fashion_mnist", tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    write(tmp_path, zipped=False)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte holds 2349 bytes, its header says \(3, 28, 28\)"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08", b"\x00\x00\x08\x03\x00", b"\x89PNG and more of that", idx(np.zeros(3))]
)
def test_another_kind_of_file_is_named(tmp_path, content):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="images is no IDX file of bytes in 3 dimensions"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train-labels-idx1-ubyte": idx(np.array([0, 1, 2, 3, 4, 10]))}, r"labels up to 10, expected 0\.\.9"),
        ({"train-labels-idx1-ubyte": idx(np.zeros(5))}, "holds 6 images, .* 5 labels"),
        ({"train-images-idx3-ubyte": idx(np.zeros((6, 32, 32)))}, r"holds images \(32, 32\), expected \(28, 28\)"),
        (
            {"t10k-images-idx3-ubyte": idx(np.zeros((0, 28, 28))), "t10k-labels-idx1-ubyte": idx(np.zeros(0))},
            "holds 0 labels",
        ),
    ],
)
def test_wrong_content_is_named(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load("fashion_mnist", tmp_path)


def test_download_is_asked_for_only_when_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flatbit.data.sets.fashion_mnist.download_with_torchvision", lambda name, root, how: write(root / name / "raw")
    )
    with pytest.raises(ValueError, match="is not in"):
        load("fashion_mnist", tmp_path)
    assert len(load("fashion_mnist", tmp_path, download=True).train.labels) == 6


def write_shards(folder, **labels):
    for name, n, seed in (("train", 6, 0), ("test", 3, 1)):
        images, written = split(n, seed)
        write_shard(folder / f"fashion_mnist_{name}.npz", images[..., None], labels.get(name, written), each=4)


def test_shards_equal_the_idx_files(tmp_path):
    write(tmp_path / "idx")
    write_shards(tmp_path)
    usual, shards = load("fashion_mnist", tmp_path / "idx"), load("fashion_mnist", tmp_path)
    for a, b in ((usual.train, shards.train), (usual.test, shards.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert usual.class_names == shards.class_names


def test_shards_are_checked(tmp_path):
    write_shards(tmp_path, test=[0, 10, 1])
    with pytest.raises(ValueError, match=r"fashion_mnist_test\.npz holds 3 labels up to 10, expected 0\.\.9"):
        load("fashion_mnist", tmp_path)
    (tmp_path / "fashion_mnist_test.npz").unlink()
    with pytest.raises(ValueError, match=rf"{tmp_path} has no fashion_mnist_test\.npz\n"):
        load("fashion_mnist", tmp_path)
