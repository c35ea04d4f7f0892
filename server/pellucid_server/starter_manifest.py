"""Writes the `model.toml` that a newly exported model starts with: what is known, and suggestions for the rest."""

import json
from collections.abc import Sequence

from pellucid_server.engine.models.graph.graph import GraphValue

_HEAD = """\
# What the model's numbers mean, and how it is served. The lines behind "#" are suggestions.
description = {description}
# runtime = "auto"                # auto | graph | onnxruntime
# background = "background.npz"   # an array for each input, (rows, *features), after preprocessing
# solo = false                    # true: rows of different requests never share a batch
"""

_INPUT = """
[[inputs]]
name = {name}
modality = "tensor"               # tensor | image | tabular; takes {data_type}, {shape}
"""

_PICTURE = """\
# modality = "image" takes pictures as well, and makes them ready like this:
# resize = {resize}                    # length of the short side, in pixels
# crop = [{height}, {width}]               # height and width, in pixels
# interpolation = "bilinear"      # nearest | bilinear | bicubic | lanczos
# mean = {mean}        # on 0..255, for each channel
# standard_deviation = {deviation}
"""

_TABLE = """\
# modality = "tabular" takes named columns, {columns} numbers in all; one [[inputs.columns]] for each column:
# [[inputs.columns]]
# name = "age"
# unit = "years"
# mean = 38.6                     # subtracted before the model sees the column
# standard_deviation = 13.6       # divided by
# minimum = 17
# maximum = 90
# [[inputs.columns]]
# name = "employer"
# categories = ["private", "state", "self"]   # one-hot: a number for each
"""

_OUTPUT = """
[[outputs]]
name = {name}
kind = "values"                   # logits | sigmoid-logits | probabilities | values; gives {data_type}, {shape}
# labels_file = "labels.txt"      # a label a line; or labels = ["cat", "dog"]
"""


def starter_manifest(description: str, inputs: Sequence[GraphValue], outputs: Sequence[GraphValue]) -> str:
    """Return a `model.toml` for a model's inputs and outputs: plain tensors in, plain values out."""
    parts = [_HEAD.format(description=_quoted(description))]
    for value in inputs:
        parts += [_INPUT.format(**_described(value)), _suggestion(value)]
    parts += [_OUTPUT.format(**_described(value)) for value in outputs]
    return "".join(parts)


def _described(value: GraphValue) -> dict[str, str]:
    lengths = ["rows", *("any" if length is None else str(length) for length in value.shape)]
    data_type = str(value.dtype).removeprefix("torch.")
    return {"name": _quoted(value.name), "data_type": data_type, "shape": f"({', '.join(lengths)})"}


def _suggestion(value: GraphValue) -> str:
    match value.shape:
        case (1 | 3 as channels, int() as height, int() as width) if value.dtype.is_floating_point:
            resize, middle = round(min(height, width) * 8 / 7), [127.5] * channels
            return _PICTURE.format(resize=resize, height=height, width=width, mean=middle, deviation=middle)
        case (int() as columns,) if value.dtype.is_floating_point:
            return _TABLE.format(columns=columns)
    return ""


def _quoted(text: str) -> str:
    """Quote a text as TOML does, which is as JSON does but for the characters beyond 16 bits."""
    return json.dumps(text, ensure_ascii=False)
