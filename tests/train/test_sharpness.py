import copy
import os

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import flatbit as fb
from flatbit.quant.convert import apply_specs_
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.train import Sharpness, SharpnessAware
from flatbit.train.optimizers import SGD, make_optimizer

SAQ_2_BIT = LayerSpec(policy="saq", tensors={"weight": TensorSpec(method="saq", bits=2)})
METHODS = pytest.mark.parametrize("method", ["sam", "asam", "saq", "asaq"])


def mlp(*, norm=True, quantized=True, dtype=torch.float64):
    """A small MLP whose two linear layers have 2-bit SAQ weights and float inputs, in training mode."""
    torch.manual_seed(3)
    layers = [nn.Linear(4, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh(), nn.Linear(6, 3)]
    model = nn.Sequential(*layers).to(dtype)
    if quantized:
        names = [name for name, m in model.named_children() if isinstance(m, nn.Linear)]
        apply_specs_(model, dict.fromkeys(names, SAQ_2_BIT))
        fb.calibrate_(model, [(torch.randn(4, 4, dtype=dtype),)])
    return model


def data(n=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(n, 4, generator=generator, dtype=dtype), torch.arange(n) % 3


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1} | options))


def closure_of(model, optimizer, x, y, share=1.0):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * share
        loss.backward()
        return loss.detach()

    return closure


def states_equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def close(first, second):
    torch.testing.assert_close(first.state_dict(), second.state_dict())


# The maths


@pytest.mark.parametrize("method", ["saq", "asaq"])
def test_three_weights_by_hand(method):
    """``L = w^q.A w^q/2 - b.w^q``: pass two's gradients are A(w^q + e) - b through the unmoved quantizer."""
    layer = nn.Linear(3, 1, bias=False).double()
    apply_specs_(nn.Sequential(layer), {"0": SAQ_2_BIT})
    w, a = torch.tensor([0.3, -0.5, 1.4], dtype=torch.float64), 0.9
    layer.weight.data.copy_(w[None])
    layer.weight_quantizer.set_state_("clip", torch.tensor(a, dtype=torch.float64))
    A = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 3.0]], dtype=torch.float64)
    b = torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64)
    optimizer = SharpnessAware(sgd(layer, lr=0.0), layer, method, rho=0.5)

    def closure():
        optimizer.zero_grad()
        v = layer.quantized_weight().flatten()
        loss = v @ A @ v / 2 - b @ v
        loss.backward()
        return loss.detach()

    loss = optimizer.step(closure)
    wq = torch.tensor([a / 3, -a / 3, a], dtype=torch.float64)
    T = wq.abs() + 0.01 if method == "asaq" else 1.0
    g = A @ wq - b
    e = 0.5 * T**2 * g / ((T * g).norm() + 1e-12)
    second = A @ (wq + e) - b
    c = torch.where(w.abs() < a, (wq - w) / a, w.sign())
    torch.testing.assert_close(loss, wq @ A @ wq / 2 - b @ wq, rtol=1e-14, atol=0)
    torch.testing.assert_close(layer.weight.grad[0], second * (w.abs() < a), rtol=1e-14, atol=0)
    torch.testing.assert_close(layer.weight_quantizer.clip.grad, (second * c).sum(), rtol=1e-14, atol=0)
    assert torch.equal(layer.weight.detach()[0], w)


def plain_sam_step(model, x, y, *, rho, lr, momentum, decay, buffers, adaptive):
    """SAM or ASAM written straight from the papers, with plain tensors; weight decay and momentum by hand."""
    named = list(model.named_parameters())
    loss = F.cross_entropy(model(x), y)
    g = torch.autograd.grad(loss, [p for _, p in named])
    T = [p.detach().abs() + 0.01 if adaptive and not name.endswith("bias") else torch.ones_like(p) for name, p in named]
    norm = torch.cat([(t * d).flatten() for t, d in zip(T, g, strict=True)]).norm()
    here = [p.detach().clone() for _, p in named]
    statistics = {k: v.clone() for k, v in model.named_buffers()}
    for (_, p), t, d in zip(named, T, g, strict=True):
        p.data = p.data + rho * t * t * d / norm
    second = torch.autograd.grad(F.cross_entropy(model(x), y), [p for _, p in named])
    for (name, p), w, d in zip(named, here, second, strict=True):
        d = d + decay * w
        buffers[name] = momentum * buffers[name] + d if name in buffers else d
        p.data = w - lr * buffers[name]
    for k, v in model.named_buffers():
        v.copy_(statistics[k])
    return loss.detach()


