"""The ledger as one HTML page that needs nothing beside itself: sortable, filterable, a row opens its records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..atomic import replacing
from . import words
from .cells import Cell, bits_in_words, summary
from .evidence import label


def write_page(found: Sequence[Cell], path: str | Path) -> Path:
    """Write cells to an HTML file.

    Args:
        found: the cells.
        path: of the file.
    """
    path = Path(path)
    environment = Environment(loader=PackageLoader("flatbit.ledger", "."), autoescape=True, undefined=StrictUndefined)
    records = {label(file): each.run.as_dict() for cell in found for file, each in cell.evidence}
    html = environment.get_template("page.html.j2").render(
        cells=found,
        words=words,
        label=label,
        bits=bits_in_words,
        summary=summary(found),
        papers=list(dict.fromkeys(cell.row.paper for cell in found)),
        records=json.dumps(records).replace("<", "\\u003c"),
        today=date.today().isoformat(),
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path
