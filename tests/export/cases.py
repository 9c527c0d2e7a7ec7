"""Small trained-looking networks for exports: digits, calibrated, batch norms with statistics of their own."""

import torch
import torch.nn.functional as F
from torch import nn

from flatbit import data, models
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

DIGITS = data.load("digits")
SHAPE = DIGITS.image_shape
UNIQ = policy("uniq", weights=3, activations=3)
DEPLOYABLE = {"first_last_bits": 8, "image_bits": 8}
"""The convention by which every product has integer operands."""


def digits(n=100):
    """The first n test images and their labels."""
    return next(iter(DIGITS.test_batches(n)))


def settled(model, made=None, *, batches=3):
    """Quantize by a policy, calibrate, let batch norms take statistics from digits; in eval mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    images = [x for x, _ in DIGITS.train_batches(64, seed=0)][:batches]
    if made is not None:
        quantize_(model, made)
        calibrate_(model, images)
    model.train()
    with torch.no_grad():
        for x in images:
            model(x)
    return model.eval()


def network(name="preresnet8", method="uniq", weights=4, activations=4, *, made=None, **arguments):
    """A registered network by a method's own convention, or by the policy ``made``."""
    torch.manual_seed(0)
    arguments = {"num_classes": 10} | ({} if name == "fcdnn" else {"in_channels": 1}) | arguments
    made = policy(method, weights=weights, activations=activations) if made is None else made
    return settled(models.build(name, **arguments), made)


def labelled(x, model):
    """One batch with the model's own answers as labels."""
    with torch.no_grad():
        return [(x, model(x).argmax(1))]


class Answering(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.conv, self.relu, self.linear, self.after = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4 * 36, 10), after

    def forward(self, x):
        return self.after(self, x)


def answering(after):
    """A small net that answers with ``after(net, x)``."""
    return settled(Answering(after), UNIQ)


class Branches(nn.Module):
    """Branches that are joined and resized, sizes that the forward asks for."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.edge, self.up = nn.ZeroPad2d((1, 0, 0, 1)), nn.Upsample(scale_factor=2.0)
        self.second, self.third, self.last = nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(64 + 16, 10)

    def forward(self, x):
        a = F.relu(self.norm(self.first(x)))
        b = self.up(self.edge(a))
        c = F.interpolate(a, size=b.shape[-2:], mode="bilinear", align_corners=False)
        d = self.second(torch.cat([b, c], dim=1)).relu()[:, :, :4, :4].contiguous()
        e = F.interpolate(self.third(d), scale_factor=0.5, mode="bilinear", align_corners=True)
        return self.last(torch.cat((d.view(d.size(0), -1), e.reshape(e.shape[0], 4 * 2 * 2)), 1))