@pytest.mark.parametrize("method", ["sam", "asam"])
def test_sam_and_asam_are_the_papers_over_several_steps(method):
    """Also: momentum and weight decay act once a step."""
    ours, theirs = mlp(quantized=False), mlp(quantized=False)
    x, y = data()
    optimizer = SharpnessAware(sgd(ours, momentum=0.9, weight_decay=0.01), ours, method, rho=0.3)
    settings = {"rho": 0.3, "lr": 0.1, "momentum": 0.9, "decay": 0.01, "buffers": {}}
    for _ in range(4):
        loss = optimizer.step(closure_of(ours, optimizer, x, y))
        torch.testing.assert_close(loss, plain_sam_step(theirs, x, y, **settings, adaptive=method == "asam"))
    close(ours, theirs)


def test_a_radius_next_to_zero_is_the_base_alone():
    ours, theirs = mlp(), mlp()
    x, y = data()
    base = sgd(theirs, momentum=0.9)
    optimizer = SharpnessAware(sgd(ours, momentum=0.9), ours, "saq", rho=1e-30)
    for _ in range(3):
        optimizer.step(closure_of(ours, optimizer, x, y))
        closure_of(theirs, base, x, y)()
        base.step()
    close(ours, theirs)


@METHODS
def test_the_loss_rises_by_rho_times_the_gradients_norm(method):
    model, rho = mlp(quantized=method in ("saq", "asaq")), 1e-5
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model, method, rho=rho)
    first = F.cross_entropy(model(x), y)
    first.backward()
    g = [m.tensor.grad * (m.scale(0.01) if method.startswith("a") else 1) for m in optimizer.members]
    optimizer.ascend()
    rise = F.cross_entropy(model(x), y).detach() - first.detach()
    optimizer.restore()
    assert float(rise) == pytest.approx(rho * float(torch.cat([part.flatten() for part in g]).norm()), rel=1e-3)


# The perturbed set, and back


@pytest.mark.parametrize("perturb", ["authors", "weights_only"])
@METHODS
def test_what_moves_and_that_it_comes_back_bit_for_bit(method, perturb):
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model, method, perturb=perturb)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = [model[0].quantized_weight().detach(), model[3].quantized_weight().detach()]
    F.cross_entropy(model(x), y).backward()
    optimizer.ascend()
    assert all(p.grad is None for p in model.parameters())
    assert all(m.tensor.grad is None for m in optimizer.members)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    latent, rest = {"0.weight", "3.weight"}, {"0.bias", "1.weight", "1.bias", "3.bias"}
    clips = {"0.weight_quantizer.clip", "3.weight_quantizer.clip"}
    expected = latent | clips if method in ("sam", "asam") else set()
    assert moved <= (expected | rest if perturb == "authors" else expected & latent)
    # the bias before a batch norm has no gradient but rounding's
    assert moved >= ((expected | rest) - {"0.bias"} if perturb == "authors" else expected & latent)
    if method in ("saq", "asaq"):
        e = [model[0].quantized_weight().detach() - weights[0], model[3].quantized_weight().detach() - weights[1]]
        assert all(bool(part.any()) for part in e)
    optimizer.restore()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not m.tensor.any() for m in optimizer.members if m.latent is not None)


def test_an_error_in_pass_two_leaves_the_model_as_it_was():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model)
    before, once = copy.deepcopy(model.state_dict()), closure_of(model, optimizer, x, y)
    calls = iter([once, None])
    with pytest.raises(TypeError):
        optimizer.step(lambda: next(calls)())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    optimizer.step(once)


def test_an_interruption_within_the_ascent_leaves_the_model_as_it_was(monkeypatch):
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model)
    before, once = {name: p.clone() for name, p in model.named_parameters()}, closure_of(model, optimizer, x, y)

    def interrupted(set_to_none=True):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        loss = once  # the closure zeroes by the optimizer that is interrupted: pass one by hand
        F.cross_entropy(model(x), y).backward()
        patched.setattr(optimizer, "zero_grad", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(lambda: torch.zeros(()))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not leaf.tensor.any() for leaf in optimizer._leaves)
    optimizer.step(loss)


def test_a_second_one_around_the_first_is_refused():
    model = mlp()
    with pytest.raises(ValueError, match="the base is a SharpnessAware already"):
        SharpnessAware(SharpnessAware(sgd(model), model), model)


