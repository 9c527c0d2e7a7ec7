import torch
from torch import nn

from flatbit import models
from flatbit.graph import read_graph


def calls(model):
    return [str(node.target) for node in read_graph(model).nodes if node.op == "call_module"]


def test_reads_calls_in_order_and_goes_into_containers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert calls(model) == ["0", "1.0", "1.1"]


def test_a_subclass_of_a_layer_is_one_call():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    assert calls(nn.Sequential(Scaled(2, 2))) == ["0"]


def test_what_depends_on_data_cannot_be_read():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    assert read_graph(Net()) is None


def test_leaves_the_model_as_it_was():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.seen = nn.Linear(2, 2), None

        def forward(self, x):
            self.seen = self.a(x)
            return self.seen

    model = Keeps().train()
    weight = model.a.weight
    assert calls(model) == ["a"]
    assert model.seen is None
    assert model.training
    assert model.a.weight is weight


def test_every_bundled_kind_of_network_can_be_read():
    for name in ("fcdnn", "resnet8", "preresnet8", "resnet18", "mobilenet_v2_cifar", "deeplab_mobilenet_v2"):
        assert read_graph(models.build(name)) is not None, name


def test_reads_tensors_without_a_copy():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 20, 1 << 20))  # 4 TiB
    assert calls(model) == ["0"]
