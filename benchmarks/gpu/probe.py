"""What the interpreter at hand can do, as one line of JSON: read by the session, which imports nothing itself."""

from __future__ import annotations

import json
import platform
import sys

import torch

import flatbit
from flatbit.cli import COMMANDS


def main() -> None:
    cuda = torch.cuda.is_available()
    if cuda:
        torch.ones(8, 8, device="cuda").matmul(torch.ones(8, 8, device="cuda")).sum().item()  # sets the device up
    found = {
        "cuda": cuda,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "flatbit": str(flatbit.__path__[0]),
        "ledger": "ledger" in COMMANDS.names(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