@pytest.mark.parametrize("batchnorm", ["freeze", "update"])
def test_batch_norm_statistics(batchnorm):
    model, once = mlp(), mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model, batchnorm=batchnorm)
    once(x)
    optimizer.step(closure_of(model, optimizer, x, y))
    frozen = batchnorm == "freeze"
    assert int(model[1].num_batches_tracked) == (1 if frozen else 2)
    assert torch.equal(model[1].running_mean, once[1].running_mean) == frozen
    assert torch.equal(model[1].running_var, once[1].running_var) == frozen
    assert all(m.training for m in model.modules())


def test_close_takes_the_leaves_off():
    model, plain = mlp(), mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model)
    F.cross_entropy(model(x), y).backward()
    optimizer.ascend()
    optimizer.close()  # in the middle of a step, too
    plain(x)
    assert states_equal(model, plain)
    assert all(q.perturbation is None for _, q in fb.quant.quantizers_of(model))
    with pytest.raises(RuntimeError, match="quantizers are not those"):
        optimizer.ascend()


# Loops


@METHODS
def test_a_closure_over_two_mini_batches_is_one_batch(method):
    ours, theirs = mlp(norm=False), mlp(norm=False)
    x, y = data()
    optimizers = [SharpnessAware(sgd(m), m, method) for m in (ours, theirs)]

    def in_parts():
        optimizers[0].zero_grad()
        losses = [F.cross_entropy(ours(x[part]), y[part]) / 2 for part in (slice(0, 4), slice(4, 8))]
        for loss in losses:
            loss.backward()
        return sum(losses).detach()

    optimizers[0].step(in_parts)
    optimizers[1].step(closure_of(theirs, optimizers[1], x, y))
    close(ours, theirs)


@METHODS
def test_the_two_halves_are_a_step(method):
    ours, theirs = mlp(), mlp()
    x, y = data()
    optimizers = [SharpnessAware(sgd(m, momentum=0.9), m, method) for m in (ours, theirs)]
    for _ in range(2):
        F.cross_entropy(ours(x), y).backward()
        optimizers[0].ascend()
        F.cross_entropy(ours(x), y).backward()
        optimizers[0].restore()
        optimizers[0].base.step()
        optimizers[0].base.zero_grad()  # which knows no leaves
        optimizers[1].step(closure_of(theirs, optimizers[1], x, y))
    assert states_equal(ours, theirs)


def test_each_shard_climbs_by_itself_and_their_gradients_are_summed():
    ours, theirs = mlp(), mlp()
    x, y = data()
    optimizer, other = (SharpnessAware(sgd(m), m) for m in (ours, theirs))
    parts = [slice(0, 4), slice(4, 8)]
    loss = optimizer.step([closure_of(ours, optimizer, x[part], y[part], 0.5) for part in parts])
    sums, losses = {}, []
    for part in parts:
        closure = closure_of(theirs, other, x[part], y[part], 0.5)
        losses.append(closure())
        other.ascend()
        closure()
        other.restore()
        for name, p in theirs.named_parameters():
            sums[name] = sums.get(name, 0) + p.grad
    assert torch.equal(loss, losses[0] + losses[1])
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p -= 0.1 * sums[name]
    close(ours, theirs)


def test_gradients_are_clipped_between_the_passes_and_the_step():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model)
    before = [p.detach().clone() for p in model.parameters()]
    closure = closure_of(model, optimizer, x, y)
    closure()
    optimizer.ascend()
    closure()
    optimizer.restore()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.base.step()
    change = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(change.norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def amp_step(model, optimizer, scaler, x, y):
    for half in (optimizer.ascend, optimizer.restore):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        half()
    scaler.unscale_(optimizer.base)
    nn.utils.clip_grad_norm_(model.parameters(), 1e3)
    scaler.step(optimizer.base)
    scaler.update()
    optimizer.zero_grad()


@METHODS
def test_a_gradient_scaler_changes_nothing(method):
    x, y = data(dtype=torch.float32)
    models = []
    for scale in (1.0, 2.0**16):
        model = mlp(dtype=torch.float32)
        optimizer = SharpnessAware(sgd(model, momentum=0.9), model, method)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for _ in range(3):
            amp_step(model, optimizer, scaler, x, y)
        assert scaler.get_scale() == scale
        models.append(model)
    close(*models)
    assert not states_equal(models[0], mlp(dtype=torch.float32))


def test_a_step_that_overflows_is_skipped():
    model, once = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
    x, y = data(dtype=torch.float32)
    optimizer = SharpnessAware(sgd(model, momentum=0.9), model, batchnorm="update")
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    amp_step(model, optimizer, scaler, x * 100, y)
    assert scaler.get_scale() < 2e38
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), once.parameters(), strict=True))
    assert not optimizer.state
    assert bool(model[1].running_mean.isfinite().all())
    for _ in range(130):
        if scaler.get_scale() > 1:
            amp_step(model, optimizer, scaler, x, y)
    assert optimizer.state


