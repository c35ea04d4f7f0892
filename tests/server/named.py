"""Findings of one array, as bodies of parts."""

from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray


def one_array(name, array):
    """Return findings of one array."""
    axes = tuple(Axis(f"axis {number}") for number in range(array.ndim))
    return Findings(arrays={name: NamedArray(array, axes)})
