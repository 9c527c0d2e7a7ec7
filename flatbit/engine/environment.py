"""Where numbers were got: versions and hardware."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from ..version import VERSION


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Versions and hardware."""

    flatbit: str
    torch: str
    python: str
    machine: str
    threads: int
    gpu: str | None = None

    @classmethod
    def here(cls) -> Environment:
        """Those of this process."""
        return cls(
            flatbit=VERSION,
            torch=torch.__version__,
            python=platform.python_version(),
            machine=platform.machine(),
            threads=torch.get_num_threads(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        )
