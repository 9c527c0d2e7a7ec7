from .cases import exported


def test_its_name_is_of_net_and_form():
    assert exported().name == "qdq"
    assert exported(stage="float").name == "float/qdq"


def test_its_settings_in_words():
    assert exported().settings == ""
    assert exported(container="int8").settings == "container int8"
    assert exported(form="integer", pixels=True).settings == "takes pixels"
