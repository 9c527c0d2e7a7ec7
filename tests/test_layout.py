"""The house rules that no linter knows."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import flatbit

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path.relative_to(ROOT / "flatbit") for path in (ROOT / "flatbit").rglob("*.py"))


@pytest.mark.parametrize("source", [s for s in SOURCES if s.name != "__init__.py"], ids=str)
def test_every_file_has_its_test(source):
    assert (ROOT / "tests" / source.parent / f"test_{source.name}").is_file()


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_classes_have_at_most_one_base_of_ours(source):
    tree = ast.parse((ROOT / "flatbit" / source).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            own = [
                base
                for base in bases
                if base not in ("ABC", "nn.Module", "NamedTuple", "Protocol") and not base.startswith("Generic")
            ]
            assert len(own) <= 1, node.name


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_imports_from_a_test(path):
    """What tests share stands in files called ``cases.py``, or is a fixture."""
    assert not re.search(r"\b(from|import)\s+([\w.]*\.)?(test_\w+|conftest)\b", path.read_text())


def test_nothing_names_the_developers_folder():
    for path in (ROOT / "flatbit").rglob("*"):
        if path.suffix in (".py", ".j2"):
            assert "../shared" not in path.read_text()


def test_public_names_are_sorted_and_importable():
    assert flatbit.__all__ == sorted(flatbit.__all__)
    for name in flatbit.__all__:
        assert getattr(flatbit, name).__doc__


def test_importing_has_no_side_effects_on_torch():
    import torch

    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    for module in pkgutil.walk_packages(flatbit.__path__, "flatbit."):
        importlib.import_module(module.name)
    after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
