"""Which results of a graph are one tensor, and which may lie in the same memory: what in-place operations change."""

from __future__ import annotations

from torch import fx


class Memory:
    """Of the results so far, by the node that computes them."""

    def __init__(self) -> None:
        self._tensor: dict[fx.Node, fx.Node] = {}
        self._place: dict[fx.Node, fx.Node] = {}

    def new(self, node: fx.Node) -> None:
        """A tensor of its own."""
        self._tensor[node] = self._place[node] = node

    def same(self, node: fx.Node, source: fx.Node) -> None:
        """The source's tensor itself: an identity, or what was computed in place."""
        self._tensor[node], self._place[node] = self._tensor[source], self._place[source]

    def view(self, node: fx.Node, source: fx.Node) -> None:
        """Another tensor that may lie in the source's memory."""
        self._tensor[node], self._place[node] = node, self._place[source]

    def names_of(self, node: fx.Node) -> list[fx.Node]:
        """Every node that gives this node's tensor, itself among them."""
        return [other for other, tensor in self._tensor.items() if tensor is self._tensor[node]]

    def neighbours(self, node: fx.Node) -> list[fx.Node]:
        """Every node of another tensor that may lie in this node's memory."""
        shared = [other for other, place in self._place.items() if place is self._place[node]]
        return [other for other in shared if self._tensor[other] is not self._tensor[node]]
