"""Findings of every shape for round trips, and what the client must make of them."""

import struct
import zlib

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from pellucid_server.vocabulary import requests, results
from pellucid_server.vocabulary.findings import DATA_TYPES, Axis, Column, Findings, NamedArray, Picture, Table

RECEIPT = results.Receipt(
    requests.ModelKey("m", 3, "ab"), "cd", results.Runtime("graph", "", "cpu", "float32", {}), results.Work(1, 2)
)
NAMES = st.text(min_size=1, max_size=6)
TEXTS = st.text(max_size=8)


def png(width, height):
    """Write a grey picture, by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def numbers(dtype, shape, *, nan=False):
    """Make arrays of finite numbers, or of NaN among them."""
    elements = {"allow_nan": nan, "allow_infinity": False} if dtype.kind == "f" else {}
    return numpy_st.arrays(dtype, shape, elements=numpy_st.from_dtype(dtype, **elements))


@st.composite
def arrays(draw):
    """Make named arrays: empty ones and single values as well."""
    dtype = draw(st.sampled_from(sorted(DATA_TYPES, key=str)))
    shape = draw(numpy_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    names = draw(st.lists(NAMES, min_size=len(shape), max_size=len(shape), unique=True))
    axes = tuple(draw(axes_of(name, length)) for name, length in zip(names, shape, strict=True))
    missing = draw(st.booleans())
    return NamedArray(draw(numbers(dtype, shape, nan=missing)), axes, draw(TEXTS), draw(TEXTS), missing)


@st.composite
def axes_of(draw, name, length):
    """Make an axis with labels, with coordinates or with neither."""
    kind = draw(st.sampled_from(["labels", "coordinates", "neither"]))
    if kind == "labels":
        return Axis(name, tuple(draw(st.lists(TEXTS, min_size=length, max_size=length))))
    if kind == "coordinates":
        return Axis(name, (), draw(numbers(np.dtype(np.float64), (length,))), draw(TEXTS))
    return Axis(name)


@st.composite
def columns(draw, rows):
    """Make columns of each kind, with and without missing values."""
    kind = draw(st.sampled_from(["text", "f8", "i8", "?"]))
    missing = draw(st.none() | numpy_st.arrays(np.bool_, (rows,)))
    if kind == "text":
        texts = draw(st.lists(TEXTS, min_size=rows, max_size=rows))
        filled = texts if missing is None else ["" if none else text for text, none in zip(texts, missing, strict=True)]
        return Column(tuple(filled), missing, draw(TEXTS), draw(TEXTS))
    values = draw(numbers(np.dtype(kind), (rows,)))
    if missing is not None:
        values[missing] = 0
    return Column(values, missing, draw(TEXTS), draw(TEXTS))


@st.composite
def tables(draw):
    """Make tables, without rows or columns as well."""
    rows = draw(st.integers(0, 3))
    return Table(draw(st.dictionaries(NAMES, columns(rows), max_size=3)), draw(TEXTS))


@st.composite
def pictures(draw):
    """Make small pictures."""
    width, height = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Picture(png(width, height), width, height, draw(NAMES))


ACCURACIES = st.builds(
    results.Accuracy,
    signed_gap=st.none() | st.floats(-1, 1),
    absolute_gap=st.none() | st.floats(0, 1),
    tolerance=st.none() | st.floats(0, 1),
    absolute_tolerance=st.none() | st.floats(0, 1),
    tolerance_met=st.none() | st.booleans(),
    standard_error=st.none() | st.floats(0, 1),
    partial=st.booleans(),
)
PARAMETERS = st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | TEXTS
FINDINGS = st.builds(
    Findings,
    arrays=st.dictionaries(NAMES, arrays(), max_size=2),
    tables=st.dictionaries(NAMES, tables(), max_size=2),
    pictures=st.dictionaries(NAMES, pictures(), max_size=1),
    accuracy=st.none() | ACCURACIES,
    warnings=st.lists(TEXTS, max_size=2).map(tuple),
    resolved=st.dictionaries(NAMES, PARAMETERS, max_size=2),
    receipt=st.none() | st.just(RECEIPT),
)
