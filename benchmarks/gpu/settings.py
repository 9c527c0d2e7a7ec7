"""What a session is told: by the command line, or by a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .budget import Budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds that the parts may take; ``engine`` None: 60, or without a ledger, which would take it, the rest."""

    check: float = 20.0
    tests: float = 60.0
    engine: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Of a session.

    Attributes:
        budget: the clock.
        root: of the repository.
        python: the interpreter of the parts.
        out: what comes back; a folder without subfolders.
        work: where the parts write; all of it is packed.
        data_dir: of the data sets' files.
        max_files: in ``out``.
        max_file_mib: of each.
        rehearse: the CPU stands in for the device, and what is timed is small.
        limits: seconds of the parts.
    """

    budget: Budget
    root: Path
    python: str
    out: Path
    work: Path
    data_dir: Path | None = None
    max_files: int = 8
    max_file_mib: float = 16
    rehearse: bool = False
    limits: Limits = field(default_factory=Limits)
