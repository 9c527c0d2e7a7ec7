"""The contract of every analysis: registering one, here or in a plug-in file, adds it here."""

import copy
import importlib
import inspect
import pkgutil
import random
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from flatbit import analysis, figures
from flatbit.analysis.saved import read_result, write_result
from flatbit.figures import ANALYSES
from flatbit.figures.style import write_figure

from .analysis_cases import CASES, computed, fitting, same, subject

every_analysis = pytest.mark.parametrize("name", ANALYSES.names())


def state_of(model):
    """Everything of a model, or of several, and of the process that an analysis could leave behind."""
    model = nn.ModuleDict(model) if isinstance(model, dict) else model
    modules = dict(model.named_modules())
    return copy.deepcopy(
        {
            "tensors": dict(model.state_dict()),
            "parameters": {key: (p.requires_grad, p.grad) for key, p in model.named_parameters()},
            "modes": {key: module.training for key, module in modules.items()},
            "attributes": {key: sorted(vars(module)) for key, module in modules.items()},
            "hooks": {key: len(module._forward_hooks) for key, module in modules.items()},
            "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()),  # noqa: NPY002
            "process": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        }
    )


def result_of(name):
    return computed(name, *subject(name, fitting(name)))


@every_analysis
def test_the_model_stays_as_it_was(name):
    model, data = subject(name, fitting(name))
    before = state_of(model)
    computed(name, model, data)
    after = state_of(model)
    for what in before:
        assert same(before[what], after[what]), what


@every_analysis
def test_the_result_is_a_frozen_dataclass_and_the_same_twice(name):
    result = result_of(name)
    assert is_dataclass(result)
    assert type(result).__dataclass_params__.frozen
    assert same(result, result_of(name))


@every_analysis
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_it_draws_a_figure_that_becomes_a_file(name, ending, tmp_path):
    result = result_of(name)
    untouched = copy.deepcopy(result)
    drawn = ANALYSES.get(name).draw(result, title="what is seen")
    assert isinstance(drawn, Figure)
    write_figure(drawn, tmp_path / f"figure.{ending}")
    assert (tmp_path / f"figure.{ending}").stat().st_size > 1000
    assert same(result, untouched)


@every_analysis
def test_the_saved_result_comes_back_equal(name, tmp_path):
    """So it is drawn again without the model, where it says what it finds, as ours do."""
    kind = ANALYSES.get(name).result
    result = result_of(name)
    write_result(tmp_path, result, title="what was seen")
    if kind is None:
        assert not ANALYSES.get(name).draw.__module__.startswith(f"{figures.__name__}.")
    else:
        assert same(read_result(tmp_path, kind).result, result)


@every_analysis
def test_one_that_keeps_its_parts_goes_on_from_them_and_finds_the_same(name, tmp_path, monkeypatch):
    """Interrupted at the last point but one, whatever it measures there; the two left are measured again."""
    if not ANALYSES.get(name).keeps:
        return
    shown = []

    def interrupted(items, description):
        for index, item in enumerate(items):
            if index == len(items) - 2:
                raise KeyboardInterrupt
            yield item

    def watched(items, description):
        shown.append((description, len(items)))
        yield from items

    monkeypatch.setattr("flatbit.analysis.partial.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        computed(name, *subject(name, fitting(name)), keep=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["partial.jsonl"]
    monkeypatch.setattr("flatbit.analysis.partial.track", watched)
    assert same(computed(name, *subject(name, fitting(name)), keep=tmp_path), result_of(name))
    assert not list(tmp_path.iterdir())
    assert shown[0] == (name, shown[0][1])


@every_analysis
@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_a_value_error_that_says_what_is_expected(name, case):
    """And that model stays as it was too."""
    model, data = subject(name, case)
    before = state_of(model)
    try:
        computed(name, model, data)
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017
    assert all(same(before[what], state) for what, state in state_of(model).items())


@every_analysis
def test_without_need_of_data_it_takes_none(name):
    analysis = ANALYSES.get(name)
    if not analysis.needs_data:
        model, _ = subject(name, fitting(name))
        assert same(computed(name, model, None), result_of(name))


@every_analysis
def test_one_in_our_folder_has_the_name_of_its_file(name):
    module = ANALYSES.get(name).draw.__module__
    if module.startswith(f"{figures.__name__}."):
        assert module == f"{figures.__name__}.{name}"


@pytest.mark.parametrize("folder", [analysis, figures])
def test_no_file_defines_its_own_name(folder):
    """Else importing that name from the folder's package would hide the file."""
    for found in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{found.name}")
        assert not hasattr(module, found.name), module.__name__
        assert inspect.ismodule(getattr(folder, found.name))