def test_a_compiled_model_takes_one_graph_for_both_passes():
    torch._dynamo.reset()
    eager, model = mlp(dtype=torch.float32), mlp(dtype=torch.float32)  # in float64 dynamo traces scalars twice
    x, y = data(dtype=torch.float32)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    optimizer, other = SharpnessAware(sgd(model), compiled), SharpnessAware(sgd(eager), eager)
    for _ in range(3):
        optimizer.step(closure_of(compiled, optimizer, x, y))
        other.step(closure_of(eager, other, x, y))
    assert counter.frame_count == 1
    close(model, eager)


def _ddp_worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = mlp(norm=False)
    wrapped = DistributedDataParallel(model)
    x, y = data()
    mine = slice(4 * rank, 4 * rank + 4)
    optimizer = SharpnessAware(sgd(model, momentum=0.9), wrapped)
    for _ in range(2):
        optimizer.step(closure_of(wrapped, optimizer, x[mine], y[mine]))
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # gloo's own end now and then waits for a thread that waits for the interpreter


def test_distributed_ranks_climb_alone_and_descend_together(tmp_path):
    """Two ranks are two shards: each with its own perturbation, pass two's gradients averaged."""
    torch.multiprocessing.spawn(_ddp_worker, (str(tmp_path),), nprocs=2)
    model = mlp(norm=False)
    x, y = data()
    optimizer = SharpnessAware(sgd(model, momentum=0.9), model)
    for _ in range(2):
        optimizer.step([closure_of(model, optimizer, x[i : i + 4], y[i : i + 4], 0.5) for i in (0, 4)])
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), dict(model.state_dict()))


@pytest.mark.gpu
def test_neither_half_waits_for_the_device(device):
    model = mlp(dtype=torch.float32).to(device)
    x, y = (t.to(device) for t in data(dtype=torch.float32))
    optimizer = SharpnessAware(sgd(model), model, "asaq")
    for half in (optimizer.ascend, optimizer.restore):
        F.cross_entropy(model(x), y).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            half()
        finally:
            torch.cuda.set_sync_debug_mode("default")


# As an optimizer


def test_schedules_act_on_the_base():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model, lr=0.4), model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step(closure_of(model, optimizer, x, y))
    schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.2


def test_state_goes_round_and_stays_shared():
    ours, theirs = mlp(), mlp()
    x, y = data()
    first = SharpnessAware(sgd(ours, momentum=0.9), ours)
    for _ in range(2):
        first.step(closure_of(ours, first, x, y))
    second = SharpnessAware(sgd(theirs, momentum=0.1, lr=9.0), theirs)
    theirs.load_state_dict(ours.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.param_groups is second.base.param_groups
    assert second.state is second.base.state
    assert second.defaults is second.base.defaults
    for optimizer, model in ((first, ours), (second, theirs)):
        optimizer.step(closure_of(model, optimizer, x, y))
    assert states_equal(ours, theirs)
    plain = sgd(mlp(), momentum=0.9)
    plain.load_state_dict(first.state_dict())
    assert first.state_dict().keys() == plain.state_dict().keys()


def test_model_and_optimizer_copy_together():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model, momentum=0.9), model)
    optimizer.step(closure_of(model, optimizer, x, y))
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    before = copy.deepcopy(model.state_dict())
    twin_optimizer.step(closure_of(twin, twin_optimizer, x, y))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    optimizer.step(closure_of(model, optimizer, x, y))
    assert states_equal(model, twin)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_any_optimizer_can_be_the_base(make):
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(make(model.parameters(), lr=0.01), model, "asaq", rho=0.1)
    losses = [float(optimizer.step(closure_of(model, optimizer, x, y))) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_groups_of_the_library_and_a_new_group():
    model, extra = mlp(), nn.Parameter(torch.ones(2))
    optimizer = SharpnessAware(make_optimizer(model, SGD(), lr=0.1), model)
    optimizer.add_param_group({"params": [extra]})
    assert optimizer.base.param_groups[-1]["params"] == [extra]
    assert "SharpnessAware" in repr(optimizer)


# Errors


def test_saq_wants_quantized_weights():
    model = mlp(quantized=False)
    with pytest.raises(ValueError, match=r"saq moves quantized weights, and Sequential has none .*quantize_"):
        SharpnessAware(sgd(model), model)


def test_a_base_made_before_quantization_is_refused():
    model = mlp(quantized=False)
    base = sgd(model)
    apply_specs_(model, {"0": SAQ_2_BIT})
    with pytest.raises(ValueError, match=r"does not hold 0.weight_quantizer.clip: make it after quantize_"):
        SharpnessAware(base, model)
    model[0].weight_quantizer.clip.requires_grad_(False)
    SharpnessAware(base, model)


def test_a_model_quantized_anew_is_noticed():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model, "sam")
    fb.restore_(model)
    with pytest.raises(RuntimeError, match=r"quantizers are not those .* Make the optimizers anew"):
        optimizer.step(closure_of(model, optimizer, x, y))


