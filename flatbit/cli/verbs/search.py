"""flatbit search: bits for each layer inside a budget, and how the net fares beside the uniform one of its cost."""

from __future__ import annotations

import json as plain_text
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ... import plain
from ...atomic import replacing
from ...data.held_out import held_out
from ...engine import plan, run
from ...engine.record import Run
from ...figures.bits import bits_figure, frontier_figure
from ...figures.style import write_figure
from ...quant.calibrate import calibrate_
from ...quant.convert import quantize_
from ...recipes import Network
from ...search.allocation import allocate, frontier
from ...search.alternation import Search
from ...search.assignment_file import write_assignment
from ...search.budget import Budget
from ...search.costs import Price
from ...search.opened import Searched
from ...search.per_bit import SharedNet
from ...search.samq import Samq
from ...search.sensitivity import Sensitivity, sensitivity
from ...train.sharpness import Sharpness
from .. import COMMANDS
from ..choice import recipe_of
from ..console import (
    AsBuilt,
    CheckpointFile,
    CheckpointKey,
    DataArguments,
    DataDir,
    DataName,
    Device,
    Json,
    ModelArguments,
    Out,
    PolicyName,
    Rename,
    Resume,
    Seed,
    SkipBad,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint
from ..searching import MODEL, POLICY, Asked, Fixed, Layers, MeasureName, Widths, training_images

METHODS = ("ilp", "samq")
Bits = Mapping[str, int]


def search_bits(
    model: Annotated[str, typer.Argument(help=MODEL)],
    budget: Annotated[str, typer.Option(help="392M-bitops, 60kB, 3bits (what the uniform net costs), or several.")],
    method: Annotated[str, typer.Option(help="ilp: exact, by a measure. samq: by a learned generator.")] = "ilp",
    model_arg: ModelArguments = [],  # noqa: B006
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    rename: Rename = [],  # noqa: B006
    as_built: AsBuilt = [],  # noqa: B006
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    policy: PolicyName = POLICY,
    widths: Widths = "2,3,4,5",
    layers: Layers = None,
    fixed: Fixed = [],  # noqa: B006
    measure: MeasureName = "loss",
    search_epochs: Annotated[int, typer.Option(min=2, help="Of samq; a tenth of them are its warm-up.")] = 100,
    rho: Annotated[float, typer.Option(min=0, help="Of samq's sharpness; 0 for the search without.")] = 0.4,
    held: Annotated[float, typer.Option("--held-out", help="Share of the training images that teach samq.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning; 0 only calibrates.")] = 5,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Out = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Find bits for each layer inside a budget, and fine-tune the net and the uniform one of the same cost alike.

    Leaves runs/search: assignment.toml (bits per layer, to be read and changed; recipes take it by --set
    layers.assignment=FILE), search.json, bits.png, frontier.png, and the two runs.

    `flatbit search runs/float --budget 3bits`

    `flatbit search preresnet20 --model-arg variant=saq --checkpoint float.safetensors --data cifar100 --data-dir DIR
    --method samq --budget 392M-bitops`
    """
    if method not in METHODS:
        raise ValueError(f"--method {method}: expected {' or '.join(METHODS)}")
    out = out or Path("runs/search")
    if (out / "assignment.toml").is_file() and not resume:
        raise ValueError(f"{out} holds a search already: --resume goes on with it, another --out starts a new one")
    policy = policy or POLICY
    given = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    arguments = parse_settings(model_arg, "--model-arg")
    asked = Asked.of(model, arguments, given, data, data_arguments(data_arg, skip_bad), data_dir)
    searched = asked.searched(policy, widths, layers, fixed)
    limit = Budget.parse(budget, searched.prices, searched.space)
    limit.check(searched.prices)
    out.mkdir(parents=True, exist_ok=True)
    say(f"{len(searched.space.choices)} choices of {widths} bits; budget {limit}")
    if method == "ilp":
        bits = _by_measure(searched, limit, measure, out, resume=resume)
    else:
        sharpness = Sharpness(method="saq", rho=rho) if rho else None
        settings = Samq(epochs=search_epochs, warmup=search_epochs // 10, sharpness=sharpness)
        bits = _by_samq(searched, limit, settings, held, (seed, device, out, resume))
    uniform = _uniform(searched, limit)
    nets = {method: bits} | ({f"uniform {uniform[0]}": uniform[1]} if uniform else {})
    _leave(searched, nets, out)
    runs = {name: _fine_tuned(asked, policy, searched, bits, epochs, out / name.replace(" ", "-"), seed, device)
            for name, bits in nets.items()}  # fmt: skip
    rows = [_row(name, searched.prices.total(nets[name]), done) for name, done in runs.items()]
    with replacing(out / "search.json") as partial:
        partial.write_text(plain_text.dumps({"method": method, "budget": budget, "nets": rows}, indent=1))
    show(_table(rows, f"{model}, {limit}, fine-tuned {epochs} epochs"), rows, json)
    say(f"assignment: {out / 'assignment.toml'}  figures: {out / 'bits.png'}")


def _by_measure(searched: Searched, limit: Budget, measure: str, out: Path, *, resume: bool) -> Bits:
    """The exact optimum of a measure, which is kept in the folder; a search that goes on takes it from there."""
    path = out / f"sensitivity-{measure}.json"
    if resume and path.is_file():
        found = Sensitivity.load(path)
    else:
        images = training_images(searched)
        found = sensitivity(searched.model, searched.policy, searched.space, images, measure=measure)
        found.save(path)
    best = allocate(found.values, searched.prices, limit)
    say(f"ilp: {measure} {best.loss:.4g}, proven (gap {best.gap:g}), {best.price}")
    points = frontier(found.values, searched.prices)
    uniform = {}
    for bits in searched.space.widths:
        net = searched.space.uniform(bits)
        cost = searched.prices.total(net).bitops / 1e6
        uniform[bits] = cost, sum(found.values[name][width] for name, width in net.items())
    chosen = best.price.bitops / 1e6, best.loss
    figure = frontier_figure(points, uniform, chosen, title="what bits cost, and what they buy", measure=measure)
    write_figure(figure, out / "frontier.png")
    return best.bits


def _by_samq(
    searched: Searched, limit: Budget, settings: Samq, held: float, where: tuple[int, str, Path, bool]
) -> Bits:
    """The best of the accepted assignments of a search."""
    seed, device, out, resume = where
    if limit.bitops is None:
        raise ValueError("--method samq aims at bit-operations: give --budget 392M-bitops or 3bits; ilp takes bytes")
    total = searched.data.train_batches(1, seed=0).num_samples
    training, validation = held_out(searched.data, round(held * total))
    widths = tuple(sorted({bits for choice in searched.space.choices for bits in choice.widths}))
    model = searched.model.to(device)
    quantize_(model, searched.policy, strict=False, candidates=widths)
    calibrate_(model, training.train_batches(settings.batch_size, seed=seed, device=device))
    net = SharedNet(model, searched.space)
    search = Search(
        net=net, prices=searched.prices, target=limit.bitops, settings=settings, training=training,
        validation=validation, seed=seed,
    )  # fmt: skip
    found = search.run(out, resume=resume, say=say)
    say(f"samq: best of {len(found.accepted)} accepted: {found.best.top1:.2f} % held out, {found.best.price}")
    with replacing(out / "samq.json") as partial:
        partial.write_text(plain_text.dumps(plain.to_plain(found), indent=1))
    return found.best.bits


def _uniform(searched: Searched, limit: Budget) -> tuple[int, Bits] | None:
    """The widest uniform net inside the budget, fixed layers as they are; None where none is."""
    nets = ((bits, searched.space.uniform(bits)) for bits in reversed(searched.space.widths))
    return next(((bits, net) for bits, net in nets if limit.holds(searched.prices.total(net))), None)


def _leave(searched: Searched, nets: Mapping[str, Bits], out: Path) -> None:
    """The assignments as files, and the picture of bits per layer."""
    (method, bits), *rest = nets.items()
    for name, each in nets.items():
        file = "assignment" if name == method else "uniform"
        note = f"{name}: {searched.prices.total(each)}"
        write_assignment(searched.space.assignment(each), out / f"{file}.toml", note=note)
    uniform = rest[0][1] if rest else bits
    write_figure(bits_figure(bits, uniform, title=f"bits per layer, by {method}"), out / "bits.png")


def _fine_tuned(
    asked: Asked, policy: str, searched: Searched, bits: Bits, epochs: int, out: Path, seed: int, device: str
) -> Run:
    """A net of given bits, fine-tuned from the float weights."""
    file = out.with_suffix(".toml")
    write_assignment(searched.space.assignment(bits), file)
    widest = max(bits.values())
    given: dict[str, Any] = {
        "policy": policy, "weights": widest, "activations": widest, "training.epochs": epochs,
        "layers.assignment": str(file), "layers.strict": False,
    }  # fmt: skip
    made = recipe_of("finetune", given, Network(model=asked.model, arguments=asked.model_arguments), asked.data)
    made = replace(made, data_arguments=asked.data_arguments)
    planned = plan(made, seed=seed, device=device, data_dir=asked.data_dir, checkpoint=asked.checkpoint)
    return run(planned, out, resume=True, say=lambda line: say(f"  {line}"))


def _row(name: str, price: Price, done: Run) -> dict[str, Any]:
    stages = [*done.record.stages.values()]
    return {
        "net": name, "bitops": price.bitops, "bytes": price.size_bytes, "float": stages[0].score,
        "calibrated": stages[1].score, "score": stages[-1].score, "metric": stages[-1].metric, "run": str(done.folder),
    }  # fmt: skip


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table("net", "bit-operations", "bytes", "float %", "calibrated %", "fine-tuned %", title=title)
    for row in rows:
        scores = (f"{row[name]:.2f}" for name in ("float", "calibrated", "score"))
        table.add_row(row["net"], f"{row['bitops'] / 1e6:,.2f} M", f"{row['bytes']:,}", *scores)
    return table


COMMANDS.add("search", search_bits)
