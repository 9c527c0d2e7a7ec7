import pytest

from flatbit.quant.widths import short_bits


@pytest.mark.parametrize(
    ("stated", "short"),
    [
        ("W2/A3, W3/A3, W3/A4, W4/A4, W4/A5, W5/A4, W5/A5, W6/A4, W6/A5", "mixed W2-6/A3-5"),
        ("W2/A2, W4/A2", "mixed W2-4/A2"),
        ("W10/A8, W2/A32, W9/A8", "mixed W2-10/A8-32"),  # numbers, not letters
        ("W2/A2, float", "W2/A2 + float"),
        ("W2/A2, W4/A4, float", "mixed W2-4/A2-4 + float"),
        ("W2/A2", "W2/A2"),
        ("float", "float"),
        ("none", "none"),
    ],
)
def test_many_widths_are_one_word(stated, short):
    assert short_bits(stated) == short
