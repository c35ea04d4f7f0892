"""Paths of fields as the log may have them: of the schema's words, of numbers, and of names that are served.

A path such as `inputs["features"].table.rows[0].cells["Smith"]` holds keys that a caller has chosen: a table without
its header line has a row's values for column names.
"""

import re
from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor, FileDescriptor
from pellucid.v1 import (
    explanation_pb2,
    explanation_service_pb2,
    input_pb2,
    model_service_pb2,
    tensor_pb2,
)

from pellucid_server.vocabulary.messages import Hello

_LENGTH = 200
_MOST_READ = 2000
_HIDDEN = '["…"]'
_PART = re.compile(r'\.?(?P<word>[a-z][a-z0-9_]*)|\[(?P<number>[0-9]{1,9})\]|\["(?P<key>.*?)"\]', re.DOTALL)
_FILES = (explanation_pb2, explanation_service_pb2, input_pb2, model_service_pb2, tensor_pb2)


def served_names(hello: Hello | None) -> frozenset[str]:
    """Return the names that a path may show: of inputs, columns, outputs and parameters of what is served."""
    if hello is None:
        return frozenset()
    names: set[str] = set()
    for model in hello.models:
        names.update(output.name for output in model.outputs)
        for each in model.inputs:
            names.add(each.name)
            names.update(column.name for column in each.columns)
    for method in hello.methods:
        names.update(each.name for each in method.parameters)
    return frozenset(names)


def shown(path: str, names: frozenset[str]) -> str:
    """Return a field's path with `…` for each key that is not in `names`, and for all behind what is no path.

    Every part of what is returned is a field of the schema, a number of a repeated field or one of `names`.
    """
    found: list[str] = []
    at = 0
    path = path[:_MOST_READ]
    while at < len(path):
        part = _PART.match(path, at)
        if part is None or (part["word"] is not None and part["word"] not in _WORDS):
            found.append(_HIDDEN)
            break
        hidden = part["key"] is not None and part["key"] not in names
        found.append(_HIDDEN if hidden else part[0])
        at = part.end()
    return "".join(found)[:_LENGTH]


def _fields(messages: Iterable[Descriptor]) -> Iterable[str]:
    for message in messages:
        yield from (field.name for field in message.fields)
        yield from _fields(message.nested_types)


def _words(file: FileDescriptor) -> Iterable[str]:
    return _fields(file.message_types_by_name.values())


_WORDS = frozenset({"metadata", *(word for each in _FILES for word in _words(each.DESCRIPTOR))})
