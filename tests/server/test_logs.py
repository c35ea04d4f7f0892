import json
import logging

from pellucid_server.logs import JsonFormatter, TextFormatter


def record(**fields):
    made = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "request", (), None)
    made.fields = fields
    return made


def test_text_lines_quote_what_could_be_taken_for_more_fields():
    line = TextFormatter().format(record(id="x", error="a\nb code=OK", rows=3))

    assert line.endswith('INFO a.b request id=x error="a\\nb code=OK" rows=3')


def test_json_lines_are_objects_with_the_fields():
    entry = json.loads(JsonFormatter().format(record(id="x", seconds=0.5)))

    assert (entry["message"], entry["level"], entry["id"], entry["seconds"]) == ("request", "info", "x", 0.5)
