import pytest

import flatbit as fb
from flatbit.export.executor import integer_network
from flatbit.shipped import FOLDER, trained, trained_names, trained_record


@pytest.mark.parametrize("name", trained_names())
def test_a_net_that_comes_along_scores_what_its_record_says(name):
    net, record = trained(name), trained_record(name)
    data = fb.data.load(record["data"])
    metrics = fb.evaluate(net, data.test_batches())
    assert metrics.top1 == pytest.approx(record["top1"])
    assert metrics.num_samples == record["num_images"]
    assert metrics.convention.inner == record["bits"]
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 100_000


def test_one_of_them_runs_in_integers():
    data = fb.data.load("digits")
    batches = list(data.test_batches(50))[:1]
    found = fb.export.verify(
        trained("digits-uniq-w2a2"), integer_network(trained("digits-uniq-w2a2"), data.image_shape), batches
    )
    assert found.changed == ()


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"no trained net 'digits-w2'.*digits-uniq-w2a2"):
        trained("digits-w2")
