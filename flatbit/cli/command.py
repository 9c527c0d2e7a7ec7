"""The line that makes runs such as these, found from their records."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from .. import plain
from ..engine.edges import edged
from ..engine.recipe import Recipe
from ..engine.record import Run, RunRecord, decisive
from ..ledger.experiments import WITHOUT_FILES
from ..recipes import RECIPES, Network, Registration
from ..settings import as_options


def command_of(runs: Sequence[Run]) -> str | None:
    """``flatbit run NAME ...``; DIR stands for the data sets' folder. None where no such line makes these runs.

    A line is given where the registered recipe, with what the record says was set, is the recorded one in all that
    decides a run: not for runs of ``flatbit quantize``, of a file, or of Python.

    Args:
        runs: of one recipe, one per seed.
    """
    record = runs[0].record
    recorded = decisive(plain.to_plain(record.recipe))
    try:
        made = [words for words, recipe in _candidates(record.recipe) if decisive(plain.to_plain(recipe)) == recorded]
    except ValueError:  # a recipe of this name takes no such settings, or there is none
        return None
    return shlex.join([*made[0], *_besides(record), *_seeds(runs)]) if made else None


def _candidates(recorded: Recipe) -> Iterator[tuple[list[str], Recipe]]:
    """Lines and their recipes: with the paper's edges or all of 8 bits, whole or cut short."""
    registration = RECIPES.get(recorded.name)
    words, network = _network(recorded, registration)
    data = None if recorded.data == registration.data else recorded.data
    words += ["--data", data] if data else []
    words += [] if recorded.data in WITHOUT_FILES or ":" in recorded.data else ["--data-dir", "DIR"]
    words += as_options("--data-arg", recorded.data_arguments) + as_options("--set", recorded.settings)
    made = registration.recipe(recorded.name, recorded.settings, network, data)
    made = replace(made, data_arguments=recorded.data_arguments)
    for options, recipe in (([], made), *_edged(made)):
        yield [*words, *options], recipe
        yield [*words, *options, "--smoke"], recipe.smoke()


def _edged(made: Recipe) -> Iterator[tuple[list[str], Recipe]]:
    """The recipe with 8 bits at the edges, where it quantizes weights and activations."""
    try:
        yield ["--first-last-bits", "8", "--image-bits", "8"], edged(made, first_last_bits=8, image_bits=8)
    except ValueError:
        return


def _network(recorded: Recipe, registration: Registration) -> tuple[list[str], Network]:
    """The words that name the recorded network, if it is not the registration's."""
    words, arguments = ["flatbit", "run", recorded.name], dict(recorded.model_arguments)
    if recorded.model == registration.model:
        own = registration.model_arguments
        added = {key: value for key, value in arguments.items() if own.get(key) != value}
        return words + as_options("--model-arg", added), Network(arguments=added)
    words += ["--model", recorded.model, *as_options("--model-arg", arguments)]
    return words, Network(model=recorded.model, arguments=arguments)


def _besides(record: RunRecord) -> list[str]:
    """What decides a run beside its recipe."""
    words = [] if record.checkpoint is None else ["--checkpoint", record.checkpoint.file]
    words += [] if record.precision == "float32" else ["--precision", record.precision]
    return words + ([] if record.device == "cpu" else ["--device", record.device])


def _seeds(runs: Sequence[Run]) -> list[str]:
    """``--seed 2``, ``--seeds 0:3`` or ``--seeds 0,3,4``; nothing for seed 0 alone."""
    seeds = [run.record.seed for run in runs]
    if len(seeds) == 1:
        return [] if seeds == [0] else ["--seed", str(seeds[0])]
    whole = seeds == [*range(seeds[0], seeds[-1] + 1)]
    return ["--seeds", f"{seeds[0]}:{seeds[-1] + 1}" if whole else ",".join(map(str, seeds))]
