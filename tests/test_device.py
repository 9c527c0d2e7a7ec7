import pytest
import torch
from torch import nn

from flatbit.device import device_of, float32_products, processor_name


def test_the_first_parameter_tells_the_device():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")


def test_a_buffer_tells_it_where_there_is_no_parameter():
    assert device_of(nn.BatchNorm1d(3, affine=False, device="meta")) == torch.device("meta")


def test_a_model_without_tensors_is_on_the_cpu():
    assert device_of(nn.Sequential(nn.ReLU())) == torch.device("cpu")


def test_a_processor_has_a_name_of_its_own():
    name = processor_name("cpu")
    assert name not in ("", "cpu")
    assert name == processor_name(torch.device("cpu"))


@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_as_said_and_then_as_before(tf32):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    with float32_products(tf32=tf32):
        assert [backend.fp32_precision for backend in backends] == ["tf32" if tf32 else "ieee"] * 2
        with float32_products():
            assert [backend.fp32_precision for backend in backends] == ["ieee"] * 2
    assert [backend.fp32_precision for backend in backends] == before
