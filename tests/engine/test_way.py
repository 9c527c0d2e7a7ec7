from dataclasses import replace

import pytest
import torch

from flatbit import plain
from flatbit.engine.way import AUTO, EAGER, ENGINES, PRECISIONS, STACKED, Asked, Way, compiled_too

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_name_and_its_way_are_one(engine, precision):
    way = Way.parse(engine, precision)
    assert (way.engine, way.precision) == (engine, precision)
    assert str(way) == (engine if precision == "float32" else f"{engine}, {precision}")
    assert plain.from_plain(Way, plain.to_plain(way)) == way


@pytest.mark.parametrize("engine", ENGINES)
def test_a_compiler_decides_itself_what_it_computes_again(engine):
    way = Way.parse(engine)
    if way.compiled:
        with pytest.raises(ValueError, match=f"recompute with engine {engine} cannot act"):
            Asked(engine=engine, recompute=True).way("cuda")
    else:
        recomputed = Asked(engine=engine, recompute=True, precision="bf16").way("cuda")
        assert recomputed == replace(way, recompute=True, precision="bf16")
        assert str(recomputed) == f"{engine}, bf16, recompute"
        assert plain.from_plain(Way, plain.to_plain(recomputed)) == recomputed


def test_the_four_names_are_all_there_is():
    assert set(ENGINES.values()) == {(graphs, compiled) for graphs in (False, True) for compiled in (False, True)}
    assert len(ENGINES) == 4


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("graph", "float32", "engine 'graph': did you mean graphs"),
        ("compile", "float32", "engine 'compile': did you mean compiled"),
        ("eager", "bf61", "precision 'bf61': did you mean bf16"),
        ("eager", "half", "precision 'half': "),
    ],
)
def test_other_names_are_refused(engine, precision, said):
    with pytest.raises(ValueError, match=said):
        Way.parse(engine, precision)
    with pytest.raises(ValueError, match=said):
        Asked(engine=engine, precision=precision).way("cpu")


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("graphs", "float32", "engine graphs needs a CUDA device, and this run is on cpu: take eager"),
        (
            "compiled-graphs",
            "bf16",
            "engine compiled-graphs needs a CUDA device, and this run is on cpu: take compiled",
        ),
        ("eager", "tf32", "precision tf32 is of CUDA devices, and this run is on cpu: take float32"),
        (AUTO, "tf32", "precision tf32"),
    ],
)
def test_what_a_cpu_has_not_is_refused_with_the_next_best(engine, precision, said):
    with pytest.raises(ValueError, match=said):
        Asked(engine=engine, precision=precision).way("cpu")
    if engine != AUTO:
        Way.parse(engine, precision).check("cuda:1")


def test_what_is_not_asked_suits_the_device():
    assert Asked().way("cpu") == EAGER
    assert Asked().way("cuda") is None
    assert Asked(engine=AUTO, precision="bf16").way("cpu") is None
    assert Asked(engine="compiled").way("cpu") == Way(compiled=True)


@pytest.mark.parametrize("asked", [Asked(), Asked(engine=AUTO), Asked(engine="graphs")])
def test_a_stage_goes_on_as_it_began(asked):
    began = Way(graphs=True)
    assert asked.way_on(began, CUDA) == began
    with pytest.raises(ValueError, match="begun with engine graphs: give that"):
        replace(asked, precision="bf16").way_on(began, CUDA)
    with pytest.raises(ValueError, match="begun with engine graphs: give that"):
        replace(asked, recompute=True).way_on(began, CUDA)
    with pytest.raises(ValueError, match="begun with engine graphs, bf16"):
        asked.way_on(replace(began, precision="bf16"), CUDA)


def test_stacked_nets_are_trained_eagerly_and_say_how_many_they_are():
    way = Way(stacked=3, precision="tf32")
    assert (way.engine, str(way), str(Way(stacked=2))) == (
        "eager",
        "eager, tf32, 3 nets stacked",
        "eager, 2 nets stacked",
    )
    assert plain.from_plain(Way, plain.to_plain(way)) == way
    assert plain.from_plain(Way, {"graphs": False, "compiled": False, "precision": "float32"}) == EAGER
    for broken in ({"stacked": 2, "graphs": True}, {"stacked": 2, "compiled": True}, {"stacked": 0}):
        with pytest.raises(ValueError, match="expected 1 or more, by eager"):
            Way(**broken)


def test_a_stack_is_for_several_nets_and_goes_on_one_at_a_time():
    asked = Asked(engine=STACKED)
    with pytest.raises(ValueError, match="engine stacked trains several seeds as one: give --seeds, or take eager"):
        asked.way("cpu")
    assert asked.alone == Asked(engine="eager")
    assert Asked(engine=AUTO).alone == Asked(engine=AUTO)
    for engine in (None, AUTO, "eager"):
        assert Asked(engine=engine).way_on(Way(stacked=3), CPU) == Way(stacked=3)
    with pytest.raises(ValueError, match="begun with engine eager, 3 nets stacked"):
        Asked(engine="graphs").way_on(Way(stacked=3), CUDA)


def test_another_engine_is_refused_where_a_stage_goes_on():
    with pytest.raises(ValueError, match="begun with engine graphs"):
        Asked(engine="eager").way_on(Way(graphs=True), CUDA)


def test_a_stage_goes_on_as_it_can_on_a_device_that_has_not_its_way():
    began = Way(graphs=True)
    assert Asked().way_on(began, CPU) == EAGER
    assert Asked(engine=AUTO).way_on(began, CPU) == EAGER
    assert Asked(engine="compiled").way_on(began, CPU) == Way(compiled=True)
    with pytest.raises(ValueError, match="engine graphs needs a CUDA device"):
        Asked(engine="graphs").way_on(began, CPU)


def test_compile_is_an_axis_of_its_own():
    assert [compiled_too(engine) for engine in (None, "eager", "compiled")] == ["compiled"] * 3
    assert compiled_too("graphs") == "compiled-graphs"
    with pytest.raises(ValueError, match="--compile with --engine auto cannot act"):
        compiled_too(AUTO)
    with pytest.raises(ValueError, match="--compile with --engine stacked cannot act"):
        compiled_too(STACKED)


def test_only_bf16_runs_the_network_under_autocast():
    x = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        with Way(precision=precision).autocast(x.device):
            assert (x @ x).dtype == dtype
