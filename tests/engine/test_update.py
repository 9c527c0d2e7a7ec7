"""Every way gives the updates that eager gives: 20 of them, of each kind of stage."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.engine import update as update_module
from flatbit.engine.capture import EngineError
from flatbit.engine.recipe import Stage
from flatbit.engine.stage import optimizer_of
from flatbit.engine.update import Update, parts_of
from flatbit.engine.way import EAGER, Way
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation
from flatbit.train.optimizers import Adam
from flatbit.train.sharpness import Sharpness, SharpnessAware

from .tape import stand_in_for_a_device, tape

UPDATES, RATE = 20, 0.01
COMPILED = 1e-5
"""Of the movement, in float64: there a difference in the last bit makes no code another one."""
BF16 = 0.5


def net(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 5),
    ).to(dtype)  # fmt: skip


def taught(dtype):
    return (CrossEntropy(weight=0.5), Distillation(weight=0.5, network=net(dtype, seed=3)))


KINDS = {
    "sgd": {},
    "adam": {"optimizer": Adam(), "lr": RATE},
    "two mini-batches": {"accumulation": ((0, 2),)},
    "sam": {"sharpness": Sharpness(method="sam", rho=0.1)},
    "asam": {"sharpness": Sharpness(method="asam", rho=0.1)},
    "saq": {"sharpness": Sharpness(method="saq", rho=0.1)},
    "asaq": {"sharpness": Sharpness(method="asaq", rho=0.1, batchnorm="update")},
    "shards": {"sharpness": Sharpness(method="saq", rho=0.1, shard=4)},
    "kd": {"losses": taught},
    "lipschitz": {"losses": lambda dtype: (CrossEntropy(), Lipschitz(weight=1e-3))},
}
NAMED = ("sgd", "sam", "saq", "kd", "lipschitz")


def stage_of(kind="sgd", dtype=torch.float32, method="uniq"):
    settings = dict(KINDS[kind])
    losses = settings.pop("losses", lambda dtype: (CrossEntropy(),))(dtype)
    policy = fb.policy(method, weights=2, activations=2)
    fixed = {"name": "short", "epochs": 1, "lr": RATE, "weight_decay": 1e-4, "policy": policy, "losses": losses}
    return Stage(**fixed | settings)


def batches(dtype, count, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    made = [
        (torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator))
        for _ in range(count)
    ]
    return [(x.to(device, dtype), y.to(device)) for x, y in made]


def trained(way, kind="sgd", dtype=torch.float32, method="uniq", updates=UPDATES, model=None, device="cpu"):
    """The model after some updates, as it was before, and the tally."""
    stage = stage_of(kind, dtype, method)
    size = stage.batches_per_update(0)
    data = batches(dtype, updates * size, device)
    model = (net(dtype) if model is None else model).to(device)
    for term in stage.losses:
        if isinstance(term, Distillation):
            term.network.to(device)
    fb.quantize_(model, stage.policy)
    fb.calibrate_(model, batches(dtype, 2, device))
    before = copy.deepcopy(model)
    optimizer = optimizer_of(model.train(), stage)
    update = Update(model, stage, stage.losses, optimizer, way)
    for index in range(updates):
        update(data[index * size : (index + 1) * size], RATE * (1 - index / updates))
    if isinstance(optimizer, SharpnessAware):
        optimizer.close()
    return model, before, update.tally()


def vector(model):
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def distance(other, model, before):
    """Of two nets, as a share of the movement of one."""
    return float((vector(other) - vector(model)).norm() / (vector(model) - vector(before)).norm())


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_updates_are_the_eager_ones_bit_for_bit(kind, monkeypatch):
    stand_in_for_a_device(monkeypatch)
    eager, before, tally = trained(EAGER, kind)
    replayed, _, same = trained(Way(graphs=True), kind)
    assert torch.equal(vector(replayed), vector(eager))
    assert same == tally
    assert distance(before, eager, before) == 1


@pytest.mark.parametrize("method", ["dq", "dorefa", "faq", "lsq", "lsq_plus", "pact", "saq"])
def test_replayed_updates_of_every_method(method, monkeypatch):
    stand_in_for_a_device(monkeypatch)
    eager, _, tally = trained(EAGER, method=method)
    replayed, _, same = trained(Way(graphs=True), method=method)
    assert torch.equal(vector(replayed), vector(eager))
    assert same == tally


def test_other_shapes_modes_and_widths_are_captured_anew(monkeypatch):
    stand_in_for_a_device(monkeypatch)
    results = []
    for way in (EAGER, Way(graphs=True)):
        stage = stage_of()
        model = net()
        data = batches(torch.float32, 14)
        small = [(x[:3], y[:3]) for x, y in data]
        fb.quantize_(model, stage.policy)
        fb.calibrate_(model, data[:1])
        update = Update(model.train(), stage, stage.losses, optimizer_of(model, stage), way)
        for some in (data[:4], small[:4], data[4:8]):
            for batch in some:
                update([batch], RATE)
        for norm in model.modules():
            norm.train(not isinstance(norm, nn.BatchNorm2d))
        for batch in data[8:10]:
            update([batch], RATE)
        fb.assign_bits_(model, {"3": (3, 3)})  # its codes are numbers of the captured step
        for batch in data[10:]:
            update([batch], RATE)
        results.append((vector(model), update.tally()))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_one_signature_is_captured_once(monkeypatch):
    stand_in_for_a_device(monkeypatch)
    captured = []
    monkeypatch.setattr("flatbit.engine.capture.cuda_graph", lambda *given: captured.append(1) or tape(*given))
    trained(Way(graphs=True))
    assert captured == [1]


def test_a_rate_that_is_a_number_is_no_graphs(monkeypatch):
    stand_in_for_a_device(monkeypatch)
    monkeypatch.setattr("flatbit.train.optimizers.rate_of", lambda groups, lr: (lr, None))
    with pytest.raises(EngineError, match=r"SGD keeps its learning rate as a plain number.*take engine eager"):
        trained(Way(graphs=True))


def test_a_net_that_reads_a_number_is_no_graphs_and_left_as_it_was(monkeypatch):
    class Reads(nn.Module):
        def forward(self, x):
            return x * float(x.mean() > -9)

    stand_in_for_a_device(monkeypatch)
    model = nn.Sequential(*net()[:3], Reads(), *net()[3:])
    with pytest.raises(
        EngineError, match=r"Sequential cannot be captured as a CUDA graph .*capturing.*take engine eager"
    ):
        trained(Way(graphs=True), model=model)
    stepped, _, _ = trained(EAGER, model=nn.Sequential(*net()[:3], Reads(), *net()[3:]), updates=1)
    assert torch.equal(vector(model), vector(stepped))  # the first update, which is eager, is all that happened


@pytest.fixture
def quick_compilation(monkeypatch):
    """Traced and differentiated as by the compiler, without the code that it writes."""
    monkeypatch.setattr(
        update_module, "_compiled", lambda model: torch.compile(model, dynamic=False, backend="aot_eager")
    )
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", NAMED)
def test_compiled_updates_are_the_eager_ones(kind, quick_compilation):
    eager, before, tally = trained(EAGER, kind, torch.float64)
    compiled, _, same = trained(Way(compiled=True), kind, torch.float64)
    assert distance(compiled, eager, before) < COMPILED
    assert same == pytest.approx(tally, rel=COMPILED)


def test_the_compilers_own_code_updates_as_eager():
    eager, before, tally = trained(EAGER, "saq", torch.float64)
    compiled, _, same = trained(Way(compiled=True), "saq", torch.float64)
    torch._dynamo.reset()
    assert distance(compiled, eager, before) < COMPILED
    assert same == pytest.approx(tally, rel=COMPILED)


def test_compiling_is_said_once_per_shape_and_mode(quick_compilation):
    said = []
    stage, model = stage_of(), net()
    data = batches(torch.float32, 4)
    fb.quantize_(model, stage.policy)
    fb.calibrate_(model, data[:1])
    update = Update(
        model.train(), stage, stage.losses, optimizer_of(model, stage), Way(compiled=True), note=said.append
    )
    for batch in (*data, (data[0][0][:2], data[0][1][:2])):
        update([batch], RATE)
    assert [line.split(" in ")[0] for line in said] == ["short: compiled"] * 2


def test_what_cannot_be_compiled_is_said_with_the_next_best(monkeypatch):
    def fails(graph, inputs):
        raise RuntimeError("no compiler found\nat all")

    monkeypatch.setattr(update_module, "COMPILER", {"backend": fails})
    with pytest.raises(
        EngineError, match=r"Sequential cannot be compiled here \(.*no compiler found\): take engine eager"
    ):
        trained(Way(compiled=True))
    torch._dynamo.reset()


def test_bf16_moves_alike_and_keeps_all_state_in_float32():
    eager, before, _ = trained(EAGER)
    half, _, _ = trained(Way(precision="bf16"))
    assert 0 < distance(half, eager, before) < BF16
    assert {value.dtype for value in half.state_dict().values()} == {torch.float32, torch.int64}


def test_the_tally_sums_over_samples_and_begins_anew():
    stage, model = stage_of(), net()
    (x, y), *_ = data = batches(torch.float32, 2)
    fb.quantize_(model, stage.policy)
    fb.calibrate_(model, data)
    logits = copy.deepcopy(model).train()(x).detach()
    update = Update(model.train(), stage, stage.losses, optimizer_of(model, stage))
    update([(x, y)], RATE)
    loss = float(nn.functional.cross_entropy(logits, y, reduction="sum"))
    assert update.tally() == pytest.approx([loss, float((logits.argmax(1) == y).sum()), loss], rel=1e-6)
    assert update.tally() == [0, 0, 0]


def test_parts_share_the_loss():
    stage = stage_of("shards")
    data = batches(torch.float32, 2)
    parts = parts_of(data, replace(stage, sharpness=replace(stage.sharpness, shard=3)))
    assert [[len(y) for (_, y), _ in part] for part in parts] == [[3], [3], [2]] * 2
    assert sum(share for part in parts for _, share in part) == pytest.approx(1)
    assert torch.equal(torch.cat([x for part in parts for (x, _), _ in part]), torch.cat([x for x, _ in data]))
    whole = parts_of(data, stage_of())
    assert len(whole) == 1
    assert [share for _, share in whole[0]] == [0.5, 0.5]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "way", [Way(graphs=True), pytest.param(Way(graphs=True, compiled=True), marks=pytest.mark.compiles)], ids=str
)
def test_graphs_on_a_device_move_as_eager(way, kind):
    eager, before, _ = trained(EAGER, kind, torch.float64, device="cuda")
    replayed, _, _ = trained(way, kind, torch.float64, device="cuda")
    torch._dynamo.reset()
    assert distance(replayed, eager, before) < COMPILED
