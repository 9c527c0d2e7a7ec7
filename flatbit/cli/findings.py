"""What an analysis found, as a table for people and as JSON holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

SHORT = 6  # parts of a value that a table shows one by one


def _facts(result: Any) -> dict[str, Any]:
    """A dataclass's fields, then its properties, by name."""
    properties = [name for name, member in vars(type(result)).items() if isinstance(member, property)]
    return {name: getattr(result, name) for name in [*(field.name for field in fields(result)), *properties]}


def plain_values(value: Any) -> Any:
    """A result as JSON holds it: fields and properties of dataclasses, arrays and tensors as lists."""
    if is_dataclass(value):
        return {name: plain_values(part) for name, part in _facts(value).items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_values(part) for key, part in value.items()}
    return [plain_values(part) for part in value] if isinstance(value, list | tuple) else value


def report(result: Any, title: str) -> Group:
    """A row of what was found, or a row of each part where the result is a sequence of such; no arrays."""
    rows = [_facts(result)]
    for value in rows[0].values():
        if isinstance(value, list | tuple) and value and is_dataclass(value[0]):
            rows = [_facts(part) for part in value]
    large = [name for name, value in rows[0].items() if _text(value) is None]
    columns = [name for name in rows[0] if name not in large]
    table = Table(*(escape(name.replace("_", " ")) for name in columns))
    for row in rows:
        table.add_row(*(escape(_text(row[name]) or "") for name in columns))
    more = [f"--json tells also: {', '.join(large)}"] if large else []
    return Group(escape(title), *([table] if columns else []), *map(escape, more))


def _text(value: Any) -> str | None:
    """A value in a cell of a table; None for one that is too large."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int | str):
        return str(value)
    named = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    parts = {name: _text(part) for name, part in named}
    if not 0 < len(parts) <= SHORT or None in parts.values():
        return None
    return ", ".join(f"{name}: {part}" if isinstance(value, Mapping) else str(part) for name, part in parts.items())
