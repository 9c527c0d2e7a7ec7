import pytest
import torch
from torch import nn

from flatbit.models import (
    BUILD_CALL,
    MODELS,
    accepts,
    build,
    is_known,
)


@pytest.fixture
def own_models(tmp_path, monkeypatch, request):
    """A module of the user's in the working directory; its name is unique to the test."""
    name = "own_models_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    tmp_path.joinpath(f"{name}.py").write_text(
        "from torch import nn\n"
        "def net(hidden=4):\n"
        "    return nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 3))\n"
        "def anything(**settings):\n"
        "    return nn.Linear(1, settings.get('outputs', 1))\n"
        "def wrong():\n"
        "    return 'a net'\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_builds_and_remembers_its_call(name):
    arguments = {"num_classes": 7} | ({"depth": 8} if name in ("resnet_cifar", "preresnet_cifar") else {})
    with torch.device("meta"):
        model = build(name, **arguments)
        again_name, again_arguments = getattr(model, BUILD_CALL)
        again = build(again_name, **again_arguments)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1] == 7


def test_a_function_of_the_users(own_models):
    model = build(f"{own_models}:net", hidden=6)
    assert model[0].out_features == 6
    assert getattr(model, BUILD_CALL) == [f"{own_models}:net", {"hidden": 6}]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'resnet21': did you mean .*resnet20"):
        build("resnet21")


def test_unknown_argument_suggests_the_nearest(own_models):
    with pytest.raises(ValueError, match="model 'resnet20' has no argument 'num_clases': did you mean num_classes"):
        build("resnet20", num_clases=10)
    with pytest.raises(ValueError, match="has no argument 'hiden': did you mean hidden"):
        build(f"{own_models}:net", hiden=3)


def test_missing_argument_is_named():
    with pytest.raises(ValueError, match="model 'resnet_cifar': missing a required argument: 'depth'"):
        build("resnet_cifar")


def test_what_is_no_module_is_refused(own_models):
    with pytest.raises(ValueError, match=r"returned str: expected a torch\.nn\.Module"):
        build(f"{own_models}:wrong")


def test_accepts_lists_the_arguments(own_models):
    assert {"num_classes", "in_channels", "width", "variant"} <= set(accepts("preresnet20"))
    assert accepts(f"{own_models}:net") == ["hidden"]


@pytest.mark.parametrize("ask", [build, accepts])
def test_a_name_is_known_once_somebody_here_asked_for_it(own_models, ask):
    assert is_known("resnet20")
    assert not is_known(f"{own_models}:net")
    ask(f"{own_models}:net")
    assert is_known(f"{own_models}:net")
    assert not is_known(f"{own_models}:wrong")


def test_a_builder_that_takes_any_argument_gets_it(own_models):
    assert accepts(f"{own_models}:anything") == ["**"]
    assert build(f"{own_models}:anything", outputs=5).out_features == 5
