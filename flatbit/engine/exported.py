"""Exported files, as the record of their run keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from .environment import Environment


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file that a net of a run was exported to, and what it computes beside the model.

    Attributes:
        file: where it was put, from the run's folder where it is in there.
        form: packed, qdq, integer or qonnx.
        stage: whose net it is; "" for the run's own.
        container: of qdq, where it was given.
        pixels: whether it takes uint8 pixels.
        sha256: of the file.
        file_bytes, float_bytes: of it, and of the tensors of a float file.
        data: the set whose test images both saw, ``num_images`` of them.
        top1, top1_model: percent of labels that the file and the model find.
        num_changed: images whose class differs, ``changed`` their numbers (the first hundred), and ``most_changed`` the
            share that was allowed.
        largest: the largest difference of a logit, at ``largest_at``: image, then the logit's place.
        tied: of the integer network, images in which a value at a tie was rounded the other way; None of other forms.
        off, bound: the largest difference of a logit for the model's own codes, and what float32 and shifts allow.
        environment: where it was made and run.
        finished: when, in UTC.
    """

    file: str
    form: str
    stage: str = ""
    container: str | None = None
    pixels: bool = False
    sha256: str
    file_bytes: int
    float_bytes: int
    data: str
    num_images: int
    top1: float
    top1_model: float
    num_changed: int
    most_changed: float
    largest: float
    largest_at: tuple[int, ...]
    changed: tuple[int, ...] = ()
    tied: int | None = None
    off: float | None = None
    bound: float | None = None
    environment: Environment
    finished: str

    @property
    def name(self) -> str:
        """Of its net and form, by which a record holds it: ``qdq``, or ``float/qdq`` of a stage."""
        return f"{self.stage}/{self.form}" if self.stage else self.form

    @property
    def settings(self) -> str:
        """What it was told beside its form, in words; "" for nothing."""
        container = f"container {self.container}" if self.container else ""
        return ", ".join(filter(None, (container, "takes pixels" if self.pixels else "")))
