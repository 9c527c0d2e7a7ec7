"""The suites of this folder run over everything registered; ``FLATBIT_TEST_PLUGINS`` names a folder with more."""

import os
from pathlib import Path

from flatbit.plugins import load_plugin

for file in (
    sorted(Path(os.environ["FLATBIT_TEST_PLUGINS"]).glob("*.py")) if "FLATBIT_TEST_PLUGINS" in os.environ else ()
):
    load_plugin(file)
