"""The parts of a session, in order: how each is called, and what it told."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..names import device_label, record_name
from .settings import Settings

NO_TESTS = 5  # pytest's status where it selects none
IMPORTS_S = 10.0
"""What a part may take beyond its limit to import what it needs."""
ENGINE_S = 60.0
"""Of the engine's part, where a queue follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part.

    Attributes:
        name: of it, and of its log.
        seconds: that it may take.
        command: to call, by the seconds that it has.
        missing: why it cannot be run here; "" where it can.
        well: the exit statuses that are no failure.
        read: what its log and files tell, for the story; called once it ended.
    """

    name: str
    seconds: float
    command: Callable[[float], list[str]]
    missing: str = ""
    well: frozenset[int] = frozenset({0})
    read: Callable[[Path], dict[str, Any]] = field(default=lambda log: {})


def parts_of(settings: Settings, found: dict[str, Any], date: str) -> list[Part]:
    """The parts of a session, in order.

    Args:
        settings: of it.
        found: what the probe said.
        date: of the record.
    """
    device = "cpu" if settings.rehearse else "cuda"
    return [
        check(settings, device),
        tests(settings),
        engine(settings, device, found, date),
        queue(settings, device, found),
    ]


def check(settings: Settings, device: str) -> Part:
    """The self-check: the device against the CPU."""
    written = settings.work / "check.json"
    limit = settings.limits.check

    def read(_: Path) -> dict[str, Any]:
        checks = json.loads(written.read_text()) if written.is_file() else {}
        well = sum(found["ok"] for found in checks.values())
        return {"checks": checks, "summary": f"{well} of {len(checks)} checks hold"}

    module = [settings.python, "-m", "benchmarks.gpu.selfcheck", "--device", device, "--out", str(written)]
    return Part(
        name="check",
        seconds=limit + IMPORTS_S,
        command=lambda seconds: [*module, "--seconds", f"{min(limit, seconds):.0f}"],
        read=read,
    )


def tests(settings: Settings) -> Part:
    """The tests that need a device, those that compile last. Without a device they skip themselves."""
    files = [
        path.relative_to(settings.root).as_posix()
        for path in sorted((settings.root / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text()
    ]
    options = "addopts=--strict-markers -p no:logging"
    command = [settings.python, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
    return Part(
        name="tests",
        seconds=settings.limits.tests,
        command=lambda seconds: [*command, "-o", options, *files],
        missing="" if files else "no test is marked gpu",
        well=frozenset({0, NO_TESTS}),
        read=count_tests,
    )


def count_tests(log: Path) -> dict[str, Any]:
    """What pytest's verbose lines say: how many passed, failed and so on, and which failed."""
    lines = re.findall(r"^(\S+::.*?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", log.read_text(), re.MULTILINE)
    counts = Counter(word.lower() for _, word in lines)
    bad = [name for name, word in lines if word in ("FAILED", "ERROR")]
    return {
        "tests": dict(counts),
        "bad": bad,
        "summary": ", ".join(f"{n} {word}" for word, n in counts.items()) or "none ran",
    }


def engine(settings: Settings, device: str, found: dict[str, Any], date: str) -> Part:
    """The ways to run a step, side by side."""
    record = settings.out / record_name(date, "engine", device_label(device, found["gpu"]))
    usual = ENGINE_S if found["ledger"] else float("inf")
    limit = usual if settings.limits.engine is None else settings.limits.engine

    def read(_: Path) -> dict[str, Any]:
        rows = json.loads(record.read_text())["rows"] if record.is_file() else []
        return {"record": record.name, "summary": f"{len(rows)} rows in {record.name}"}

    module = [settings.python, "-m", "benchmarks.gpu.engine", "--device", device, "--record", str(record)]
    module += ["--small"] if settings.rehearse else []
    return Part(
        name="engine",
        seconds=limit + IMPORTS_S,
        command=lambda seconds: [*module, "--seconds", f"{max(1.0, seconds - IMPORTS_S):.0f}"],
        read=read,
    )


def queue(settings: Settings, device: str, found: dict[str, Any]) -> Part:
    """The ledger's queue, for the time that is left."""
    command = [settings.python, "-m", "flatbit", "ledger", "run", "--device", device]
    command += ["--out", str(settings.work / "queue"), "--partial"]
    command += ["--data-dir", str(settings.data_dir)] if settings.data_dir else []
    return Part(
        name="queue",
        seconds=float("inf"),
        command=lambda seconds: [*command, "--budget-minutes", f"{seconds / 60:.2f}"],
        missing="" if found["ledger"] else "this flatbit has no ledger yet",
    )
