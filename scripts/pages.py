"""Write what is generated of the documentation: docs/results.md, docs/experiments.md, README's table of the ledger.

--check writes nothing and says whether they are true.
"""

import re
import sys
from pathlib import Path

from flatbit.ledger.evidence import shelf
from flatbit.ledger.markdown import experiments_page, readme_block, results_page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MARKS = re.compile(r"(<!-- ledger: [^>]*-->\n).*?(<!-- /ledger -->)", re.DOTALL)


def main(check: bool) -> int:
    held, readme = shelf(), ROOT / "README.md"
    block = MARKS.sub(lambda marks: marks[1] + readme_block(held) + marks[2], readme.read_text())
    pages = {DOCS / "results.md": results_page(held), DOCS / "experiments.md": experiments_page(), readme: block}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path} is not what the ledger says: python scripts/pages.py")
        else:
            path.write_text(pages[path])
            print(f"written: {path}")
    return bool(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
