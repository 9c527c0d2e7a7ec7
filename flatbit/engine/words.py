"""Words: times, and how a stage goes, in a line."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics.scores import LABELS
from .recipe import Stage
from .record import EpochRecord


def epoch_in_words(stage: Stage, epochs: Sequence[EpochRecord]) -> str:
    """The last of the epochs so far: loss, score, rate, and how long the rest of the stage takes."""
    last = epochs[-1]
    words = [f"loss {last.train_loss:.3f}", f"top-1 {last.train_top1:.2f} % in training"]
    metric = "top1" if last.test_miou is None else "miou"
    if last.held_out is not None:
        words.append(f"{last.held_out:.2f} % on held-out images")
    elif (score := last.score(metric)) is not None:
        words.append(f"{LABELS[metric]} {score:.2f} % on the test set")
    words.append(f"{last.images_per_s:,.0f} images/s")
    if left := stage.epochs - last.epoch:
        words.append(f"{in_words(left * sum(each.seconds for each in epochs) / len(epochs))} left")
    return f"{stage.name}: epoch {last.epoch} of {stage.epochs}: {', '.join(words)}"


def in_words(seconds: float) -> str:
    """A time as people say it: ``45 s``, ``3 min 20 s``, ``5 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
