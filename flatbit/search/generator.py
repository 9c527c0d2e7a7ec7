"""SAMQ's generator: an LSTM that names a width for each choice in turn (SAQ, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 64
INITIAL = 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """A path through all choices.

    Attributes:
        widths: in their order.
        log_probability: ``sum_k log p_k(b_k)``, shape ().
        entropy: ``sum_k H(p_k)`` along the path, shape ().
    """

    widths: tuple[int, ...]
    log_probability: Tensor
    entropy: Tensor


class Generator(nn.Module):
    """An LSTM cell of 64, an embedding of each width, a linear layer to their scores; all drawn from U(-0.1, 0.1).

    The first step reads zeros; each further one the embedding of the width before it. A choice that has some of the
    widths only chooses among these.

    Args:
        choices: the widths of each choice, in order.
        seed: of the weights.
    """

    def __init__(self, choices: Sequence[Sequence[int]], *, seed: int = 0) -> None:
        super().__init__()
        self.widths = sorted({bits for widths in choices for bits in widths})
        self.embedding = nn.Embedding(len(self.widths), HIDDEN)
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.scores = nn.Linear(HIDDEN, len(self.widths))
        allowed = torch.tensor([[bits in widths for bits in self.widths] for widths in choices])
        self.register_buffer("allowed", allowed, persistent=False)
        stream = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL, INITIAL, generator=stream)

    def sample(self, stream: torch.Generator) -> Sample:
        """Draw one path.

        Args:
            stream: of the draws, on the CPU.
        """
        state = torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN)
        x, taken = torch.zeros(1, HIDDEN), []
        logs, entropies = [], []
        for allowed in self.get_buffer("allowed"):
            state = self.cell(x, state)
            scores = self.scores(state[0])[0].masked_fill(~allowed, float("-inf"))
            log_p = F.log_softmax(scores, 0)
            p = log_p.exp()
            index = torch.multinomial(p.detach(), 1, generator=stream)
            taken.append(int(index))
            logs.append(log_p[index[0]])
            entropies.append(-(p * log_p.masked_fill(~allowed, 0.0)).sum())
            x = self.embedding(index)
        widths = tuple(self.widths[index] for index in taken)
        return Sample(widths=widths, log_probability=torch.stack(logs).sum(), entropy=torch.stack(entropies).sum())


@dataclass(kw_only=True, slots=True)
class Reinforce:
    """Descent on a cost by the score of the sample: ``stop_grad(R - B) log pi - alpha H``.

    Attributes:
        generator: what learns.
        optimizer: over its parameters.
        entropy: alpha.
        decay: of the exponential mean B of the costs so far; None for B = 0, as paper and code have it. With the mean
            the gradient is as unbiased, and varies less.
        baseline: B.
    """

    generator: Generator
    optimizer: torch.optim.Optimizer
    entropy: float = 5e-3
    decay: float | None = 0.95
    baseline: float | None = None

    def step(self, sample: Sample, cost: float) -> None:
        """One update: what costs more than the baseline becomes less likely."""
        before = 0.0 if self.decay is None else cost if self.baseline is None else self.baseline
        loss = (cost - before) * sample.log_probability - self.entropy * sample.entropy
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.decay is not None:
            self.baseline = cost if self.baseline is None else self.decay * self.baseline + (1 - self.decay) * cost


def adam(generator: Generator, *, lr: float = 5e-4, weight_decay: float = 5e-5) -> torch.optim.Adam:
    """The paper's optimizer of the generator (the code's decay is 5e-4)."""
    return torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)
