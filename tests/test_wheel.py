"""What a user gets by pip: the built wheel, alone in an empty environment, run from outside the checkout."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, cwd, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The ``bin`` folder of an environment that holds the wheel and what it asks for, at the locked versions."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT,
        cwd=folder,
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    run(binaries / "pip", "install", "--quiet", "-c", ROOT / "requirements.lock", wheel, cwd=folder)
    return binaries


@pytest.mark.wheel
def test_runs_from_outside_the_checkout(installed, tmp_path):
    where = run(installed / "python", "-c", "import flatbit; print(flatbit.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(installed.parent))
    out = run(installed / "flatbit", "quickstart", "--smoke", "--seeds", "1", "--json", cwd=tmp_path)
    stages = [row["stage"] for row in json.loads(out)]
    assert stages == ["float", "faq-w8a8", "faq-w4a4", "uniq-w4a4", "uniq-w2a2", "uniq-w1a1"]
    assert (tmp_path / "runs/quickstart/report.html").is_file()


@pytest.mark.wheel
def test_holds_its_licence_types_and_template(installed):
    (package,) = installed.parent.glob("lib/python*/site-packages/flatbit")
    assert (package / "py.typed").is_file()
    assert (package / "report/page.html.j2").is_file()
    (info,) = package.parent.glob("flatbit-*.dist-info")
    assert "Apache License" in (info / "licenses/LICENSE").read_text()
    assert not (package.parent / "tests").exists()


@pytest.mark.wheel
def test_holds_the_ledger_and_its_records(installed, tmp_path):
    found = json.loads(run(installed / "flatbit", "ledger", "UNIQ/T1", "--json", cwd=tmp_path))
    assert found["summary"] == {"computed": 16}
    assert "every digest holds" in run(installed / "flatbit", "ledger", "verify", cwd=tmp_path)
