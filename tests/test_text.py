from rich.table import Table

from flatbit.text import as_text, first_of


def test_a_table_and_whole_lines_below_it():
    table = Table("layer", "bits", title="what")
    table.add_row("conv", "4")
    text = as_text(table, "x" * 300, "done")
    lines = text.splitlines()
    assert lines[-2:] == ["x" * 300, "done"]
    assert "conv" in text
    assert max(map(len, lines[:-2])) <= 120


def test_the_first_of_many_numbers():
    assert first_of([3, 17]) == "3, 17"
    assert first_of(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert first_of(range(10), 400) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 390 more"
