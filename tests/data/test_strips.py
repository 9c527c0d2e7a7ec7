import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flatbit.data.strips import read_strips

from .cases import strip, write_shard

HEIGHT, WIDTH = 3, 5


def pixels(n, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, HEIGHT, WIDTH, channels), dtype=np.uint8)


def arrays(path):
    with np.load(path) as shard:
        return dict(shard)


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "set_0.npz", pixels(8), np.arange(8), each=3)


@pytest.fixture
def rewritten(shard):
    """Writes the shard anew, with some of its arrays in place of what it holds."""

    def rewrite(**changes):
        content = {name: values for name, values in (arrays(shard) | changes).items() if values is not None}
        np.savez(shard, **content)
        return shard

    return rewrite


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("each", [1, 3, 8, 100])
def test_images_and_labels_come_as_they_were_written(tmp_path, channels, save, each):
    made = pixels(8, channels)
    path = write_shard(tmp_path / "set_0.npz", made, np.arange(8)[::-1], each=each, save=save)
    images, labels = read_strips(path, (HEIGHT, WIDTH, channels))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(images, made)
    assert labels.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_strips_may_be_of_different_lengths_and_other_arrays_lie_beside(rewritten):
    strips = [strip(pixels(8)[:1]), strip(pixels(8)[1:])]
    path = rewritten(
        webp=np.frombuffer(b"".join(strips), np.uint8),
        offsets=np.cumsum([0, *map(len, strips)], dtype=np.uint32),
        note=np.zeros(3),
    )
    assert np.array_equal(read_strips(path, (HEIGHT, WIDTH, 3))[0], pixels(8))


