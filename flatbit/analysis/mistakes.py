"""Misread samples: what two networks say of the images that at least one of them gets wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..modes import modes_kept


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Misread:
    """Images that at least one of two networks gets wrong.

    Attributes:
        index: positions in the batches' order, (n,).
        labels: the truth, (n,).
        first, second: what each network says, (n,).
        num_samples: how many images were shown to them.
    """

    index: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    second: np.ndarray
    num_samples: int


@torch.no_grad()
def misread(first: nn.Module, second: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Misread:
    """Show the same batches to two networks, in eval mode; keep what either gets wrong. ValueError for no batches."""
    networks = (first, second)
    said: list[list[Tensor]] = [[], []]
    labels: list[Tensor] = []
    with modes_kept(*networks):
        for network in networks:
            network.eval()
        for x, y in batches:
            labels.append(y.cpu())
            for answers, network in zip(said, networks, strict=True):
                answers.append(network(x).argmax(1).cpu())
    if not labels:
        raise ValueError("misread got no batches: the iterable is empty, or was used up before")
    truth, a, b = (torch.cat(parts).numpy() for parts in (labels, *said))
    wrong = np.flatnonzero((a != truth) | (b != truth))
    return Misread(index=wrong, labels=truth[wrong], first=a[wrong], second=b[wrong], num_samples=len(truth))
