import platform

import torch

from flatbit.engine.environment import Environment
from flatbit.version import VERSION


def test_it_is_that_of_this_process():
    here = Environment.here()
    assert (here.flatbit, here.torch, here.python) == (VERSION, torch.__version__, platform.python_version())
    assert here.threads == torch.get_num_threads()
    assert (here.gpu is None) == (not torch.cuda.is_available())
