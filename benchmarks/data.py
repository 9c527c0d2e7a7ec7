"""Reading data: augmented CIFAR-like batches, and ImageNet-like JPEGs, against the usual torchvision path.

    python benchmarks/data.py [--rounds 15] [--batches 40] [--batch 128] [--workers 2] [--images 200]

Needs torchvision beside flatbit, for the other side. All data are random and made here: CIFAR-like pixels, and
photograph-like JPEGs (noise of 1/f amplitude, quality 90) of 500x375 and 2000x1500 pixels.

CIFAR: pad 4, crop, flip, normalize, to a float batch. "flatbit" is a set in memory augmented in batches;
"DataLoader" is what CIFAR scripts do, PIL images and torchvision transforms one by one, in this process or in
workers; "v2 tensors" is torchvision's newer spelling. This process has one thread (--threads), so the workers
come on top of what flatbit is given. A round times one epoch of each, in a new random order; ratios are taken
inside a round, then their median. A float training step of ResNet-20 is timed beside them: what a batch has
to keep up with.

ImageNet: images per second of one core. "PIL" is Image.open, RandomResizedCrop(224), flip, ToTensor,
Normalize (training), or Resize(256), CenterCrop(224) (testing); "decoding alone" is the least any path
that decodes the whole image can take. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from decoding import import_torchvision, measure_decoding, row
from PIL import Image
from timing import environment, interleaved, write
from torch.utils.data import DataLoader, Dataset

import flatbit as fb
from flatbit.data.augment import Augment
from flatbit.data.memory import Images, MemoryData
from flatbit.data.normalize import Normalize

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pixels(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 100, (count,), generator=generator)


class PilSet(Dataset):
    """As torchvision's CIFAR10: an array, an Image per item, a transform."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class TensorSet(PilSet):
    """The same with tensors."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable) -> None:
        super().__init__(images, labels, transform)
        self.tensors = images

    def __getitem__(self, index: int):
        return self.transform(self.tensors[index]), self.labels[index]


def cifar_variants(arguments: argparse.Namespace) -> dict[str, Callable[[int], object]]:
    """Each variant: a function of the epoch that gives the batches of one epoch."""
    transforms, v2 = import_torchvision()
    images, labels = pixels(arguments.batches * arguments.batch)
    split = Images(images=images, labels=labels)
    data = MemoryData(
        name="random",
        num_classes=100,
        train=split,
        test=split,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        augment=Augment(pad=4, flip=True),
    )
    plain = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )
    newer = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )
    ours = data.train_batches(arguments.batch, seed=0)
    found: dict[str, Callable[[int], object]] = {"flatbit": ours.epoch}
    for workers in (0, arguments.workers):
        settings = {"batch_size": arguments.batch, "shuffle": True, "drop_last": True}
        settings |= {"num_workers": workers, "persistent_workers": workers > 0}
        for name, source in (
            ("DataLoader", PilSet(images, labels, plain)),
            ("v2 tensors", TensorSet(images, labels, newer)),
        ):
            loader = DataLoader(source, **settings)
            found[f"{name}, {workers} workers"] = lambda epoch, loader=loader: loader
    return found


def time_epoch(batches) -> float:
    started = time.perf_counter()
    for x, _ in batches:
        x.data_ptr()
    return time.perf_counter() - started


def training_step(arguments: argparse.Namespace) -> Callable[[], float]:
    torch.manual_seed(0)
    model = fb.models.build("resnet20", num_classes=100).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    images, y = pixels(arguments.batch)
    x = Normalize(CIFAR_MEAN, CIFAR_STD)(images)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def measure_cifar(arguments: argparse.Namespace) -> dict:
    step = training_step(arguments)
    steps: dict[str, Callable[[int], float]] = {
        name: lambda round_, epoch=epoch: time_epoch(epoch(round_)) / arguments.batches
        for name, epoch in cifar_variants(arguments).items()
    }
    steps["training step"] = lambda _: statistics.median(step() for _ in range(3))
    times = interleaved(steps, arguments.rounds, arguments.warmup)
    return {"rows": [row("cifar", name, times, "flatbit") for name in times], "times_s": times}


def show(rows: list[dict]) -> None:
    print(f"{'section':16}{'variant':26}{'median ms':>10}{'per second':>12}{'x flatbit':>11}{'quartiles':>15}")
    for r in rows:
        low, high = r["ratio_quartiles"]
        print(
            f"{r['section']:16}{r['variant']:26}{r['median_ms']:10.2f}{r['per_second']:12.1f}"
            f"{r['times_flatbit']:11.2f}{low:9.2f}-{high:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=40, help="of one timed epoch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of this process")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--images", type=int, default=200, help="photographs of 500x375; a tenth of 2000x1500")
    parser.add_argument("--decoding-rounds", type=int, default=9)
    parser.add_argument("--name", help="of the result file; default: date, benchmark and device")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = [
        measure_cifar(arguments),
        measure_decoding((500, 375), arguments.images, arguments.decoding_rounds),
        measure_decoding((2000, 1500), max(1, arguments.images // 10), arguments.decoding_rounds),
    ]
    rows = [row for part in parts for row in part["rows"]]
    times = {name: seconds for part in parts for name, seconds in part["times_s"].items()}
    result = {
        "environment": environment("cpu", arguments.threads, ("torchvision", "pillow")),
        "settings": vars(arguments),
        "rows": rows,
        "times_s": times,
    }
    path = write(result, arguments.name or f"{result['environment']['date']}-data-cpu")
    show(rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
