import re

import numpy as np
import pytest

from flatbit.figures.style import (
    LEVELS,
    TITLE,
    canvas,
    colors_of,
    contours,
    drawable,
    finish,
    panels,
    shorten,
    to_svg,
    write_figure,
)


def drawing():
    figure, (axes,) = panels(1, 1, 3, 2)
    axes.plot([1, 2], [3, 4], label="a line")
    axes.legend()
    finish(figure, "title", note="a note")
    return figure


def test_svg_is_one_element_that_needs_nothing():
    svg = to_svg(drawing())
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", svg)
    assert "<text" not in svg  # outlines: no font has to be there
    assert "<dc:date>" not in svg


def test_the_same_figure_gives_the_same_svg():
    assert to_svg(drawing()) == to_svg(drawing())


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("new/a.svg", b"<svg")])
def test_figures_are_written_by_their_ending(tmp_path, name, start):
    write_figure(drawing(), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert len(list((tmp_path / name).parent.iterdir())) == 1


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pdf: expected a name that ends in \.png or \.svg"):
        write_figure(drawing(), tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (7, 3, 3), (6, 3, 2)])
def test_panels_are_as_large_as_asked(count, columns, rows):
    figure, grid = panels(count, columns, 2.0, 1.5)
    assert len(grid) == count
    assert figure.get_size_inches() == pytest.approx((2 * columns, 1.5 * rows + TITLE))


@pytest.mark.parametrize("width", [2, 6, 14])
@pytest.mark.parametrize("title", ["runs/a-name-that-has-no-end-W2A2/" * 10, "iiiiiiiil1" * 20 + "WWWMMM" * 20])
def test_a_title_of_any_length_stays_inside_its_figure_and_above_the_panels(width, title):
    figure, (axes,) = panels(1, 1, width, 3)
    axes.set_title("a panel")
    finish(figure, title, note="what the colours mean " * 8)
    box = figure._suptitle.get_window_extent()
    assert box.x0 > 0
    assert 0.6 * figure.bbox.width < box.x1 < figure.bbox.width
    assert axes.title.get_window_extent().y1 < box.y0
    assert box.y1 < figure.bbox.height
    note = figure.texts[-1].get_window_extent()
    assert note.x1 < figure.bbox.width
    assert note.y1 < axes.get_tightbbox().y0


def test_a_title_that_fits_is_said_whole():
    assert drawing().get_suptitle() == "title"


def test_a_canvas_is_as_large_as_asked():
    figure, _ = canvas(3, 2)
    assert figure.get_size_inches().tolist() == [3, 2]


def test_shortened_text_keeps_its_ends():
    assert shorten("a-very-long-stage-name-for-quantization-w2a2-number-11") == "a-very-long-stage-…ion-w2a2-number-11"
    assert shorten("retrain") == "retrain"


def test_images_are_turned_as_they_are_drawn():
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert drawable(images)[1, 2, 3].tolist() == images[1, :, 2, 3].tolist()
    assert drawable(images[:, :1]).shape == (2, 4, 5)


def test_names_have_a_colour_each_in_order():
    colors = colors_of(["float", "uniq", "uniq", "faq"])
    assert [*colors] == ["float", "uniq", "faq"]
    assert len({*colors.values()}) == 3
    assert len(colors_of(map(str, range(20)))) == 20


def test_a_picture_says_what_it_shows():
    assert to_svg(drawing(), 'top-1 of "a" & <b>').startswith(
        '<svg role="img" aria-label="top-1 of &quot;a&quot; &amp; &lt;b&gt;" '
    )
    assert 'aria-label="title"' in to_svg(drawing())


def test_a_title_is_drawn_in_a_page_too_and_takes_no_room_where_there_is_none():
    titled, plain = drawing(), drawing()
    finish(plain, "")
    assert to_svg(titled).count("<use ") > to_svg(plain).count("<use ")
    assert plain.axes[0].get_position().y1 > titled.axes[0].get_position().y1


def levels_of(axes):
    return axes.collections[0].levels


def test_contours_of_losses_rise_by_equal_ratios_and_of_accuracies_by_equal_steps():
    _, axes = canvas(3, 3)
    values = np.array([[0.01, 1.0], [10.0, 0.1]])
    contours(axes, np.arange(2), np.arange(2), values, [values], loss=True)
    ratios = levels_of(axes)[1:] / levels_of(axes)[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    _, other = canvas(3, 3)
    contours(other, np.arange(2), np.arange(2), values, [values, values + 90], loss=False)
    np.testing.assert_allclose(np.diff(levels_of(other)), (100 - 0.01) / (LEVELS - 1))
    assert axes.collections[0].cmap(0.0) == other.collections[0].cmap(1.0)  # the darker the better


def test_the_bar_of_contours_names_a_few_levels():
    figure, axes = canvas(3, 3)
    values = np.array([[0.5, 1.0], [2.0, 4.0]])
    contours(axes, np.arange(2), np.arange(2), values, [values], loss=True)
    figure.canvas.draw()
    (bar,) = axes.child_axes
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0.5", "0.758", "1.15", "1.74", "2.64", "4"]