def test_halves_out_of_order():
    model = mlp()
    x, y = data()
    optimizer = SharpnessAware(sgd(model), model)
    with pytest.raises(RuntimeError, match=r"restore.. without ascend"):
        optimizer.restore()
    with pytest.raises(RuntimeError, match=r"found no gradients: call loss.backward"):
        optimizer.ascend()
    F.cross_entropy(model(x), y).backward()
    optimizer.ascend()
    with pytest.raises(RuntimeError, match=r"ascend.. came twice"):
        optimizer.ascend()


@pytest.mark.parametrize("closure", [None, []])
def test_a_step_without_a_closure(closure):
    model = mlp()
    with pytest.raises(TypeError, match=r"needs a closure .* ascend\(\) and restore\(\)"):
        SharpnessAware(sgd(model), model).step(closure)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "sum", "rho": 0.1}, "sharpness method 'sum': expected one of sam, asam, saq, asaq"),
        ({"method": "sam", "rho": -1}, "rho=-1: expected a positive number; for plain descent leave it out"),
        ({"method": "sam", "rho": None}, "rho=None: expected a positive number"),
        ({"method": "saq", "rho": 0}, "rho=0: expected a positive number; for plain descent leave it out"),
        ({"method": "asam", "rho": 1, "eta": float("nan")}, "eta=nan: expected a number of 0 or more"),
        ({"method": "asaq", "rho": 1, "eta": -0.1}, "eta=-0.1: expected a number of 0 or more"),
        ({"method": "sam", "rho": 1, "eta": 0.01}, "eta=0.01 cannot act: sam does not scale; asam and asaq do"),
        ({"method": "saq", "rho": 1, "eta": 0.01}, "eta=0.01 cannot act: saq does not scale"),
        ({"method": "sam", "rho": 1, "perturb": "all"}, "perturb authors or weights_only"),
        ({"method": "sam", "rho": 1, "batchnorm": "off"}, "batchnorm freeze or update"),
    ],
)
def test_settings_out_of_range(settings, says):
    model = mlp()
    with pytest.raises(ValueError, match=says):
        SharpnessAware(sgd(model), model, **settings)
    with pytest.raises(ValueError, match=says):
        Sharpness(**settings)


@pytest.mark.parametrize("shard", [0, -3, 1.5, "4", True])
def test_a_shard_is_a_number_of_samples(shard):
    with pytest.raises(ValueError, match=f"shard={shard}: expected 1 sample or more, or None"):
        Sharpness(method="saq", rho=0.1, shard=shard)


@pytest.mark.parametrize("method", ["asam", "asaq"])
def test_eta_is_the_papers_unless_it_is_given(method):
    x, y = data()
    models = {}
    for eta in (None, 0.01, 0.5):
        model = models[eta] = mlp()
        optimizer = SharpnessAware(sgd(model), model, method, rho=0.5, eta=eta)
        optimizer.step(closure_of(model, optimizer, x, y))
    assert states_equal(models[None], models[0.01])
    assert not states_equal(models[None], models[0.5])


@pytest.mark.parametrize(("method", "scales"), [("sam", False), ("asam", True), ("saq", False), ("asaq", True)])
def test_the_a_methods_are_adaptive(method, scales):
    assert Sharpness(method=method, rho=0.1).adaptive is scales
