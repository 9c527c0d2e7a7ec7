"""The network that a reference means: as built, given, left by a stage, or in a file."""

from dataclasses import replace

import pytest
import torch

import flatbit as fb
from flatbit.engine.fit import build_model
from flatbit.engine.recipe import Stage
from flatbit.engine.sources import Checkpoint, Sources, model_file
from flatbit.quant.table import has_quantized_layers, quantized_layers
from flatbit.reference import From
from flatbit.train.averaging import averaged

from .cases import AVERAGE, CYCLES, FLOAT, MEAN, POLICY, SHARP, net, ran, recipe, shades, small, still

W4 = fb.policy("uniq", weights=4, activations=4)
AFTER = (AVERAGE, still(FLOAT, name="after", start=From.stage("average")))
STEPS = replace(
    SHARP,
    name="w2a2",
    captures=(),
    keep_captures=False,
    epochs=1,
    evaluate_every=1,
    freeze_batchnorm=None,
    sharpness=None,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with a float stage, one with captures, its average, and a learned quantized one."""
    torch.set_num_threads(1)
    return ran(recipe(FLOAT, CYCLES, *AFTER, STEPS), tmp_path_factory.mktemp("sources") / "run")


@pytest.fixture
def sources(made):
    return Sources(recipe=made.record.recipe, data=shades(), out=made.folder)


def quantized_net():
    """A builder that quantizes."""
    model = net()
    fb.quantize_(model, W4)
    return model


def begins(sources, stage):
    """What a stage that the recipe may not have starts from, and whether that is quantized."""
    model = sources.begin(stage)
    return model, has_quantized_layers(model)


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def file_of(made, name):
    return made.folder / "stages" / f"{name}.safetensors"


# Networks


def test_start_is_the_net_as_it_is_built(sources):
    torch.manual_seed(8)
    found = sources.network(From.start())
    torch.manual_seed(8)
    assert same(found, net())


def test_start_is_the_given_checkpoint(sources, made):
    given = replace(sources, checkpoint=Checkpoint(path=file_of(made, "float")))
    assert same(given.network(From.start()), fb.load(file_of(made, "float")))
    quantized = replace(sources, checkpoint=Checkpoint(path=file_of(made, "w2a2")))
    assert not has_quantized_layers(quantized.network(From.start()))


@pytest.mark.parametrize("name", ["float", "retrain", "average", "w2a2"])
def test_a_stage_is_what_it_left(sources, made, name):
    assert same(sources.network(From.stage(name)), fb.load(file_of(made, name)))


def test_an_average_is_that_of_the_captures(sources, made):
    found = sources.network(MEAN)
    assert averaged(found)
    assert same(found, fb.load(file_of(made, "retrain.average")))


def test_a_file_is_a_model_or_the_folder_of_a_run(sources, made):
    for path in (made.folder, made.folder / "model.safetensors"):
        assert same(sources.network(From.file(str(path))), fb.load(made.folder / "model.safetensors"))


def test_a_builder_of_ones_own_may_quantize_and_the_run_sees_its_float_net(sources, made):
    """As one that loads a quantized file: a stage's policy alone says what is quantized."""
    own = replace(sources, recipe=recipe(FLOAT, model=f"{__name__}:quantized_net"))
    for found in (own.network(From.start()), own.begin(still(FLOAT))):
        assert not has_quantized_layers(found)
    assert same(own.network(From.stage("w2a2")), fb.load(file_of(made, "w2a2")))


# What stages begin with


def test_a_float_stage_begins_with_float_weights(sources, made):
    for name in ("float", "retrain", "w2a2"):
        model, quantized = begins(sources, still(FLOAT, name="next", start=From.stage(name)))
        assert not quantized
        held = fb.load(file_of(made, name)).state_dict()
        assert all(torch.equal(tensor, held[key]) for key, tensor in model.state_dict().items())


def test_the_average_keeps_its_grid_whatever_comes_next(sources):
    for start in (MEAN, From.stage("average"), From.stage("after")):
        for policy in (None, CYCLES.policy):
            model, _ = begins(sources, Stage(name="next", epochs=0, policy=policy, start=start))
            assert averaged(model)


def test_the_same_policy_goes_on_and_another_begins_anew(sources):
    for policy, goes_on in ((POLICY, True), (W4, False)):
        model, quantized = begins(sources, Stage(name="next", epochs=0, policy=policy, start=From.stage("w2a2")))
        assert quantized is goes_on
        assert (model[4].weight.std() > 0).item()


def test_a_file_gives_its_float_weights_to_the_recipes_own_model(sources, made):
    for name in ("float", "w2a2", "retrain.average"):
        model, quantized = begins(sources, still(FLOAT, start=From.file(str(file_of(made, name)))))
        assert not quantized
        assert torch.equal(model[0].weight, fb.load(file_of(made, name))[0].weight)


def test_a_third_partys_file_may_be_the_start(sources, tmp_path):
    torch.save(net().state_dict(), tmp_path / "w.pth")
    model, _ = begins(sources, still(FLOAT, start=From.file(str(tmp_path / "w.pth"))))
    assert torch.equal(model[0].weight, torch.load(tmp_path / "w.pth")["0.weight"])


# Files


def test_the_file_of_a_reference(made, tmp_path):
    model = made.folder / "model.safetensors"
    assert model_file(From.file(str(made.folder))) == model_file(From.file(str(model))) == model
    with pytest.raises(ValueError, match=r"file:.*: expected a run's folder, or a file that flatbit\.save wrote"):
        model_file(From.file(str(tmp_path)))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is a run that is not finished: --resume it, or name one of its stages/"):
        model_file(From.file(str(tmp_path)))


def test_a_checkpoint_is_a_file_that_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"no such file: .*misspelt\.pth"):
        Checkpoint(path=tmp_path / "misspelt.pth")


def test_a_checkpoint_may_have_layers_by_other_names(tmp_path):
    source = net()
    torch.save({f"old_{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pth")
    names = {f"old_{index}": str(index) for index in (0, 1, 4, 5, 8)}
    target = net()
    Checkpoint(path=tmp_path / "w.pth", rename=names).load_(target)
    assert same(target, source)


def test_the_digest_is_of_what_the_file_holds(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    one, copy, other = (Checkpoint(path=tmp_path / name).digest() for name in "abc")
    assert one == copy != other


def test_a_quantized_file_gives_its_latent_weights(tmp_path):
    source = fb.models.build("resnet8", first_width=2)
    fb.quantize_(source, fb.policy("sqwa", weights=2))
    fb.calibrate_(source, [])
    fb.save(source, tmp_path / "q.safetensors")
    target = fb.models.build("resnet8", first_width=2)
    said = Checkpoint(path=tmp_path / "q.safetensors").load_(target)
    assert said.endswith("; it is quantized: its latent float weights are taken")
    assert not dict(quantized_layers(target))
    assert torch.equal(target.layers[0][0].conv1.weight, source.layers[0][0].conv1.weight)


def test_weights_of_another_model_are_refused(tmp_path):
    fb.save(fb.models.build("fcdnn"), tmp_path / "fcdnn.safetensors")
    with pytest.raises(ValueError, match=r"fcdnn\.safetensors is the checkpoint of another model"):
        Checkpoint(path=tmp_path / "fcdnn.safetensors").load_(build_model(recipe(FLOAT), shades()))
    with pytest.raises(ValueError, match=r"fcdnn\.safetensors is the checkpoint of another model"):
        ran(small(Stage(name="float", epochs=0)), tmp_path, checkpoint=Checkpoint(path=tmp_path / "fcdnn.safetensors"))
    assert not (tmp_path / "run.json").exists()
