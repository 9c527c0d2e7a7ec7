from rich.table import Table

from flatbit.text import as_text


def test_a_table_and_whole_lines_below_it():
    table = Table("layer", "bits", title="what")
    table.add_row("conv", "4")
    text = as_text(table, "x" * 300, "done")
    lines = text.splitlines()
    assert lines[-2:] == ["x" * 300, "done"]
    assert "conv" in text
    assert max(map(len, lines[:-2])) <= 120
