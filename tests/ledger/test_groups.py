"""The queue's groups: of experiments that there are, in the agreed order, found by what people call them."""

import pytest

from flatbit.ledger.experiments import experiments
from flatbit.ledger.groups import chosen, groups

ORDER = [
    ("saq/resnet20-float",),
    ("saq/resnet20-sgd-4", "saq/resnet20-sam-4", "saq/resnet20-saq-4"),
    ("saq/resnet20-sgd-2", "saq/resnet20-sam-2", "saq/resnet20-saq-2"),
    ("sqwa/t2-late", "sqwa/t2-early"),
    ("uniq/t4-lsq-2", "uniq/t4-uniq-2"),
    ("saq/resnet20-sgd-3", "saq/resnet20-saq-3"),
    ("saq/resnet20-asaq-2",),
    ("uniq/t5-0.1-2", "uniq/t5-lsq-2"),
    ("uniq/t6-adam-warm5", "uniq/t6-sgd-0.01"),
    ("sqwa/t3-binary",),
    ("hol/t4-resnet20", "hol/f6-width2"),
    ("crossed/all",),
]
"""What the groups on CIFAR begin with, and what is compared stands in one of them."""


def names(found):
    return [group.name for group in found]


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.name)
def test_it_asks_for_experiments_that_there_are_each_once(group):
    assert {*group.experiments} <= {*experiments()}
    assert len({*group.experiments}) == len(group.experiments) > 0
    assert [entry.name for entry in group.asked()] == [*group.experiments]
    assert group.seeds >= 1
    assert group.device in ("", "cpu")
    assert group.why


def test_the_groups_on_cifar_come_in_the_agreed_order():
    order = [next(i for i, g in enumerate(groups()) if {*asked} <= {*g.experiments}) for asked in ORDER]
    assert order == sorted(order)
    assert len({*order}) == len(order)


def test_what_more_seeds_are_asked_of_was_asked_of_before_with_one():
    before = set()
    for group in groups():
        if group.seeds == 3:
            assert {*group.experiments} <= before, group.name
        before |= {*group.experiments}


def test_small_nets_come_first_on_a_cpu_and_not_at_all_elsewhere():
    assert names(chosen([], "cpu")) == names(groups())
    assert names(chosen([], "cpu"))[0] == "spirals"
    on_gpu = names(chosen([], "cuda:0"))
    assert on_gpu[0] == "saq-float"
    assert on_gpu == [group.name for group in groups() if not group.device]


def test_groups_are_chosen_by_paper_table_and_name():
    assert names(chosen(["UNIQ/T5"], "cpu")) == ["uniq-lsq", "uniq-start", "uniq-seeds"]
    assert names(chosen(["hol/fig3"], "cpu")) == ["spirals-residual"]
    assert {"saq-float", "saq-w4a4", "asaq", "saq-mobilenet"} <= {*names(chosen(["SAQ"], "cuda"))}
    assert names(chosen(["asaq", "sqwa-binary"], "cpu")) == ["asaq", "sqwa-binary"]
    assert names(chosen(["asaq", "FAQ"], "cpu")) == ["asaq", "faq-cifar"]


def test_what_is_no_group_nor_table_names_the_nearest():
    with pytest.raises(ValueError, match=r"no paper, table or row 'SAQ/T99'"):
        chosen(["SAQ/T99"], "cpu")


def test_where_no_group_is_left_it_says_so():
    with pytest.raises(ValueError, match=r"the queue has no group for HOL/Fig3 on cuda: `flatbit ledger queue` lists"):
        chosen(["HOL/Fig3"], "cuda:1")
    with pytest.raises(ValueError, match=r"no group for UNIQ/T2 on cpu"):
        chosen(["UNIQ/T2"], "cpu")
