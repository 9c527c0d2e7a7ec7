from flatbit.search.measures.rise import rise_of_loss
from flatbit.search.measures.uphill import rise_uphill

from ..cases import probe_of


def test_uphill_of_it_the_loss_is_higher(trained):
    model, batches, choices = trained
    probe = probe_of(model, batches)
    for choice in choices.choices:
        assert rise_uphill(probe, choice, 8) > rise_of_loss(probe, choice, 8)
