import itertools

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.train.batchnorm import freeze_batchnorm_, reestimate_batchnorm_


def batches(n=4, size=6):
    return [(torch.randn(size, 3), torch.zeros(size)) for _ in range(n)]


def net():
    return nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=0.3))


def test_statistics_are_the_plain_average_over_batches():
    model, data = net().double(), [(x.double(), y) for x, y in batches()]
    first, _, linear, second = model
    assert reestimate_batchnorm_(model, data) == 4
    xs = [x for x, _ in data]
    hs = [linear((x - x.mean(0)) / (x.var(0, unbiased=False) + first.eps).sqrt()) for x in xs]  # no dropout
    for norm, values in ((first, xs), (second, hs)):
        torch.testing.assert_close(norm.running_mean, torch.stack([v.mean(0) for v in values]).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack([v.var(0) for v in values]).mean(0))


def test_what_the_statistics_were_before_does_not_matter():
    model, data = net(), batches()
    reestimate_batchnorm_(model, data)
    once = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.randn(50, 3) * 100)
    reestimate_batchnorm_(model, data)
    assert all(torch.equal(v, once[k]) for k, v in model.state_dict().items())


def test_only_so_many_batches_as_asked():
    data = batches()
    some, few = net(), net()
    few.load_state_dict(some.state_dict())
    assert reestimate_batchnorm_(some, iter(data), 2) == 2
    assert reestimate_batchnorm_(few, data[:2]) == 2
    assert torch.equal(some[3].running_var, few[3].running_var)


def test_modes_momenta_and_weights_are_as_before():
    model = net()
    model[0].eval()
    weights = {k: v.clone() for k, v in model.named_parameters()}
    reestimate_batchnorm_(model, batches())
    assert [m.training for m in model.modules()] == [True, False, True, True, True]
    assert (model[0].momentum, model[3].momentum) == (0.1, 0.3)
    assert all(torch.equal(p, weights[k]) and p.grad is None for k, p in model.named_parameters())


def test_an_error_in_the_model_restores_modes_and_momenta():
    model = net().eval()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm_(model, [(torch.randn(6, 4),)])
    assert not any(m.training for m in model.modules())
    assert (model[0].momentum, model[3].momentum) == (0.1, 0.3)


@pytest.mark.parametrize("num_batches", [None, 3, 0, -1])
def test_no_batches_is_an_error_that_changes_nothing(num_batches):
    model = net()
    model(torch.randn(50, 3) * 100)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"reestimate_batchnorm_(:| got no batches:) (the iterable is empty|num_batches=)"
    ):
        reestimate_batchnorm_(model, [] if num_batches in (None, 3) else batches(), num_batches)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(3, track_running_stats=False), nn.GroupNorm])
def test_without_running_statistics_nothing_happens(norm):
    model = nn.Sequential(norm(1, 3) if norm is nn.GroupNorm else norm())
    data = iter(batches())
    assert reestimate_batchnorm_(model, data) == 0
    assert len(list(data)) == 4


def test_a_batch_norm_in_fixed_point_is_one_too():
    model = fb.models.build("preresnet8", first_width=4)
    fb.quantize_(model, fb.policy("faq", weights=4, activations=4))
    x = torch.randn(8, 3, 8, 8)
    fb.calibrate_(model, [(x,)])
    model.layers[0][0].bn1.running_mean.fill_(77)
    assert reestimate_batchnorm_(model, [(x,), (x,)]) == 2
    entering = model.conv1(x)  # the first batch norm's input
    torch.testing.assert_close(model.layers[0][0].bn1.running_mean, entering.mean((0, 2, 3)).detach())


def test_frozen_statistics_are_used_and_kept_in_training():
    model = net().train()
    model[0].running_mean.fill_(5.0)
    freeze_batchnorm_(model)
    assert [m.training for m in model] == [False, True, True, False]
    x = torch.randn(4, 3)
    torch.testing.assert_close(model[0](x), (x - 5) / (1 + model[0].eps) ** 0.5)
    assert torch.equal(model[0].running_mean, torch.full((3,), 5.0))


def test_inputs_may_come_alone_and_are_whole_batches():
    model, alone = net(), net()
    alone.load_state_dict(model.state_dict())
    data = batches()
    reestimate_batchnorm_(model, data)
    reestimate_batchnorm_(alone, [x for x, _ in data])
    assert all(torch.equal(v, alone.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"is a dict of 'x', 'mask': expected one input"):
        reestimate_batchnorm_(model, [{"x": data[0][0], "mask": data[0][0]}])


def test_what_never_ends_is_an_error_or_averaged_as_far_as_asked():
    with pytest.raises(ValueError, match="reestimate_batchnorm_: a cycle never ends: say how many to take with num_b"):
        reestimate_batchnorm_(net(), itertools.cycle(batches()))
    assert reestimate_batchnorm_(net(), itertools.cycle(batches()), 7) == 7


def flat():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model.train()(torch.randn(64, 8) + 3)
    return model.eval()


def interrupted():
    yield torch.randn(8, 8)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([torch.randn(8, 8), torch.randn(1, 8)], ValueError, "batch 1 has one sample.*drop_last=True"),
        ([torch.randn(8, 8), torch.randn(8, 7)], RuntimeError, None),
        ([torch.randn(8, 8) * float("nan")], ValueError, "batch norm '1': .* NaN"),
        ([torch.randn(8, 8), {"x": 1}], ValueError, "expects batches of tensors"),
        ([()], ValueError, "expects batches of tensors"),
        ([torch.randn(8, 8), torch.randn(0, 8)], ValueError, r"batch 1 is empty, x of shape \(0, 8\)"),
        (interrupted(), KeyboardInterrupt, None),
    ],
)
def test_what_fails_leaves_the_statistics_as_they_were(batches, error, words):
    model = flat()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=words):
        reestimate_batchnorm_(model, batches)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_batches_of_inputs_alone():
    x, y = torch.randn(16, 8), torch.zeros(16)
    alone, labelled = flat(), flat()
    labelled.load_state_dict(alone.state_dict())
    assert reestimate_batchnorm_(alone, [x[:8], x[8:]]) == 2
    assert reestimate_batchnorm_(labelled, [(x[:8], y[:8]), [x[8:], y[8:]]]) == 2
    assert torch.equal(alone[1].running_var, labelled[1].running_var)
