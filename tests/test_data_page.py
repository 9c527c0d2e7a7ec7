"""docs/data.md does what it says: it has every set, its files are those that are asked for, its code writes shards."""

import re
from pathlib import Path

import numpy as np
import pytest

from flatbit.data import DATASETS, load

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/data.md").read_text()
ROWS = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)[1:]
[CODE] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_every_set_has_its_row():
    assert {name for sets, _, _ in ROWS for name in re.findall(r"`(\w+)`", sets)} == set(DATASETS.names())


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "camvid", "voc2012"])
def test_what_an_error_misses_is_on_the_page(tmp_path, name):
    with pytest.raises(ValueError, match="is not in") as caught:
        load(name, tmp_path)
    asked = re.findall(rf"^  {tmp_path}/(\S+) is not there", str(caught.value), re.MULTILINE)
    lacked = re.findall(rf"^  {tmp_path} has no (.*)$", str(caught.value), re.MULTILINE)
    files = [file for line in lacked for file in re.split(r", | or | and \d+ more", line) if file]
    assert asked
    assert files
    for word in asked + files:
        first = re.sub(r"(?<=data_batch_)\d", "1", re.sub(r"(?<=train_)\d", "0", word))  # the page says "_0 to _4"
        assert any(f"`{first.removesuffix(suffix)}`" in TEXT for suffix in ("", ".gz", ".bin")), word


def test_its_code_writes_shards_that_are_read(tmp_path):
    assert len(CODE.splitlines()) <= 20
    page = {}
    exec(compile(CODE, "docs/data.md", "exec"), page)
    draws = np.random.default_rng(0)
    colour, grey = draws.integers(0, 256, (6, 7, 32, 32, 3), np.uint8), draws.integers(0, 256, (2, 7, 28, 28), np.uint8)
    labels = np.arange(7)
    for images, part in zip(colour, ("train_0", "train_1", "train_2", "train_3", "train_4", "test"), strict=True):
        page["write_shard"](tmp_path / f"cifar10_{part}.npz", images, labels, each=3)
    for images, part in zip(grey, ("train", "test"), strict=True):
        page["write_shard"](tmp_path / f"fashion_mnist_{part}.npz", images, labels)
    for name, train, test in (("cifar10", colour[:5].reshape(-1, 32, 32, 3), colour[5]), ("fashion_mnist", *grey)):
        data = load(name, tmp_path)
        for split, made in ((data.train, train), (data.test, test)):
            assert np.array_equal(split.images.permute(0, 2, 3, 1).squeeze(-1).numpy(), made)
            assert split.labels.tolist() == labels.tolist() * (len(made) // 7)
