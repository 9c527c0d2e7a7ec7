import torch

from flatbit.quant.switched import as_float


def test_as_float_is_the_float_network(net, images, quantized):
    expected = net(images)
    quantized(net)
    assert not torch.equal(net(images), expected)
    with as_float(net):
        assert torch.equal(net(images), expected)
        with as_float(net):
            pass
        assert torch.equal(net(images), expected)  # the inner one does not switch on what the outer switched off
    assert not torch.equal(net(images), expected)
