"""The engine: recipes as data, a plan before a run, the run, and the record that it leaves.

planned = flatbit.engine.plan(recipe)  # resolved and checked; prints as a table
done = flatbit.engine.run(planned, "runs/mine")
runs = flatbit.engine.run_seeds(planned, range(5), "runs/seeds")
"""

from .execution import run
from .loggers import EpochEnd, TensorBoard
from .planning import Plan, plan
from .recipe import Recipe, Stage
from .record import Run, RunRecord, read_run
from .seeds import run_seeds
from .sources import Checkpoint

__all__ = [
    "Checkpoint",
    "EpochEnd",
    "Plan",
    "Recipe",
    "Run",
    "RunRecord",
    "Stage",
    "TensorBoard",
    "plan",
    "read_run",
    "run",
    "run_seeds",
]
