import numpy as np
import pytest
import torch
from PIL import Image

from flatbit.data import load

COLOURS = {"cat": (250, 10, 10), "dog": (10, 250, 10), "eel": (10, 10, 250)}


def write(root, per_class=4, size=(60, 50)):
    """Images of one colour per class, so that a pixel says its class; the brightness says which."""
    for split, count in (("train", per_class), ("val", 2)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                shade = tuple(value * (10 - i) // 10 for value in colour)
                Image.new("RGB", size, shade).save(root / split / name / f"{i:02d}.JPEG", quality=95)
    return root


def loaded(root, **settings):
    return load("image_folder", root, **{"size": 16, "resize": 20, "workers": 0} | settings)


def colour_classes(data, x):
    pixels = x.mean((2, 3)) * torch.tensor(data.std) + torch.tensor(data.mean)
    return pixels.argmax(1)


def test_classes_are_the_folders_and_images_keep_theirs(tmp_path):
    data = loaded(write(tmp_path))
    assert data.class_names == ("cat", "dog", "eel")
    assert (data.num_classes, data.image_shape, data.task) == (3, (3, 16, 16), "classification")
    for batches in (data.train_batches(5, seed=0), data.test_batches(4)):
        for x, y in batches:
            assert x.shape[1:] == (3, 16, 16)
            assert x.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(colour_classes(data, x), y)
    assert data.train_batches(5, seed=0).num_samples == 12
    assert [len(y) for _, y in data.test_batches(4)] == [4, 2]


def test_normalization_is_of_pixels_between_0_and_1(tmp_path):
    data = loaded(write(tmp_path), mean=(0.0,) * 3, std=(1 / 255,) * 3)
    x, _ = next(iter(data.test_batches(6)))
    assert (x[0].mean((1, 2)) - torch.tensor(COLOURS["cat"])).abs().max() < 4


def striped(root, size=(80, 64)):
    """One picture with a gradient, for what the crops do."""
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * 3, y * 3, x + y], -1).astype(np.uint8)
    for split in ("train", "val"):
        (root / split / "one").mkdir(parents=True)
        Image.fromarray(pixels).save(root / split / "one" / "a.png")
    return pixels


def test_testing_takes_the_square_in_the_middle_of_the_resized_image(tmp_path):
    pixels = striped(tmp_path)
    found = loaded(tmp_path, size=28, resize=32).pictures([0])[0]
    resized = Image.fromarray(pixels).resize((40, 32), Image.Resampling.BILINEAR).crop((6, 2, 34, 30))
    assert np.abs(found.transpose(1, 2, 0).astype(int) - np.asarray(resized)).max() <= 3


def test_training_crops_and_mirrors_at_random(tmp_path):
    striped(tmp_path)
    data = loaded(tmp_path, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    seen = [next(data.train_batches(1, seed=0).epoch(epoch))[0][0] for epoch in range(60)]
    mirrored = sum(bool(x[0, 8, 0] > x[0, 8, -1]) for x in seen)
    assert 15 < mirrored < 45
    widths = {round(float((x[0, 8, 0] - x[0, 8, -1]).abs())) for x in seen}
    assert len(widths) > 15
    plain = next(data.train_batches(1, seed=0, augment=False).epoch(3))[0]
    assert torch.equal(plain, next(iter(data.test_batches()))[0])


def test_batches_are_a_function_of_seed_epoch_and_step(tmp_path):
    write(tmp_path)
    striped(tmp_path / "deeper")

    def batches(epoch, start=0, seed=5):
        return list(loaded(tmp_path).train_batches(3, seed=seed).epoch(epoch, start))

    whole = batches(2)
    for (x, y), (x_, y_) in zip(whole[1:], batches(2, 1), strict=True):
        assert torch.equal(x, x_)
        assert torch.equal(y, y_)
    assert not torch.equal(whole[0][0], batches(3)[0][0])
    assert not torch.equal(whole[0][0], batches(2, seed=6)[0][0])


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "I;16", "P", "1"])
def test_images_of_any_mode_come_as_rgb(tmp_path, mode):
    write(tmp_path)
    path = tmp_path / "val" / "cat" / ("00.tif" if mode == "CMYK" else "00.png")
    if mode == "I;16":
        Image.fromarray(np.full((30, 40), 65535, np.uint16)).save(path)
    else:
        Image.new("RGB", (40, 30), "white").convert(mode).save(path)
    (tmp_path / "val" / "cat" / "00.JPEG").unlink()
    found = loaded(tmp_path).pictures([0])
    assert found.shape == (1, 3, 16, 16)
    assert (found > 250).all()


