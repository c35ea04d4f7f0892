"""The search for the pictures of a block's objectives: its steps, and what is shown of them."""

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.painting.painting import Brush, Canvas, Painting
from pellucid_server.engine.methods.shared.pngs import row_picture
from pellucid_server.engine.methods.shared.searching.reached import reached_text
from pellucid_server.engine.methods.shared.searching.searches import Floats, Outcome
from pellucid_server.engine.methods.shared.searching.shown_rows import ShownRows, shown_rows
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray, Picture


class PaintingSearch:
    """The search for the pictures of a block's objectives."""

    def __init__(
        self, question: ProbeQuestion, painting: Painting, canvas: Canvas, brush: Brush, natural: Floats
    ) -> None:
        self._question = question
        self._painting = painting
        self._canvas = canvas
        self._brush = brush
        self._natural = natural
        objectives = [each for each in painting.goals.objectives for _ in range(brush.pictures)]
        self._names = [f"{each.name}/{number % brush.pictures}" for number, each in enumerate(objectives)]

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self._painting.step

    @property
    def elements(self) -> int:
        """How many numbers its pictures have."""
        return self._painting.elements

    @property
    def ended(self) -> bool:
        """Whether there is no step left."""
        return self._painting.ended

    def advance(self, handle: Handle) -> None:
        """Make a step."""
        self._painting.advance(handle)

    def state(self) -> Arrays:
        """Return all of it as arrays by name."""
        return self._painting.state()

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` returned."""
        self._painting.restore(state)

    def preview(self, handle: Handle) -> Findings:
        """Return the pictures so far."""
        return handle.beside(lambda: self._shown(self._rows(), None), byte_count=self._painting.work_bytes)

    def outcome(self, handle: Handle) -> Outcome:
        """Measure the pictures as they are served, and return what was found."""
        painting = self._painting
        rows = handle.beside(self._rows, byte_count=painting.work_bytes)
        of = np.repeat(np.arange(len(painting.goals.objectives)), self._brush.pictures)
        reached = painting.goals.scores(handle, Rows(rows.arrays), of)
        real = painting.lit & np.isfinite(reached)
        records = {
            "activation": np.where(real, reached, np.nan),
            "start": painting.trajectory[:, 0],
            "steps": painting.steps.astype(np.float64),
            "tries": painting.tries.astype(np.float64),
            "lit": painting.lit.astype(np.float64),
        }
        findings = handle.beside(lambda: self._shown(rows, reached), byte_count=painting.work_bytes)
        return Outcome(records, painting.trajectory, findings)

    def _rows(self) -> ShownRows:
        levels = torch.from_numpy(self._painting.levels())
        return shown_rows(self._question, self._canvas.arrays(self._canvas.rows(levels).numpy()))

    def _shown(self, rows: ShownRows, reached: Floats | None) -> Findings:
        painting, name = self._painting, self._canvas.name
        image = self._question.inputs[name].image
        pictures: dict[str, Picture] = {}
        arrays: dict[str, NamedArray] = {}
        for number, each in enumerate(self._names):
            if not painting.lit[number]:
                continue
            text = f"What {each.rpartition('/')[0]} responds to most, painted from noise."
            if reached is not None:
                text += reached_text(float(reached[number]), self._natural[:, number // self._brush.pictures])
            pictures[each] = row_picture(
                rows.levels[name][number], text, 0 if image is None else image.resize, mirrored=True
            )
            if self._brush.transparency:
                arrays[f"{each}/transparency"] = _transparency(painting.transparency[number], each)
        return Findings(arrays=arrays, pictures=pictures)


def _transparency(sizes: npt.NDArray[np.float32], name: str) -> NamedArray:
    """Return where gradients came, as shares of the most, (height, width)."""
    most = float(sizes.max())
    found = np.asarray(sizes / most if most > 0 else sizes, np.float32)
    text = f"How much gradients changed each pixel of {name} on the way, as a share of the most: its opacity."
    return NamedArray(found, (Axis("height"), Axis("width")), text=text)
