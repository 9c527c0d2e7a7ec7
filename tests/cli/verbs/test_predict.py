import json

import numpy as np
import pytest
import torch
from PIL import Image

import flatbit as fb
from flatbit.data.sets.digits import load_digits
from flatbit.quant.convert import restore_


@pytest.fixture(scope="module")
def run(flatbit, tmp_path_factory):
    """A run of one stage in float and two quantized ones."""
    out = tmp_path_factory.mktemp("predict") / "run"
    words = ("--set", "pretraining.epochs=4", "--set", "training.epochs=1", "--model-arg", "first_width=4")
    result = flatbit("run", "uniq-preresnet8-digits", *words, "--out", out, "--no-timing")
    assert result.status == 0, result.err
    return out


@pytest.fixture
def digits(tmp_path):
    """The first test images as files of several kinds, and what is in them."""
    images, labels = load_digits().test.images[:6], load_digits().test.labels[:6]
    folder = tmp_path / "digits"
    (folder / "inner").mkdir(parents=True)
    names = ["0.png", "1.bmp", "2.tif", "3.gif", "inner/4.png", "inner/5.png"]
    for name, image in zip(names, images, strict=True):
        picture = Image.fromarray(image[0].numpy())
        (picture.convert("RGB") if name == "0.png" else picture).save(folder / name)
    return folder, [str(folder / name) for name in names], images, labels


def logits(net, images):
    data = load_digits()
    x = next(iter(data.test_batches(6)))[0]
    with torch.no_grad():
        return net.eval()(x)


def test_files_of_folders_are_answered_as_test_images(flatbit, run, digits):
    folder, names, images, _ = digits
    result = flatbit("predict", run, folder, "--json", "--top", 2)
    assert result.status == 0, result.err
    found = json.loads(result.out)
    assert [row["file"] for row in found["images"]] == names
    for which, net in (("top", run / "model.safetensors"), ("float", run / "stages/float.safetensors")):
        shares = logits(fb.load(net), images).softmax(1)
        for row, share in zip(found["images"], shares, strict=True):
            best = share.argsort(descending=True)[:2].tolist()
            assert [answer["class"] for answer in row[which]] == best
            assert [answer["name"] for answer in row[which]] == [str(number) for number in best]
            expected = share[best].tolist()
            assert [answer["probability"] for answer in row[which]] == pytest.approx(expected, abs=1e-5)
    assert found["float"] == "the run's stage float"
    assert found["unreadable"] == {}
    assert "answers are the same" in result.err


def test_a_file_of_a_model_stands_beside_its_latent_weights(flatbit, run, digits):
    folder, _, images, _ = digits
    result = flatbit("predict", run / "model.safetensors", folder / "0.png", "--data", "digits", "--json")
    assert result.status == 0, result.err
    (row,) = json.loads(result.out)["images"]
    latent = fb.load(run / "model.safetensors")
    restore_(latent)
    assert row["float"][0]["class"] == int(logits(latent, images)[0].argmax())
    assert "latent weights" in result.err


def test_a_float_net_is_alone(flatbit, run, digits):
    result = flatbit("predict", run, digits[0] / "0.png", "--stage", "float")
    assert result.status == 0
    assert "float net" not in result.out + result.err


def test_labels_name_the_classes(flatbit, refuses, run, digits, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"number {number}" for number in range(10)))
    assert "number " in flatbit("predict", run, digits[0] / "0.png", "--labels", labels).out
    labels.write_text("one\ntwo\n")
    assert "2 lines, expected one for each of 10 classes" in refuses("predict", run, digits[0], "--labels", labels)
    assert "no such file" in refuses("predict", run, digits[0], "--labels", tmp_path / "gone.txt")


def test_what_cannot_be_read_is_listed_and_the_rest_answered(flatbit, run, digits):
    folder = digits[0]
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no image by its name")
    result = flatbit("predict", run, folder)
    assert result.status == 1
    assert "0.png" in result.out
    assert "2 of 8 files could not be read:" in result.err
    assert all(f"{folder / name}: " in result.err for name in ("broken.png", "cut.png"))
    assert f"left out: 1 files that are no images by their names, such as {folder / 'notes.txt'}" in result.err
    result = flatbit("predict", run, folder / "notes.txt", "--json")
    assert (result.status, result.out) == (1, "")
    assert "1 of 1 files could not be read:" in result.err


def test_pictures_of_other_sizes_are_cropped_and_resized(flatbit, run, tmp_path):
    picture = np.zeros((40, 60), dtype=np.uint8)
    picture[:, 10:50] = np.kron(load_digits().test.images[0, 0].numpy(), np.ones((5, 5))).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    x = load_digits().from_file(tmp_path / "wide.png")
    assert x.shape == (1, 8, 8)
    assert (x - next(iter(load_digits().test_batches(1)))[0][0]).abs().max() < 0.7  # antialiasing
    assert flatbit("predict", run, tmp_path / "wide.png").status == 0


def test_mistakes_are_one_line(refuses, run, tmp_path):
    assert f"no such file or folder: {tmp_path / 'gone'}" in refuses("predict", run, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "no images in" in refuses("predict", run, tmp_path / "empty")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "a.png")
    spirals = refuses("predict", run, tmp_path / "a.png", "--data", "spirals")
    assert "the samples of spirals are not made from image files" in spirals
