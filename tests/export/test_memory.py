import operator

from torch import fx

from flatbit.export.memory import Memory


def nodes(count):
    graph = fx.Graph()
    x = graph.placeholder("x")
    return [x] + [graph.call_function(operator.add, (x, i)) for i in range(count - 1)]


def test_an_identity_is_the_tensor_and_a_view_its_neighbour():
    x, same, view, other = nodes(4)
    memory = Memory()
    memory.new(x)
    memory.new(other)
    memory.same(same, x)
    memory.view(view, same)
    assert memory.names_of(x) == memory.names_of(same) == [x, same]
    assert memory.neighbours(x) == [view]
    assert memory.neighbours(view) == [x, same]
    assert memory.neighbours(other) == []


def test_a_view_of_a_view_is_a_neighbour_of_both():
    x, view, second = nodes(3)
    memory = Memory()
    memory.new(x)
    memory.view(view, x)
    memory.view(second, view)
    assert memory.neighbours(second) == [x, view]
    assert memory.names_of(second) == [second]
