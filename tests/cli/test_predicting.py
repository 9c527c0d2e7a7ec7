import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.cli.predicting import answers, float_net, image_files, name_of, read_names
from flatbit.data.sets.digits import load_digits

POLICY = fb.policy("uniq", weights=2, activations=2)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_files_of_folders_are_images_by_their_name_and_named_ones_are_any(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", ".DS_Store", "notes.txt"):
        (tmp_path / name).touch()
    files, others = image_files([tmp_path, tmp_path / "notes.txt"])
    assert [path.name for path in files] == [".hidden.png", "a.jpg", "b.PNG", "notes.txt"]
    assert [path.name for path in others] == ["notes.txt"]


def test_more_files_than_a_batch_are_answered_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("flatbit.cli.predicting.BATCH", 2)
    from PIL import Image

    images, files = load_digits().test.images[:5], []
    for number, image in enumerate(images):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    found, unreadable = answers([net()], load_digits(), files, 3)
    assert [*found] == files
    assert unreadable == {}
    (x, _) = next(iter(load_digits().test_batches(5)))
    expected = net()(x).argsort(dim=1, descending=True)[:, :3].tolist()
    assert [list(row[0].classes) for row in found.values()] == expected


def test_latent_weights_stand_in_for_a_float_net():
    model = net()
    before = model[1].weight.clone()
    fb.quantize_(model, POLICY)
    fb.calibrate_(model, load_digits().train_batches(32, seed=0), 1)
    latent, what = float_net("net.safetensors", None, model, trust=False)
    assert "latent weights" in what
    assert type(latent[1]) is nn.Linear
    assert torch.equal(latent[1].weight, before)
    assert float_net("net.safetensors", None, net(), trust=False) == (None, "")


def test_names_are_the_data_sets_or_those_of_a_file(tmp_path):
    assert read_names(None, load_digits())[3] == "3"
    (tmp_path / "names").write_text("\n".join("abcdefghij") + "\n")
    assert read_names(tmp_path / "names", load_digits())[3] == "d"
    assert name_of(11, "ab") == "class 11"
    with pytest.raises(ValueError, match="no such file"):
        read_names(tmp_path / "gone", load_digits())
