"""Splits: which samples a run trains on, which it chooses by, and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data.batches import Data
from ..data.held_out import fewer_tests, held_out

MOST_HELD_OUT = 5
"""Of a small set one training sample in so many is held out, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """What a run does with the two splits of its data.

    Attributes:
        held_out: so many training samples are not trained on. Epochs are scored on them, without augmentation, and so
            is what a run chooses: whether re-estimated batch-norm statistics are kept, and which net of the last
            stage's policy it leaves. The test set is then read once per stage, at its end. None holds none out.
        limit_test: so many test samples, drawn at random, are all that is scored; None for every one.

    Raises:
        ValueError: a count below 1, or no setting at all.
    """

    held_out: int | None = None
    limit_test: int | None = None

    def __post_init__(self) -> None:
        counts = {"held_out": self.held_out, "limit_test": self.limit_test}
        for name, count in counts.items():
            if count is not None and not (type(count) is int and count >= 1):
                raise ValueError(f"{name}={count!r}: expected 1 or more, or None")
        if set(counts.values()) == {None}:
            raise ValueError("splits without held_out or limit_test cannot act: leave them out")

    def fitted(self, data: Data) -> tuple[Splits | None, str | None]:
        """The same as the data allow it: a fifth of the training samples at most, none of a stream; and why, in words.

        None where nothing is left of it.
        """
        if self.held_out is None:
            return self, None
        count = min(self.held_out, data.train_batches(1, seed=0).num_samples // MOST_HELD_OUT)
        note = None if count == self.held_out else f"{count:,} training samples are held out, one in {MOST_HELD_OUT}"
        try:
            data.swapped().swapped().with_train(torch.tensor([0]))
        except ValueError as error:
            count, note = 0, f"nothing is held out, so no net is chosen by it: {error}"
        if not count and self.limit_test is None:
            return None, note
        return Splits(held_out=count or None, limit_test=self.limit_test), note

    def of(self, data: Data) -> tuple[Data, Data | None]:
        """The data with the training and test samples that are left, and data whose test samples are the held-out ones.

        Raises ValueError for more tests than there are, and for data whose samples cannot be chosen.
        """
        held = None
        if self.held_out is not None:
            data, part = held_out(data, self.held_out)
            held = part.swapped()
        if self.limit_test is None:
            return data, held
        if self.limit_test >= (total := data.test_batches(1).num_samples):
            raise ValueError(
                f"limit_test={self.limit_test}: expected fewer than the {total:,} test samples that there are"
            )
        return fewer_tests(data, self.limit_test), held
