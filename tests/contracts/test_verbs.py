"""The contract of every verb: registering one, here or in a plug-in file, adds it here."""

import inspect
import io
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import get_args, get_type_hints
from unittest import mock

import pytest
import typer

from flatbit.cli import COMMANDS, app, main
from flatbit.cli.spelling import BY_VERB, EVERYWHERE


def functions():
    """The function of every verb, and of the verbs of verbs (``ledger show``), by its words."""
    found = {}
    for name in COMMANDS.names():
        verb = COMMANDS.get(name)
        several = verb.registered_commands if isinstance(verb, typer.Typer) else ()
        found |= {f"{name} {each.name}": each.callback for each in several} or {name: verb}
    return found


VERBS = functions()
LEFT_OUT = {"ledger show": "ledger"}
"""Verbs of verbs that need not be said."""
every_verb = pytest.mark.parametrize("verb", VERBS)


@cache
def commands():
    """Every verb as the command line knows it."""
    known = {}
    for name, command in typer.main.get_command(app()).commands.items():
        several = getattr(command, "commands", {})
        known |= {f"{name} {word}": each for word, each in several.items()} or {name: command}
    return known


def names_of(parameter):
    """All spellings of an option."""
    return {*parameter.opts, *parameter.secondary_opts}


def options_of(verb):
    return [p for p in commands()[verb].params if p.param_type_name == "option"]


def meanings(verb):
    """What each option is to its user, by each of its names: its type and all that typer is told, its default aside."""
    hints = get_type_hints(VERBS[verb], include_extras=True)
    found = {}
    for option in options_of(verb):
        if option.name in hints:
            hint = hints[option.name]
            kind, *told = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
            known = {key: value for each in told for key, value in vars(each).items() if key != "default"}
            found |= dict.fromkeys(names_of(option), (names_of(option), kind, known))
    return found


def called(*words):
    """Status, standard output and standard error of a call."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", ["flatbit", *words[0].split(), *words[1:]])
    with argv, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, out.getvalue(), err.getvalue()


@every_verb
def test_it_says_what_it_does_in_one_line_and_how_it_is_called(verb):
    text = inspect.getdoc(VERBS[verb]) or ""
    assert re.match(r"[A-Z].*[.]$", text.split("\n\n")[0].replace("\n", " ")), text
    examples = re.findall(r"^`(.+)`$", text, re.MULTILINE)
    assert examples, f"{verb}: no example on a line of its own"
    for example in examples:
        assert f"{example} ".startswith((f"flatbit {verb} ", f"flatbit {LEFT_OUT.get(verb, verb)} "))


@every_verb
def test_its_examples_are_spelled_as_its_options_are(verb):
    known = {name for option in options_of(verb) for name in names_of(option)}
    for example in re.findall(r"^`flatbit (.+)`$", inspect.getdoc(VERBS[verb]) or "", re.MULTILINE):
        used = {word.partition("=")[0] for word in shlex.split(example) if re.match(r"--?[a-z]", word)}
        assert used <= known, example


@every_verb
def test_help_is_there_and_names_every_option(verb):
    status, out, err = called(verb, "--help")
    assert (status, err) == (0, "")
    for option in options_of(verb):
        assert any(name[:15] in out for name in names_of(option)), option.name


@every_verb
def test_it_prints_json_and_every_parameter_says_what_it_is(verb):
    assert "--json" in {name for option in options_of(verb) for name in names_of(option)}
    for parameter in commands()[verb].params:
        assert parameter.help, f"{verb} {parameter.name}: no help"


@every_verb
def test_a_flag_that_is_off_needs_no_second_name(verb):
    for option in options_of(verb):
        assert option.default is not False or not option.secondary_opts, option.name


@every_verb
def test_an_option_means_what_it_means_in_every_other_verb(verb):
    """The same names, type and help; only defaults differ."""
    mine = meanings(verb)
    assert "--json" in mine
    for other in VERBS:
        theirs = meanings(other)
        for name in mine.keys() & theirs.keys():
            assert mine[name] == theirs[name], f"{name} of {verb} and {other}"


@every_verb
@pytest.mark.parametrize("word", ["--no-such-option", "--no-such-option=1"])
def test_an_unknown_option_is_the_callers_mistake(verb, word):
    status, out, err = called(verb, word)
    assert (status, out) == (2, "")
    assert "--no-such-option" in err
    assert f"flatbit {verb} --help" in err


@every_verb
def test_nothing_is_spelled_in_the_old_way(verb):
    old = EVERYWHERE | BY_VERB.get(verb.split()[0], {})
    known = {name for option in options_of(verb) for name in names_of(option)}
    assert not known & set(old)
    text = inspect.getdoc(VERBS[verb]) or ""
    helps = " ".join(filter(None, (parameter.help for parameter in commands()[verb].params)))
    assert not set(re.findall(r"--[a-z-]+", f"{text} {helps}")) & set(old)
    for option, new in old.items():
        status, out, err = called(verb, option, "x")
        assert (status, out, err) == (2, "", f"flatbit: {option} is {new} now\n")
