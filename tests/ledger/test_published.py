"""The published rows: as many as there are, each of them whole, found by what people call them."""

import math
from collections import Counter

import pytest

from flatbit.ledger.published import published, selected

BY_PAPER = {"SAQ": 282, "HOL": 188, "UNIQ": 114, "SQWA": 110, "FAQ": 67}
BITS = {*map(str, range(1, 9)), "32", "MP", "-"}


def test_there_are_761_rows_with_ids_of_their_own():
    rows = published()
    assert len(rows) == 761
    assert len({row.id for row in rows}) == 761
    assert Counter(row.paper for row in rows) == BY_PAPER


def test_an_id_says_where_its_row_stands_and_tables_stay_together():
    rows = published()
    for row in rows:
        assert row.id.startswith(f"{row.paper}-{row.table.replace('text ', 'S')}-")
    places = [row.place for row in rows]
    assert [a for a, b in zip(places, [None, *places], strict=False) if a != b] == list(dict.fromkeys(places))


def test_every_row_is_whole():
    for row in published():
        assert all((row.dataset, row.network, row.method, row.metric)), row
        assert row.value is None if row.metric == "trend" else math.isfinite(row.value), row
        assert {row.w_bits, row.a_bits} <= BITS or row.metric == "trend", row


def test_values_are_those_of_the_papers():
    by_id = {row.id: row for row in published()}
    assert (by_id["SQWA-T1-02"].value, by_id["SQWA-T1-02"].metric, by_id["SQWA-T1-02"].bits) == (68.43, "top1", "32/32")
    assert (by_id["HOL-Fig2-03"].value, by_id["HOL-Fig2-03"].bits) == (84.6, "2/2")
    assert (by_id["SAQ-T3-09"].value, by_id["SAQ-T3-09"].place) == (89.1, "SAQ/T3")


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
def test_papers_tables_and_rows_are_found_however_they_are_spelled(spell):
    assert {row.paper for row in selected([spell("Faq")])} == {"FAQ"}
    assert {row.place for row in selected([spell("hol/Fig2")])} == {"HOL/Fig2"}
    assert [row.id for row in selected([spell("saq-T1-03")])] == ["SAQ-T1-03"]


def test_several_places_are_all_of_them_once_in_the_papers_order():
    found = selected(["UNIQ/T1", "SAQ-T1-03", "uniq/t1"])
    assert found == tuple(row for row in published() if row.place == "UNIQ/T1" or row.id == "SAQ-T1-03")
    assert selected([]) == published()


@pytest.mark.parametrize(
    ("place", "nearest"), [("SAK", "SAQ"), ("SAQ/T9", "SAQ/T"), ("HOL/fig22", "HOL/Fig2"), ("UNIQ/T1/x", "UNIQ/T1")]
)
def test_what_is_none_of_these_names_the_nearest(place, nearest):
    with pytest.raises(ValueError, match=rf"no paper, table or row '{place}': .*{nearest}"):
        selected(["SAQ", place])
