from flatbit.data.class_names import CIFAR10, CIFAR100


def test_cifar100_has_a_hundred_names_in_alphabetical_order():
    assert len(set(CIFAR100)) == len(CIFAR100) == 100
    assert list(CIFAR100) == sorted(CIFAR100)
    assert (CIFAR100[0], CIFAR100[49], CIFAR100[99]) == ("apple", "mountain", "worm")


def test_cifar10_has_ten_in_the_order_of_its_labels():
    assert len(set(CIFAR10)) == len(CIFAR10) == 10
    assert (CIFAR10[0], CIFAR10[3], CIFAR10[9]) == ("airplane", "cat", "truck")
