"""What the device runs."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays


class Kernel(Protocol):
    """Evaluates batches."""

    evaluation: str
    backward: bool

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return the results of each row of the batch."""
        ...
