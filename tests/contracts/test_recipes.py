"""The contract of every recipe: registering one, here or in a plug-in file, adds it here. Nothing is trained."""

import inspect
import json
import typing
from dataclasses import is_dataclass
from functools import cache

import pytest

from flatbit import plain
from flatbit.cli.verbs.list import Kind, list_names
from flatbit.engine.recipe import Recipe, Stage
from flatbit.recipes import RECIPES
from flatbit.settings import OFF, part_of

from .recipe_cases import SITUATIONS, is_off, made, needed, others, settings_of, unchecked

MOST_PARAMETERS = 8
every_recipe = pytest.mark.parametrize("name", RECIPES.names())


def outcome(build, name, given):
    """The stages, or the error that refuses the settings; no other error is one."""
    try:
        return build(name, given)
    except ValueError as error:
        return error


@cache
def set_alone(name, place):
    """What becomes of the recipe with each other value of one setting."""
    return [(value, outcome(made, name, {place: value})) for value in others(name, place)]


def refused(found):
    return isinstance(found, ValueError)


# The function


@every_recipe
def test_its_function_has_at_most_8_parameters_by_keyword_and_annotated(name):
    function = RECIPES.get(name).stages
    parameters = inspect.signature(function).parameters.values()
    hints = typing.get_type_hints(function)
    assert 1 <= len(parameters) <= MOST_PARAMETERS
    assert {parameter.name for parameter in parameters} <= hints.keys()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    assert inspect.getdoc(function)


@every_recipe
def test_its_parts_are_frozen_dataclasses_that_say_what_they_are(name):
    parts = [part for kind, _ in settings_of(name).values() if (part := part_of(kind)) is not None]
    for part in parts:
        assert is_dataclass(part)
        assert part.__dataclass_params__.frozen
        assert not part.__doc__.startswith(f"{part.__name__}(")  # what a dataclass says of itself


# What it makes


@every_recipe
def test_by_default_it_gives_stages_and_its_record_reads_back_equal(name):
    recipe = RECIPES.get(name).recipe(name, {})
    assert recipe.name == name
    assert recipe.stages
    assert all(isinstance(stage, Stage) for stage in recipe.stages)
    written = json.loads(json.dumps(plain.to_plain(recipe)))
    assert plain.from_plain(Recipe, written) == recipe


@every_recipe
def test_the_same_settings_give_the_same_stages(name):
    assert made(name, {}) == made(name, {})


@every_recipe
def test_whatever_is_set_its_stages_read_back_equal(name):
    seen = list(made(name, {}))
    for place in settings_of(name):
        for value, stages in set_alone(name, place):
            new = [] if refused(stages) else [stage for stage in stages if stage not in seen]
            seen += new
            for stage in new:
                written = json.loads(json.dumps(plain.to_plain(stage)))
                assert plain.from_plain(Stage, written) == stage, (place, value)


# No setting without effect


@every_recipe
def test_no_setting_is_silently_without_effect(name):
    """What is set acts, or is refused in words; or says the default in other words, where yet others act."""
    default = made(name, {})
    for place in settings_of(name):
        found = set_alone(name, place)
        acts = any(refused(stages) or stages != default for _, stages in found)
        for value, stages in found:
            if refused(stages):
                words = (*place.split("."), str(value), "lacks")
                assert any(word in str(stages) for word in words), (place, value, stages)
            else:
                assert stages != default or acts, (place, value)


@every_recipe
def test_every_setting_acts_somewhere(name):
    """Under some other settings two values of it give different stages, or one is refused."""
    for place, (kind, _) in settings_of(name).items():
        if (part := part_of(kind)) is not None and plain.fields_of(part):
            continue  # it acts by its fields
        assert any(acts_in(name, place, situation) for situation in situations(name, place)), place


def situations(name, place):
    """Settings beside one: none, those that we know to matter, then any other setting's other values."""
    known = settings_of(name)
    yield from ({key: value for key, value in situation.items() if key in known} for situation in SITUATIONS)
    for other in known:
        if not place.startswith(f"{other}.") and not other.startswith(f"{place}.") and other != place:
            yield from ({other: value} for value in others(name, other))


def acts_in(name, place, situation):
    """Whether a setting's values make a difference there, or some are refused for what they are."""
    situation = situation | needed(name, place)
    before = outcome(unchecked, name, situation)
    found = [outcome(unchecked, name, situation | {place: value}) for value in others(name, place)]
    if not refused(before) and any(refused(stages) and "cannot act" not in str(stages) for stages in found):
        return True
    if not is_off(name, place):  # else that it turns the part on is no effect of its own
        found.append(before)
    made_of_it = [stages for stages in found if not refused(stages)]
    return any(stages != made_of_it[0] for stages in made_of_it)


@every_recipe
def test_a_field_of_a_part_that_is_left_out_is_refused(name):
    known = settings_of(name)
    for place, (kind, _) in known.items():
        if part_of(kind) is None or type(None) not in plain.members(kind):
            continue
        for field in (other for other in known if other.startswith(f"{place}.")):
            for value in others(name, field)[:1]:
                with pytest.raises(ValueError, match=rf"{place}={OFF} leaves that part out: {field} cannot act"):
                    made(name, {place: OFF, field: value})


@every_recipe
def test_what_it_is_by_default_may_be_said_where_it_acts(name):
    default = made(name, {})
    for place, (_, value) in settings_of(name).items():
        if is_off(name, place):
            continue
        said = outcome(made, name, {place: value})
        if refused(said):
            assert "cannot act" in str(said), (place, value, said)
            assert not acts_in(name, place, {}), (place, value, said)
        else:
            assert said == default, (place, value)


@every_recipe
@pytest.mark.parametrize("place", ["no_such_setting", "no_such.setting"])
def test_an_unknown_setting_is_refused(name, place):
    with pytest.raises(ValueError, match=f"recipe '{name}': no setting '{place}'"):
        made(name, {place: 1})


# What is said of it


@every_recipe
def test_the_command_line_lists_every_setting(name, capsys):
    list_names(Kind.RECIPES, name, json=True)
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(settings_of(name))
    assert all(row["takes"] for row in rows.values())
    list_names(Kind.RECIPES, name)
    shown = capsys.readouterr().out
    assert all(f" {place} " in shown for place in settings_of(name))
