"""What differs between the versions of torch that a server runs with, 2.11 to 2.13: it is said here and nowhere else.

The format of `.pt2` files grows by small steps: a file that one of these versions wrote is read by each of the others
as long as it holds nothing that the reader's format has no name for. What it does hold of that kind is refused, by
whatever reads it, with the version to export with.
"""

from collections.abc import Mapping

import torch
from torch._export.serde import schema

VERSION = ".".join(torch.__version__.split(".")[:2])
"""Of the torch that runs: "2.13"."""

_SCALARS: Mapping[str, torch.dtype] = {
    "BYTE": torch.uint8,
    "CHAR": torch.int8,
    "BOOL": torch.bool,
    "SHORT": torch.int16,
    "HALF": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "UINT16": torch.uint16,
    "INT": torch.int32,
    "FLOAT": torch.float32,
    "UINT32": torch.uint32,
    "LONG": torch.int64,
    "DOUBLE": torch.float64,
    "UINT64": torch.uint64,
    "COMPLEXFLOAT": torch.complex64,
    "COMPLEXDOUBLE": torch.complex128,
}

DTYPES: Mapping[int, torch.dtype] = {
    schema.ScalarType[name]: dtype for name, dtype in _SCALARS.items() if name in schema.ScalarType.__members__
}
"""Types of numbers by the format's code. UINT32 and UINT64 have none before 2.13; torch does not export them there."""
