import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass

import pytest

import flatbit

MODULES = sorted(module.name for module in pkgutil.walk_packages(flatbit.__path__, "flatbit."))


@pytest.mark.parametrize("name", flatbit.__all__)
def test_public_names_are_importable_and_documented(name):
    assert inspect.getdoc(getattr(flatbit, name))


def test_all_is_sorted_and_complete():
    private = {name for name in vars(flatbit) if name.startswith("_")}
    submodules = {name.split(".")[1] for name in MODULES}
    assert flatbit.__all__ == sorted(flatbit.__all__)
    assert set(vars(flatbit)) - private - submodules <= set(flatbit.__all__)


def test_dir_shows_public_names_only():
    assert dir(flatbit) == flatbit.__all__


def test_analysis_lists_every_analysis():
    package = flatbit.analysis
    assert dir(package) == sorted(package.__all__)
    found = set()
    shared = ("partial", "samples", "saved", "span")
    for module in pkgutil.iter_modules(package.__path__, "flatbit.analysis."):
        if module.name.rpartition(".")[2] in shared:
            continue
        made = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        found |= {name for name, thing in made if thing.__module__ == module.name and not name.startswith("_")}
    listed = {line.split()[0] for line in package.__doc__.splitlines() if "   " in line}
    assert listed == {name for name in package.__all__ if name[0].islower()}
    assert found - listed <= {
        "hessian_vector_product",
        "better_start",
        "calibration_losses",
        "compare",
        "normalized",
        "what_to_try",
    }


def test_the_names_of_the_design_are_there():
    agreed = "quantize_ restore_ calibrate_ evaluate cost grids policy save load load_ models data train analysis"
    assert set(agreed.split()) <= set(flatbit.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_what_they_define_are_documented(module):
    loaded = importlib.import_module(module)
    assert inspect.getdoc(loaded)
    for name, thing in vars(loaded).items():
        own = (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module
        if not own or name.startswith("_"):
            continue
        # A dataclass without a docstring gets its signature as one: "Name(field: type)".
        assert thing.__doc__, f"{module}.{name} has no docstring"
        assert not thing.__doc__.startswith(f"{name}("), f"{module}.{name} has no docstring"
        for part, method in vars(thing).items() if inspect.isclass(thing) else ():
            overrides = any(part in vars(base) for base in thing.__mro__[1:])
            if isinstance(method, property) or (inspect.isfunction(method) and not part.startswith("_")):
                assert overrides or inspect.getdoc(method), f"{module}.{name}.{part} has no docstring"


IN_PROGRESS = {"Position", "Execution", "Net", "Queue", "Search", "Reinforce", "Probe", "_Found", "TensorBoard"}
"""What stands for something that moves on, in place of a fact."""


@pytest.mark.parametrize("module", MODULES)
def test_facts_are_frozen(module):
    loaded = importlib.import_module(module)
    own = [thing for thing in vars(loaded).values() if is_dataclass(thing) and thing.__module__ == module]
    assert {thing.__name__ for thing in own if not thing.__dataclass_params__.frozen} <= IN_PROGRESS


@pytest.mark.parametrize("module", MODULES)
def test_dunder_all_names_what_is_there(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, name)
