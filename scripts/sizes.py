"""Files and functions stay small: one idea each. Fails above 300 lines a file, 60 a function."""

import ast
import sys
from pathlib import Path

MOST_FILE_LINES, MOST_FUNCTION_LINES = 300, 60


def main() -> int:
    found = []
    for path in sorted(Path("flatbit").rglob("*.py")):
        text = path.read_text()
        lines = text.count("\n")
        if lines > MOST_FILE_LINES:
            found.append(f"{path}: {lines} lines, at most {MOST_FILE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                size = node.end_lineno - node.body[0].lineno + 1 - _docstring_lines(node)
                if size > MOST_FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno} {node.name}: {size} lines, at most {MOST_FUNCTION_LINES}")
    print("\n".join(found) or "sizes: every file and function is small enough")
    return bool(found)


def _docstring_lines(node: ast.FunctionDef) -> int:
    if ast.get_docstring(node) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


if __name__ == "__main__":
    sys.exit(main())
