"""The version stands in one place: the package that is built and the records of runs have it from there."""

from pathlib import Path

from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from flatbit.engine.record import Environment
from flatbit.version import VERSION

ROOT = Path(__file__).parent.parent


def test_the_package_is_built_with_it():
    assert ProjectMetadata(str(ROOT), PluginManager()).version == VERSION


def test_records_carry_it():
    assert Environment.here().flatbit == VERSION