@pytest.mark.parametrize("name", ["webp", "offsets", "labels"])
def test_a_missing_array_is_named(rewritten, name):
    with pytest.raises(
        ValueError, match=rf"set_0\.npz: {name} is not .*expected a shard with webp, offsets and labels"
    ):
        read_strips(rewritten(**{name: None}), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(7, dtype=np.uint8)}, "holds 8 images and 7 labels, expected one for each"),
        ({"labels": np.arange(8)}, r"labels is int64 \(8,\), expected uint8 \(n,\)"),
        ({"labels": np.zeros((8, 1), np.uint8)}, r"labels is uint8 \(8, 1\), expected uint8"),
        ({"webp": np.zeros(9, np.int8)}, r"webp is int8 \(9,\), expected uint8"),
        ({"offsets": np.array([0.0, 1.0])}, r"offsets is float64 \(2,\), expected two whole numbers or more"),
        ({"offsets": np.array([[0, 1]])}, r"offsets is int64 \(1, 2\), expected two whole numbers"),
        ({"offsets": np.array([0])}, r"offsets is int64 \(1,\), expected two whole numbers"),
        ({"webp": np.zeros(9, np.uint8)}, r"offsets go from 0 to \d+, expected growing ones from 0 to 9 .*cut off"),
        ({"labels": np.array([None] * 8)}, "cannot be read as a .npz of plain arrays .*allow_pickle=False"),
    ],
)
def test_arrays_of_another_kind_are_named(rewritten, changes, message):
    with pytest.raises(ValueError, match=rf"set_0\.npz:? {message}"):
        read_strips(rewritten(**changes), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize(
    "change", [lambda o: o[::-1], lambda o: o[[0, 2, 1, 3]], lambda o: o[[0, 1, 1, 3]], lambda o: o[1:]]
)
def test_offsets_grow_from_the_first_byte_to_the_last(shard, rewritten, change):
    assert len(arrays(shard)["offsets"]) == 4
    with pytest.raises(ValueError, match=r"set_0\.npz: offsets go from"):
        read_strips(rewritten(offsets=change(arrays(shard)["offsets"])), (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("kept", [0, 1, 100, -30, -1])
def test_a_shard_that_is_cut_off_is_named(shard, kept):
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"set_0\.npz cannot be read as a \.npz of plain arrays .*: it is cut off"):
        read_strips(shard, (HEIGHT, WIDTH, 3))


def outcome(path):
    """The images as a list, or the error."""
    try:
        images, labels = read_strips(path, (HEIGHT, WIDTH, 3))
    except ValueError as error:
        return str(error)
    return images.tolist(), labels.tolist()


@given(st.data())
def test_a_damaged_byte_is_an_error_by_path_or_no_change(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "set_0.npz"
    content = bytearray(write_shard(path, pixels(4), np.arange(4)).read_bytes())
    whole = outcome(path)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    found = outcome(path)
    assert found == whole or str(path) in found


@pytest.mark.parametrize("content", [b"no archive", None])
def test_another_file_is_named(tmp_path, content):
    path = tmp_path / "set_0.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set_0\.npz cannot be read as a \.npz"):
        read_strips(path, (HEIGHT, WIDTH, 3))


def one_strip(rewritten, content):
    return rewritten(webp=np.frombuffer(content, np.uint8), offsets=np.array([0, len(content)]))


def encoded(array, form="WEBP", **settings):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **settings)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_only_webp_is_decoded(rewritten, form):
    path = one_strip(rewritten, encoded(pixels(8).reshape(-1, WIDTH, 3), form))
    with pytest.raises(ValueError, match=r"set_0\.npz, strip 0 is no WebP image"):
        read_strips(path, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("kept", [10, -40])
def test_a_damaged_strip_is_named_by_number(shard, rewritten, kept):
    content = arrays(shard)
    first, second = content["offsets"][:2].tolist(), content["offsets"][1:3].tolist()
    cut = content["webp"][slice(*second)][:kept]
    offsets = [0, first[1], first[1] + len(cut)]
    path = rewritten(webp=np.concatenate([content["webp"][slice(*first)], cut]), offsets=np.array(offsets))
    with pytest.raises(ValueError, match=r"set_0\.npz, strip 1 is no WebP image .*: it is cut off or damaged"):
        read_strips(path, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize(
    ("shape", "channels", "found"),
    [((HEIGHT * 8, WIDTH + 1), 3, "6x24 pixels RGB"), ((HEIGHT * 8 - 1, WIDTH), 3, "5x23 pixels RGB"),
     ((HEIGHT * 8, WIDTH), 4, "5x24 pixels RGBA")],
)  # fmt: skip
def test_strips_of_another_size_or_mode_are_named(rewritten, shape, channels, found):
    array = np.random.default_rng(0).integers(0, 255, (*shape, channels), dtype=np.uint8)
    path = one_strip(rewritten, encoded(array, lossless=True))
    with pytest.raises(ValueError, match=rf"strip 0 has {found}, expected 5x3 RGB for each of its images"):
        read_strips(path, (HEIGHT, WIDTH, 3))


def test_colours_where_grey_images_belong_are_named(shard):
    with pytest.raises(ValueError, match=r"set_0\.npz, strip 0 has colours, expected grey images"):
        read_strips(shard, (HEIGHT, WIDTH, 1))


def test_a_strip_that_claims_to_be_huge_is_not_decoded(rewritten, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # the strip has 120: more than twice as many
    path = one_strip(rewritten, strip(pixels(8)))
    with pytest.raises(ValueError, match=r"strip 0 is no WebP image .*decompression bomb"):
        read_strips(path, (HEIGHT, WIDTH, 3))


def test_a_shard_with_pickled_arrays_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    path = tmp_path / "set_0.npz"
    np.savez(path, webp=np.array([Hostile()]), offsets=np.arange(2), labels=np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match=r"cannot be read as a \.npz of plain arrays"):
        read_strips(path, (HEIGHT, WIDTH, 3))
    assert not (tmp_path / "ran").exists()


def test_an_array_that_claims_to_be_huge_is_refused(shard):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**17,)})
    with zipfile.ZipFile(shard, "w") as archive:
        for name in ("webp", "offsets", "labels"):
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"set_0\.npz cannot be read as a \.npz of plain arrays .*allocate"):
        read_strips(shard, (HEIGHT, WIDTH, 3))
