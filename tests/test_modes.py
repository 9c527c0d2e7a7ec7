import contextlib

import pytest
import torch
from torch import nn

from flatbit.modes import buffers_kept, modes_kept


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    a, b = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)), nn.Linear(2, 2)
    a[1].eval()
    b.eval()
    before = [m.training for model in (a, b) for m in model.modules()]
    with modes_kept(a, b):
        a.eval()
        b.train()
        assert [m.training for m in a.modules()] == [False] * 3
    assert [m.training for model in (a, b) for m in model.modules()] == before
    with pytest.raises(RuntimeError), modes_kept(a):
        a.eval()(torch.zeros(2, 7))
    assert [m.training for model in (a, b) for m in model.modules()] == before


@pytest.mark.parametrize("fails", [False, True])
def test_buffers_come_back_whatever_was_done_to_them(fails):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).train()
    held = list(model.buffers())
    values = [buffer.clone() for buffer in held]
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext(), buffers_kept(model):
        model(torch.randn(5, 3))
        model[0].running_mean = torch.ones(3)
        model[1].register_buffer("cache", torch.ones(2))
        if fails:
            raise RuntimeError
    assert all(now is then for now, then in zip(model.buffers(), held, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(held, values, strict=True))
