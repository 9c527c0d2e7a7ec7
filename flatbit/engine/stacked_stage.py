"""A stage of several runs at once: what differs in numbers only is trained as one stacked net."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ..metrics.evaluation import Metrics
from .capture import State
from .checkpoint import load_optimizer_
from .choice import first_batches, updates_of
from .loop import Position, TrainingError
from .stacked import StackedNets
from .stacked_optimizer import load_states_, stacked_optimizer, state_of_net
from .stacked_training import Net, seconds_of_updates, train_stacked
from .stage import Work, after_last, hooks_of
from .update import Update, running

WARM, TIMED = 1, 3
"""First updates, which are not timed, and those of which the fastest counts."""
TRIED_FROM = 40
"""So many updates, at least, a stage has where the stack is timed against one net; a shorter one is stacked untried."""


def descend_stacked(works: Sequence[Work]) -> list[Metrics | TrainingError | None]:
    """Train the nets of several runs through their stage, all by each call; their positions hold the histories.

    Each net has its own data, looks, captures and checkpoints, which are those of a net that is trained by itself.

    Args:
        works: of one stage, at one position; as ``flatbit.engine.stage.prepare`` makes them.

    Returns:
        For each what its last epoch scored, None where that is not known here, or the error that it stopped by.

    Raises:
        ValueError: why they cannot be trained as one.
    """
    stage, stack = works[0].stage, stack_of(works)
    optimizer = stacked_optimizer(stack, stage.optimizer, lr=stage.lr or 0.0, weight_decay=stage.weight_decay)
    if works[0].position.begun:
        load_states_(optimizer, [work.optimizer.state_dict() for work in works])

    def net(index: int, work: Work, scores: dict[int, Metrics]) -> Net:
        hooks = hooks_of(work, scores)

        def save(position: Position) -> None:
            load_optimizer_(work.optimizer, state_of_net(optimizer, index))
            hooks.save(position)

        return Net(batches=work.batches, position=work.position, hooks=replace(hooks, save=save))

    seen: list[dict[int, Metrics]] = [{} for _ in works]
    nets = [net(index, *pair) for index, pair in enumerate(zip(works, seen, strict=True))]
    with running(works[0].model, works[0].way):
        train_stacked(stack, stage, nets, optimizer)
    return [net.error or after_last(work, scores) for net, work, scores in zip(nets, works, seen, strict=True)]


def stack_of(works: Sequence[Work]) -> StackedNets:
    """The nets of some works as one. Raises ValueError where they cannot be."""
    if (precision := works[0].way.precision) == "bf16":
        raise ValueError(f"precision {precision}: stacked nets are trained without autocast")
    if works[0].way.recompute:
        raise ValueError("recompute: stacked nets keep their quantized tensors")
    return StackedNets([work.model for work in works], [work.losses for work in works])


def tried_stacked(works: Sequence[Work], updates: int = WARM) -> float:
    """Seconds of an update of all nets as one, the fastest of some. Works and random numbers stay as they are.

    Raises ValueError where the nets cannot be trained as one.
    """
    nets = [Net(batches=work.batches) for work in works]
    with running(works[0].model, works[0].way):
        return min(seconds_of_updates(stack_of(works), works[0].stage, nets, updates)[-TIMED:])


def tried_alone(work: Work) -> float:
    """Seconds of an update of one net in its way, the fastest of some. All stays as it is."""
    state = State.of(work.model, work.optimizer)
    work.model.train()
    found = []
    try:
        with running(work.model, work.way):
            update = Update(work.model, work.stage, work.losses, work.optimizer, work.way)
            for batches in updates_of(work.stage, first_batches(work.stage, work.batches), WARM + TIMED):
                begun = time.perf_counter()
                update(batches, work.stage.lr or 0.0)
                update.tally()  # waits for the device
                found.append(time.perf_counter() - begun)
    finally:
        state.restore_()
        work.optimizer.zero_grad(set_to_none=True)
    return min(found[-TIMED:])
