"""Names of records: DATE-BENCHMARK-DEVICE[-VARIANT].json."""

from __future__ import annotations

import re

NAME = re.compile(r"(?P<date>\d{4}-\d\d-\d\d)-(?P<benchmark>[a-z_]+)-(?P<device>[a-z0-9]+)(?:-(?P<variant>.+))?\.json")


def record_name(date: str, benchmark: str, device: str, variant: str = "") -> str:
    """The name of a record's file.

    Args:
        date: as 2026-11-28.
        benchmark: letters and underscores.
        device: a ``device_label``.
        variant: of the settings, where a benchmark has several: letters, digits, ``.``, ``_`` and ``-``.
    """
    name = "-".join(filter(None, (date, benchmark, device, variant))) + ".json"
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} names no record: expected DATE-BENCHMARK-DEVICE[-VARIANT].json")
    return name


def device_label(device: str, gpu: str | None) -> str:
    """``cpu``, or the GPU's short name: h100 of "NVIDIA H100 80GB HBM3"."""
    if not device.startswith("cuda"):
        return device.partition(":")[0]
    words = re.findall(r"[a-z0-9]+", (gpu or device).lower())
    return next((word for word in words if re.fullmatch(r"[a-z]+\d+[a-z]*", word)), "".join(words))
