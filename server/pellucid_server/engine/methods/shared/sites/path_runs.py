"""The metric had a change reached some layers by some paths only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.sites import SiteQuestion
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.edited import Edit, Edited
from pellucid_server.engine.evaluations.norm_scales import NormScales
from pellucid_server.engine.evaluations.recipes import Picked, Rows
from pellucid_server.engine.methods.shared.sites.site_runs import ChangeSet, SiteRuns

Floats = npt.NDArray[np.float64]

_MOST_BYTES = 32 << 20
"""Bytes of layers' values that one evaluation sends to the device."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths that a change may take.

    Attributes
    ----------
    receivers
        Layers that it is to reach; none for the output.
    frozen
        Layers that are held at the unchanged network's values on its way there.
    norms
        Normalisations whose scale is held there.
    """

    receivers: tuple[str, ...]
    frozen: tuple[str, ...]
    norms: tuple[str, ...] = ()


class PathRuns:
    """Runs the network of a question with changes that reach the receivers with other layers held.

    Source: Goldowsky-Dill, MacLeod, Sato and Arora, "Localizing Model Behavior with Path Patching", 2023.
    """

    def __init__(self, model: Handle, question: SiteQuestion, runs: SiteRuns) -> None:
        self._model = model
        self._question = question
        self._runs = runs
        self._clean: dict[tuple[int, Paths], Arrays] = {}
        self._scales: dict[tuple[int, Paths], Arrays] = {}

    def measure(
        self, row: int, layer: str, sets: Sequence[ChangeSet], paths: Paths, *, progress: tuple[float, float]
    ) -> Floats:
        """Return the metric of a row with each set of changes of a layer, (sets,): the mean over draws.

        Raises
        ------
        InvalidRequestError
            With some of them it is no finite number.
        """
        draws = self._runs.draws(sets)
        total = np.zeros(len(sets))
        everything: list[ChangeSet] = [(), *sets]
        size = self._size(layer, row, paths)
        steps = draws * -(-len(everything) // size)
        step, done = (progress[1] - progress[0]) / steps, 0
        for draw in range(draws):
            found = []
            for start in range(0, len(everything), size):
                # Each begins with the unchanged network, which a divergence is from.
                chosen = [(), *everything[max(start, 1) : start + size]]
                begin = progress[0] + done * step
                found.append(self._metric(row, layer, chosen, draw, paths, (begin, begin + step))[1:])
                done += 1
            scores = np.concatenate(found)
            self._runs.require_finite(np.concatenate([[0.0], scores]), row, sets)
            total += scores
        return total / draws

    def release(self) -> None:
        """Let go of what was kept: the next changes are at another layer."""
        self._clean.clear()
        self._scales.clear()

    def _size(self, layer: str, row: int, paths: Paths) -> int:
        clean = self._unchanged(row, paths)
        others = sum(int(array[0].size) for array in clean.values())
        own = 2 * int(np.prod(self._question.layers[layer].shape))
        return max(1, _MOST_BYTES // (8 * (own + others)))

    def _unchanged(self, row: int, paths: Paths) -> Arrays:
        """Return the values of what is frozen and of the receivers in the unchanged network, (1, *shape) by layer."""
        names = tuple(dict.fromkeys((*paths.frozen, *paths.receivers)))
        if not names:
            return {}
        if (row, paths) not in self._clean:
            # The values of one row are kept: those of many could be large.
            self._clean.clear()
            self._clean[row, paths] = self._model.ask(Capture(Rows(self._one(row)), names)).arrays
        return self._clean[row, paths]

    def _held_scales(self, row: int, paths: Paths) -> Arrays:
        """Return what the norms multiply by in the unchanged network, (1, ..., 1) by name."""
        if not paths.norms:
            return {}
        if (row, paths) not in self._scales:
            self._scales.clear()
            self._scales[row, paths] = self._model.ask(NormScales(Rows(self._one(row)), paths.norms)).arrays
        return self._scales[row, paths]

    def _metric(
        self,
        row: int,
        layer: str,
        sets: Sequence[ChangeSet],
        draw: int,
        paths: Paths,
        progress: tuple[float, float],
    ) -> Floats:
        clean = self._unchanged(row, paths)
        count = len(sets)
        rows = Picked(self._one(row), np.zeros(count, np.int64))
        edits = {name: _set(np.repeat(clean[name], count, axis=0)) for name in paths.frozen}
        edits[layer] = self._runs.edit(layer, sets, row, draw)
        norms = {name: np.repeat(scale, count, axis=0) for name, scale in self._held_scales(row, paths).items()}
        if paths.receivers:
            received = self._model.ask(Edited(rows, edits, capture=paths.receivers, norms=norms)).arrays
            edits, norms = {name: _set(received[name]) for name in paths.receivers}, {}
        if self._question.divergence:
            answer = self._model.ask(Edited(rows, edits, norms=norms), progress=progress)
            return self._runs.metric(row, answer.arrays)
        target = self._question.targets[row]
        return self._model.ask(Edited(rows, edits, target, norms=norms), progress=progress).scores

    def _one(self, row: int) -> Arrays:
        return {name: array[row : row + 1] for name, array in self._question.rows.items()}


def _set(values: npt.NDArray[np.generic]) -> Edit:
    """Return the edit that gives a layer these values, (rows, *shape)."""
    return Edit(np.zeros((len(values), *(1,) * (values.ndim - 1)), values.dtype), values)
