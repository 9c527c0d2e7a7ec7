import pytest
import torch

from flatbit.data.residence import SHARE, free_bytes, home_of, to_device

GIB = 2**30
DEVICE = torch.device("cuda", 0)


@pytest.fixture
def free(monkeypatch):
    """A device with 8 GiB that are free."""
    monkeypatch.setattr("flatbit.data.residence.free_bytes", lambda device: 8 * GIB)


@pytest.mark.usefixtures("free")
def test_what_takes_no_more_than_its_share_lives_on_the_device():
    assert SHARE == 0.5
    assert home_of(0, DEVICE, "set") == DEVICE
    assert home_of(4 * GIB, DEVICE, "set") == DEVICE


@pytest.mark.usefixtures("free")
def test_what_takes_more_stays_in_host_memory_and_that_is_said_once():
    with pytest.warns(UserWarning, match="host memory") as said:
        assert home_of(5 * GIB, DEVICE, "set") == torch.device("cpu")
    [warning] = said
    text = str(warning.message)
    assert text.startswith("data set 'set': a split of 5.00 GiB stays in host memory, for cuda:0 has 8.00 GiB free")
    assert "at most 50% of it. Batches are the same; each is copied to the device" in text


def test_a_cpu_is_not_asked():
    assert free_bytes(torch.device("cpu")) is None
    assert home_of(2**60, torch.device("cpu"), "set") == torch.device("cpu")


def test_what_torch_keeps_without_use_is_free(monkeypatch):
    asked = []
    for name, value in (("mem_get_info", (100, 1000)), ("memory_reserved", 70), ("memory_allocated", 30)):
        answer = lambda device, value=value: asked.append(device) or value  # noqa: E731
        monkeypatch.setattr(torch.cuda, name, answer)
    assert free_bytes(DEVICE) == 140
    assert asked == [DEVICE] * 3


def test_values_that_are_there_are_not_copied():
    values = torch.arange(6)
    assert to_device(values, torch.device("cpu")) is values


def test_another_device_gets_a_copy():
    moved = to_device(torch.arange(6), torch.device("meta"))
    assert (moved.device.type, moved.shape, moved.dtype) == ("meta", (6,), torch.int64)


@pytest.mark.gpu
def test_copies_to_a_device_are_equal_and_wait_for_nothing(device):
    values = torch.arange(6).reshape(2, 3).T
    to_device(values, torch.device(device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = to_device(values, torch.device(device))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(moved.cpu(), values)
    assert to_device(moved, torch.device(device)) is moved


@pytest.mark.gpu
def test_a_device_says_what_is_free(device):
    free = free_bytes(torch.device(device))
    assert 0 < free <= torch.cuda.mem_get_info(device)[1]
