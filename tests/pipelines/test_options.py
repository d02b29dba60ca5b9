"""`--option NAME=VALUE`: every option of every task can be given every value of its type."""

import dataclasses
import json
import typing

import pytest

from bigbird.errors import InputError
from bigbird.predictors import OPTIONS
from pipelines.scoring.checks import parse_options

# By type, what is typed and what it is.
VALUES = {
    int: [("3", 3)],
    float: [("0.5", 0.5), ("1e-3", 1e-3)],
    bool: [("true", True), ("False", False)],
    str: [("none of {}", "none of {}")],
    tuple[str, ...]: [("O,MISC", ("O", "MISC")), ('["a,b", "[c]"]', ("a,b", "[c]")), ("", ())],
    tuple[int, ...]: [("7,8", (7, 8)), ("[7]", (7,))],
    tuple[tuple[int, ...], ...]: [("[[1, 2], [3]]", ((1, 2), (3,)))],
    tuple[tuple[int, float], ...]: [("[[7, 1.5], [8, -2]]", ((7, 1.5), (8, -2.0)))],
}
FIELDS = [
    pytest.param(kind, field.name, typing.get_type_hints(kind)[field.name], id=f"{task} {field.name}")
    for task, kind in OPTIONS.items()
    for field in dataclasses.fields(kind)
]


@pytest.mark.parametrize(("kind", "name", "hint"), FIELDS)
def test_each_value_of_an_option_is_read_as_it_is(kind, name, hint, monkeypatch):
    monkeypatch.setattr(kind, "__post_init__", lambda self: None)  # what goes together is not what is asked here
    optional = type(None) in typing.get_args(hint)
    (inner,) = [part for part in typing.get_args(hint) if part is not type(None)] if optional else [hint]
    literal = typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
    values = [(choice, choice) for choice in literal] or VALUES[inner]
    if optional and "none" not in literal:
        values = [*values, ("none", None), ("None", None)]
    for text, value in values:
        assert getattr(parse_options(kind, [f"{name}={text}"]), name) == value


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("token-classification", "aggregation_strategy=None"),
        ("text-classification", "function_to_apply=tanh"),
        ("fill-mask", "top_k=3.5"),
        ("fill-mask", "return_sequence=1"),
        ("text-generation", "eos_token_ids=[1,"),
        ("text-generation", "bad_words_ids=1,x"),
        ("text-generation", "logit_bias=[[7, 1.5, 2]]"),
        ("text-generation", "nothing"),
    ],
)
def test_what_is_no_value_of_an_option_is_refused_by_name(task, given):
    with pytest.raises(InputError, match=given.partition("=")[0]):
        parse_options(OPTIONS[task], [given])


def test_none_among_the_values_of_an_option_is_told_from_not_given():
    options = parse_options(OPTIONS["token-classification"], ["aggregation_strategy=none"])
    assert json.loads(json.dumps(dataclasses.asdict(options)))["aggregation_strategy"] == "none"
    options = parse_options(OPTIONS["text-classification"], ["function_to_apply=none", "top_k=none"])
    assert (options.function_to_apply, options.top_k) == ("none", None)
