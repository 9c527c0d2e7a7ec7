import pytest

from flatbit.analysis.layer_curvature import layer_traces
from flatbit.search.measures.curved import eigenvalue_times_error, trace_times_error
from flatbit.search.sensitivity import sensitivity, weight_error

from ..cases import LSQ, probe_of


def test_curvature_times_error_by_its_parts(trained):
    model, batches, choices = trained
    probe = probe_of(model, batches)
    choice = choices.choices[0]
    error = weight_error(probe, choice, 2)
    probe.kept |= {"traces": {"3": 10.0}, "eigenvalues": {"3": 7.0}}
    assert trace_times_error(probe, choice, 2) == pytest.approx(10 / (6 * 4 * 9) * error["3"])
    assert eigenvalue_times_error(probe, choice, 2) == pytest.approx(7 * error["3"])


def test_curvature_is_computed_once_for_all(trained, monkeypatch):
    model, batches, choices = trained
    calls = []

    def counted(*args):
        calls.append(args)
        return layer_traces(*args, probes=1)

    monkeypatch.setattr("flatbit.search.measures.curved.layer_traces", counted)
    sensitivity(model, LSQ, choices, batches, measure="trace")
    assert len(calls) == 1
