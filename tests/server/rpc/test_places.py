"""Paths of fields in the log: the schema's words, numbers, and names that are served."""

import pytest
from pellucid_server.rpc.places import served_names, shown
from server.rpc.conftest import HELLO

NAMES = served_names(HELLO)


def test_names_that_are_served_are_those_of_inputs_columns_outputs_and_parameters():
    assert {"row", "picture", "width", "colour", "kind", "window", "fill", "mask"} == NAMES
    assert served_names(None) == frozenset()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "top_k",
        "explanation.target.outcome.label",
        "explanations[0].baseline.blur_sigma",
        'inputs["row"].table.rows[12].cells["width"].number',
        'explanation.baseline.inputs["picture"].pictures.encoded[3]',
        'explanation.parameters["window"].tensor.shape',
        'metadata["width"]',
    ],
)
def test_a_path_of_the_schema_is_shown_as_it_is(path):
    assert shown(path, NAMES) == path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ('inputs["Smith"]', 'inputs["…"]'),
        ('inputs["row"].table.rows[0].cells["Smith"].number', 'inputs["row"].table.rows[0].cells["…"].number'),
        ('inputs["row"].table.rows[0].cells["a"] is Smith"]', 'inputs["row"].table.rows[0].cells["…"]["…"]'),
        ('cells["width"].smith"]', 'cells["width"]["…"]'),
        ('cells["a\nSmith"]', 'cells["…"]'),
        ('cells["Smith', 'cells["…"]'),
        ("Smith", '["…"]'),
        ("rows[86420135864]", 'rows["…"]'),
        ('cells[""]', 'cells["…"]'),
    ],
)
def test_what_a_caller_chose_is_hidden(path, expected):
    assert shown(path, NAMES) == expected


def test_a_path_of_any_length_is_short_in_the_log():
    assert len(shown("inputs" * 100_000, NAMES)) < 300
    assert len(shown('inputs["row"]' * 100_000, NAMES)) <= 300
