"""Packing: what a queue or session wrote, in few files of bounded size, the records first."""

from __future__ import annotations

import calendar
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..atomic import replacing

MIB = 2**20
END_BYTES = 22  # of the archive's last record
ENTRY_BYTES = 30 + 46  # of a member's two headers, without its name, which each repeats
MOST_MEMBERS = 60_000  # an archive of more needs longer headers
RECORDS, LOGS, CHECKPOINTS, OTHERS = range(4)
KINDS = {
    ".json": RECORDS, ".jsonl": RECORDS, ".csv": RECORDS, ".txt": LOGS, ".log": LOGS,
    ".safetensors": CHECKPOINTS, ".pt": CHECKPOINTS,
}  # fmt: skip
DEFLATED = (RECORDS, LOGS)
"""Text; the rest is stored as it is."""
CLOCK_S = 2.0  # what an archive rounds times to
EPOCH = 315_532_800.0  # the first time that an archive can hold
RUN_PARTS = 4  # of a run's folder: runs/PAPER/NAME/seedN
UNFINISHED = ".partial"  # what a file that is not whole yet ends in


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A file to be packed.

    Attributes:
        name: its path within the session's folder.
        size: bytes.
        kind: records before logs, checkpoints and the rest.
        age: seconds; of one kind the newest are packed first.
    """

    name: str
    size: int
    kind: int = OTHERS
    age: float = 0.0

    @property
    def cost(self) -> int:
        """Bytes by which it makes an archive longer at most: deflating may add a little to what it cannot shorten."""
        added = self.size // 1024 + 64 if self.kind in DEFLATED else 0
        return self.size + added + ENTRY_BYTES + 2 * len(self.name.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Which file goes into which archive, and what is left out and why."""

    archives: tuple[tuple[str, ...], ...]
    left_out: dict[str, str]


def plan_packing(items: Iterable[Item], *, files: int, file_bytes: int) -> Packing:
    """Give each item the first archive that has room for it, records first.

    Args:
        items: of different names.
        files: archives at most, 0 or more.
        file_bytes: of an archive, at most.
    """
    archives: list[list[str]] = []
    rooms: list[int] = []
    left_out: dict[str, str] = {}
    for item in sorted(items, key=lambda item: (item.kind, item.age, item.name)):
        fits = (i for i, room in enumerate(rooms) if item.cost <= room and len(archives[i]) < MOST_MEMBERS)
        place = next(fits, None)
        if place is None and item.cost > file_bytes - END_BYTES:
            left_out[item.name] = f"{item.size:,} bytes: more than a file may have"
            continue
        if place is None and len(archives) == files:
            left_out[item.name] = f"{item.size:,} bytes: no room in {files} files"
            continue
        if place is None:
            place = len(archives)
            archives.append([])
            rooms.append(file_bytes - END_BYTES)
        archives[place].append(item.name)
        rooms[place] -= item.cost
    return Packing(archives=tuple(map(tuple, archives)), left_out=left_out)


def pack(
    folder: Path,
    out: Path,
    *,
    files: int,
    file_bytes: int,
    seconds: float,
    keep: Callable[[str], bool] = lambda name: True,
) -> Packing:
    """Pack what lies in ``folder`` into ``out/part-1.zip`` ..., in place of those of an earlier call.

    Each archive is whole at any time. A file that vanishes meanwhile is left out; of one that grows, what it held when
    it was found is packed.

    Args:
        folder: with subfolders.
        out: another folder.
        files: archives at most.
        file_bytes: of one, at most. No file is read that has more.
        seconds: after them no further file is begun.
        keep: whether a file, by its path within the folder, is wanted at all.
    """
    end = time.monotonic() + seconds
    items = {item.name: item for item in _found(folder) if keep(item.name)}
    plan = plan_packing(items.values(), files=files, file_bytes=file_bytes)
    left_out = dict(plan.left_out)
    archives: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        for names in plan.archives:
            path = Path(made) / archive_name(len(archives) + 1)
            missing = _write(path, folder, [items[name] for name in names], end)
            left_out |= missing
            if written := tuple(name for name in names if name not in missing):
                with replacing(out / path.name) as partial:
                    shutil.copyfile(path, partial)
                archives.append(written)
    for number in range(len(archives) + 1, files + 1):
        (out / archive_name(number)).unlink(missing_ok=True)
    return Packing(archives=tuple(archives), left_out=left_out)


def unpack(out: Path, folder: Path) -> list[str]:
    """Put back what archives of ``pack`` hold and the folder lacks, or has older; of each archive all or nothing.

    Files of one folder belong together: they are taken where the newest of them in the archives is newer than any that
    is there, by the time at which it was written.

    Returns:
        The names of these files.

    Raises:
        ValueError: a file that is no archive.
    """
    put: list[str] = []
    paths = sorted(out.glob("part-*.zip"))
    newer = _newer(paths, folder)
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(dir=folder.parent) as made:
                lacking = [name for name in archive.namelist() if not (folder / name).exists() or _place(name) in newer]
                for found in [Path(archive.extract(name, made)) for name in lacking]:
                    place = folder / found.relative_to(made)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    found.replace(place)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is no archive of a queue ({error}): take it away, or fetch it again") from error
        put += lacking
    return put


def _newer(paths: Iterable[Path], folder: Path) -> set[str]:
    """The folders whose files were written later in the archives than in the folder."""
    packed: dict[str, float] = {}
    for path in paths:
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                place = _place(info.filename)
                packed[place] = max(packed.get(place, 0.0), calendar.timegm((*info.date_time, 0, 0, 0)))
    return {place for place, written in packed.items() if place and written > _written(folder / place) + CLOCK_S}


def _written(folder: Path) -> float:
    """When the newest file of a folder was written; 0 where there is none."""
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)


def _place(name: str) -> str:
    """The folder whose files belong together: of a run ``runs/PAPER/NAME/seedN``; "" for a file by itself."""
    parts = Path(name).parts
    return "/".join(parts[:RUN_PARTS]) if parts[0] == "runs" and len(parts) > RUN_PARTS else ""


def archive_name(number: int) -> str:
    """Of the archive of this number, from 1."""
    return f"part-{number}.zip"


def _found(folder: Path) -> list[Item]:
    items: list[Item] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == UNFINISHED or not path.is_file():
            continue
        with suppress(OSError):
            found = path.stat()
            name, kind = path.relative_to(folder).as_posix(), KINDS.get(path.suffix, OTHERS)
            items.append(Item(name=name, size=found.st_size, kind=kind, age=-found.st_mtime))
    return items


def _write(path: Path, folder: Path, items: Iterable[Item], end: float) -> dict[str, str]:
    """An archive of the items. Returns those that it is without, and why."""
    missing: dict[str, str] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for item in items:
            if time.monotonic() > end:
                missing[item.name] = "no time was left to pack it"
                continue
            try:
                with (folder / item.name).open("rb") as file:
                    content = file.read(item.size)
            except OSError as error:
                missing[item.name] = f"could not be read: {error.strerror}"
                continue
            way = zipfile.ZIP_DEFLATED if item.kind in DEFLATED else zipfile.ZIP_STORED
            written = time.gmtime(max(-item.age, EPOCH))
            archive.writestr(zipfile.ZipInfo(item.name, written[:6]), content, way)
    return missing
