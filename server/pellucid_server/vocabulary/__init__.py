"""What crosses from the protobuf edge to the engine and back: frozen dataclasses of plain values and numpy arrays.

`pellucid_server.wire` turns every class of this package into bytes and back by its fields, so a field's
type is one of: None, bool, int, float, str, bytes, numpy array, tuple, dict with string keys, or
another class of this package. Absent is None or empty, as each field says.
"""
