"""Packing: all that a session wrote, in few files of bounded size, the records first."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
END_BYTES = 22  # of the archive's last record
ENTRY_BYTES = 30 + 46  # of a member's two headers, without its name, which each repeats
MOST_MEMBERS = 60_000  # an archive of more needs longer headers
RECORDS, LOGS, CHECKPOINTS, OTHERS = range(4)
KINDS = {
    ".json": RECORDS, ".jsonl": RECORDS, ".csv": RECORDS, ".txt": LOGS, ".log": LOGS,
    ".safetensors": CHECKPOINTS, ".pt": CHECKPOINTS,
}  # fmt: skip
UNFINISHED = ".partial"  # what a file that is not whole yet ends in


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A file to be packed.

    Attributes:
        name: its path within the session's folder.
        size: bytes that it takes in an archive, without headers.
        kind: records before logs, checkpoints and the rest.
        age: seconds; of one kind the newest are packed first.
    """

    name: str
    size: int
    kind: int = OTHERS
    age: float = 0.0

    @property
    def cost(self) -> int:
        """Bytes by which it makes an archive longer."""
        return self.size + ENTRY_BYTES + 2 * len(self.name.encode())


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


def pack(folder: Path, out: Path, *, files: int, file_bytes: int) -> Packing:
    """Pack what lies in ``folder`` into ``out/part-1.zip`` ..., in place of those of an earlier call.

    Each archive is whole at any time. A file that vanishes while it is read is left out.

    Args:
        folder: with subfolders.
        out: another folder.
        files: archives at most.
        file_bytes: of one, at most.
    """
    contents, items = _read(folder)
    packing = plan_packing(items, files=files, file_bytes=file_bytes)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        for number, names in enumerate(packing.archives, 1):
            path = Path(made) / archive_name(number)
            _write(path, names, contents)
            shutil.move(path, out / path.name)
    for number in range(len(packing.archives) + 1, files + 1):
        (out / archive_name(number)).unlink(missing_ok=True)
    return packing


def archive_name(number: int) -> str:
    """Of the archive of this number, from 1."""
    return f"part-{number}.zip"


def _read(folder: Path) -> tuple[dict[str, bytes], list[Item]]:
    contents: dict[str, bytes] = {}
    items: list[Item] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == UNFINISHED or not path.is_file():
            continue
        try:
            content, changed = path.read_bytes(), path.stat().st_mtime
        except OSError:
            continue
        name = path.relative_to(folder).as_posix()
        contents[name] = content
        kind = KINDS.get(path.suffix, OTHERS)
        items.append(Item(name=name, size=_size(content), kind=kind, age=-changed))
    return contents, items


def _size(content: bytes) -> int:
    """Bytes in the archive: deflated as ``zipfile`` does it."""
    deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
    return len(deflate.compress(content)) + len(deflate.flush())


def _write(path: Path, names: Sequence[str], contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, contents[name])
