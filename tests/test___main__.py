"""``python -m flatbit`` is the command line."""

import subprocess
import sys


def test_it_is_the_command_line():
    ended = subprocess.run([sys.executable, "-m", "flatbit", "list", "losses"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "cross_entropy" in ended.stdout
