"""A session: the parts in order, each in a process of its own, and everything packed at the end, whatever comes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flatbit.ledger.packing import MIB, archive_name, pack

from .parts import Part, parts_of
from .processes import run_limited
from .settings import Settings
from .signals import StoppedError

STORY = "session.json"
STOPPED = 130
PACK_RESERVE_S = 30.0
"""Kept at the end for packing."""
PACK_S, PACK_MEANWHILE_S = 20.0, 3.0
"""What packing may take: at the end, and while a part runs."""
PACK_EVERY_S = 60.0
LEAST_S = 2.0
"""A part with less time than this is not begun."""


class Session:
    """Runs the parts and tells of them in ``out/session.json``, which is rewritten after each.

    Args:
        settings: of it.
        found: what the probe said of the interpreter.
        say: called with a line at a time.
    """

    def __init__(self, settings: Settings, found: dict[str, Any], say: Callable[[str], None] = print) -> None:
        self.settings, self.say = settings, say
        self.story: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "rehearsal": settings.rehearse,
            "budget_s": settings.budget.seconds,
            "machine": found,
            "parts": [],
        }
        self._packed = time.monotonic()

    def run(self, stoppable: AbstractContextManager[None] | None = None) -> int:
        """All parts inside ``stoppable``, then the packing outside.

        Returns 0 where every part that ran is well, 130 where ``stoppable`` raised StoppedError, else 1.
        """
        stopped = False
        try:
            with stoppable or nullcontext():
                for part in parts_of(self.settings, self.story["machine"], self.story["date"]):
                    self._run(part)
        except StoppedError:
            stopped = True
        finally:
            self.pack(PACK_S)
        return STOPPED if stopped else int(any(bad(entry) for entry in self.story["parts"]))

    def _run(self, part: Part) -> None:
        """One part, if there is time for it."""
        left = self.settings.budget.left(PACK_RESERVE_S)
        entry: dict[str, Any] = {"part": part.name, "ended": "left out"}
        self.story["parts"].append(entry)
        if part.missing or left < LEAST_S:
            entry["why"] = part.missing or "no time is left"
            self.say(f"{part.name}: left out: {entry['why']}")
            return self._write()
        entry["ended"] = "stopped"
        self._write()
        self.say(f"{part.name}: at most {min(part.seconds, left):.0f} s")
        log = self.settings.work / f"{part.name}.log"
        command = part.command(min(part.seconds, left))
        outcome = run_limited(
            command, log, seconds=min(part.seconds, left), cwd=self.settings.root, meanwhile=self._pack_at_times
        )
        entry |= {
            "ended": "done" if outcome.status in part.well else outcome.ended,
            "seconds": round(outcome.seconds, 1),
            "status": outcome.status,
            "command": " ".join(command),
        }
        entry |= part.read(log)
        self.say(f"{part.name}: {told(entry)}")
        return self._write()

    def _pack_at_times(self) -> None:
        if time.monotonic() - self._packed > PACK_EVERY_S:
            self.pack(PACK_MEANWHILE_S)

    def pack(self, seconds: float) -> None:
        """Pack what is there so far; what is in ``out`` besides counts as files too.

        Args:
            seconds: after them no further file is packed.
        """
        settings = self.settings
        archives = [archive_name(number) for number in range(1, settings.max_files + 1)]
        others = {path.name for path in settings.out.iterdir()} - {*archives} | {STORY}
        file_bytes = int(settings.max_file_mib * MIB)
        files = settings.max_files - len(others)
        packing = pack(settings.work, settings.out, files=files, file_bytes=file_bytes, seconds=seconds)
        names = {archive_name(number): list(held) for number, held in enumerate(packing.archives, 1)}
        self.story |= {"packed": names, "left_out": packing.left_out}
        self._packed = time.monotonic()
        self._write()

    def _write(self) -> None:
        self.story["seconds"] = round(self.settings.budget.passed(), 1)
        partial = self.settings.work.parent / f".{STORY}.partial"
        partial.write_text(json.dumps(self.story, indent=1))
        shutil.move(partial, self.settings.out / STORY)


def bad(entry: dict[str, Any]) -> bool:
    """Whether an entry tells of a failure: the check must hold as a whole, of the others a limit may cut the end.

    Of the tests none that ran may have failed, however their part ended.
    """
    if entry.get("bad") or entry["ended"] in ("failed", "stopped"):
        return True
    return entry["part"] == "check" and entry["ended"] != "done"


def told(entry: dict[str, Any]) -> str:
    """An entry of the story in a line."""
    words = [f"{entry['ended']} in {entry['seconds']:.0f} s"]
    words += [f"status {entry['status']}"] if entry["ended"] == "failed" else []
    words += [entry["summary"]] if "summary" in entry else []
    return ", ".join(words)
