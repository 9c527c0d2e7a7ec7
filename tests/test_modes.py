import pytest
import torch
from torch import nn

from flatbit.modes import modes_kept


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