def spoil(root):
    """One file of each kind of damage among the good ones."""
    whole = (root / "train" / "cat" / "00.JPEG").read_bytes()
    bad = {
        root / "train" / "cat" / "01.JPEG": whole[: len(whole) // 2],
        root / "train" / "dog" / "01.JPEG": b"",
        root / "train" / "eel" / "02.JPEG": b"this is no image",
    }
    for path, content in bad.items():
        path.write_bytes(content)
    return [str(path) for path in bad]


def test_an_unreadable_file_is_named(tmp_path):
    paths = spoil(write(tmp_path))
    with pytest.raises(ValueError, match=r"(cannot identify|truncated)[\s\S]*skip_bad=True") as caught:
        list(loaded(tmp_path).train_batches(4, seed=0))
    assert any(path in str(caught.value) for path in paths)


def test_unreadable_files_are_left_out_counted_and_listed_where_asked(tmp_path):
    paths = spoil(write(tmp_path))
    data = loaded(tmp_path, skip_bad=True)
    batches = data.train_batches(6, seed=0)
    with pytest.warns(UserWarning, match="'image_folder': left out 3 samples that cannot be read: .*JPEG"):
        seen = sum(len(y) for _, y in batches)
    assert seen == 12 - 3
    assert sorted(data.left_out) == sorted(paths)
    assert "runcated" in data.left_out[paths[0]]
    assert sum(len(y) for _, y in batches) == 9  # and is not said again


def test_a_file_that_is_no_image_is_named_or_listed(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "cat" / ".DS_Store").touch()
    path = tmp_path / "train" / "dog" / "notes.txt"
    path.touch()
    with pytest.raises(ValueError, match=r"notes\.txt is no image"):
        loaded(tmp_path)
    data = loaded(tmp_path, skip_bad=True)
    assert data.left_out == {str(path): "no image, by its name"}
    assert data.train_batches(1, seed=0).num_samples == 12


def test_pictures_are_counted_without_what_was_left_out(tmp_path):
    write(tmp_path)
    (tmp_path / "val" / "cat" / "00.JPEG").write_bytes(b"")
    data = loaded(tmp_path, skip_bad=True)
    with pytest.warns(UserWarning, match="left out 1"):
        x, _ = next(data.test_batches(6).epoch(0))
    assert np.array_equal(data.pictures([1])[0].argmax(0), np.full((16, 16), 1))  # the first dog
    assert colour_classes(data, x)[1] == 1


def test_an_empty_class_is_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "fox").mkdir()
    (tmp_path / "val" / "fox").mkdir()
    with pytest.raises(ValueError, match="fox has no images"):
        loaded(tmp_path)


def test_splits_with_other_classes_are_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "fox").mkdir()
    with pytest.raises(ValueError, match="have other classes: fox is in one of them only"):
        loaded(tmp_path)


def test_missing_folders_say_where_and_how(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*train\.\nTo get it: .*ImageNet"):
        load("image_folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train has no folders, one per class"):
        load("image_folder", tmp_path)


def test_imagenet_is_told_by_its_thousand_classes(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="has 3 classes, ImageNet 1000: for another set say image_folder"):
        load("imagenet", tmp_path)


def test_sizes_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="size=32, resize=16"):
        load("image_folder", write(tmp_path), size=32, resize=16)


@pytest.mark.parametrize(
    "arguments", [{"size": "big"}, {"resize": 20.5}, {"size": 0}, {"mean": 0.5}, {"mean": "abc"}, {"workers": -1}]
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*: expected"):
        loaded(write(tmp_path), **arguments)


def test_a_batch_of_bad_files_only_is_left_out(tmp_path):
    write(tmp_path)
    (tmp_path / "val" / "eel" / "01.JPEG").write_bytes(b"cut off")
    data = loaded(tmp_path, skip_bad=True)
    with pytest.warns(UserWarning, match="left out 1"):
        assert [len(y) for _, y in data.test_batches(5)] == [5]


def test_other_files_are_prepared_as_test_images(tmp_path):
    data = loaded(write(tmp_path))
    (first, *_), _ = next(iter(data.test_batches(1)))
    file = tmp_path / "val/cat/00.JPEG"
    assert torch.equal(data.from_file(file), first)
    assert torch.equal(data.swapped().with_train(torch.tensor([1])).swapped().from_file(file), first)
    Image.open(file).convert("CMYK").save(tmp_path / "other.tif")
    assert data.from_file(tmp_path / "other.tif").shape == (3, 16, 16)
    with pytest.raises(OSError, match="gone"):
        data.from_file(tmp_path / "gone.png")
