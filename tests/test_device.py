import torch
from torch import nn

from flatbit.device import device_of


def test_the_first_parameter_tells_the_device():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")


def test_a_buffer_tells_it_where_there_is_no_parameter():
    assert device_of(nn.BatchNorm1d(3, affine=False, device="meta")) == torch.device("meta")


def test_a_model_without_tensors_is_on_the_cpu():
    assert device_of(nn.Sequential(nn.ReLU())) == torch.device("cpu")
