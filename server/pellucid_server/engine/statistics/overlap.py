"""How masks of units and of concepts lie on one another, over all pictures."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SUMS = ("both", "unit", "concept", "both2", "both_unit", "both_concept", "unit_concept", "unit2", "concept2")


class Overlap:
    """Areas of units and concepts, and of what they share: sums over pictures, and sums of products for their error.

    All are whole numbers, so that neither order nor division into parts changes a bit.

    Parameters
    ----------
    units
        How many there are.
    groups
        For each concept, (concepts,), the group of pictures that it is judged on: units' areas count only in pictures
        of that group. All 0 if every picture counts for every concept.
    """

    def __init__(self, units: int, groups: npt.NDArray[np.int64]) -> None:
        concepts, kinds = len(groups), int(groups.max(initial=-1)) + 1
        self.groups = groups
        self.pixels = np.zeros(kinds, np.int64)
        """Pixels of the pictures of each group, (groups,)."""
        self.pictures = np.zeros(concepts, np.int64)
        """Pictures that each concept is in, (concepts,)."""
        both, unit = (units, concepts), (units, kinds)
        shapes = (both, unit, (concepts,), both, both, both, both, unit, (concepts,))
        self._sums = {name: np.zeros(shape, np.int64) for name, shape in zip(_SUMS, shapes, strict=True)}

    def update(
        self,
        pixels: int,
        groups: npt.NDArray[np.int64],
        units: npt.NDArray[np.int64],
        unit_areas: Counts,
        concepts: npt.NDArray[np.int64],
        concept_areas: Counts,
        both: Counts,
    ) -> None:
        """Take a picture in.

        Parameters
        ----------
        pixels
            Its size.
        groups
            The groups that it is in.
        units, unit_areas
            The units that are on anywhere, and on how many pixels, (on,) each.
        concepts, concept_areas
            The concepts that are in it, and on how many pixels, (present,) each.
        both
            Pixels that a unit and a concept share, (on, present).
        """
        sums = self._sums
        self.pixels[groups] += pixels
        self.pictures[concepts] += concept_areas > 0
        sums["concept"][concepts] += concept_areas
        sums["concept2"][concepts] += concept_areas**2
        sums["unit"][np.ix_(units, groups)] += unit_areas[:, None]
        sums["unit2"][np.ix_(units, groups)] += unit_areas[:, None] ** 2
        at = np.ix_(units, concepts)
        sums["both"][at] += both
        sums["both2"][at] += both**2
        sums["both_unit"][at] += both * unit_areas[:, None]
        sums["both_concept"][at] += both * concept_areas
        sums["unit_concept"][at] += unit_areas[:, None] * concept_areas

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self.pixels += other.pixels
        self.pictures += other.pictures
        for name, each in other._sums.items():
            self._sums[name] += each

    def state(self) -> Arrays:
        """Return all of it."""
        own = {"groups": self.groups, "pixels": self.pixels, "pictures": self.pictures, **self._sums}
        return {name: array.copy() for name, array in own.items()}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(len(state["unit"]), state["groups"].astype(np.int64))
        found.pixels, found.pictures = state["pixels"].astype(np.int64), state["pictures"].astype(np.int64)
        found._sums = {name: state[name].astype(np.int64) for name in _SUMS}
        return found

    @property
    def intersections(self) -> Counts:
        """Pixels that a unit and a concept share, (units, concepts)."""
        return self._sums["both"]

    @property
    def unit_areas(self) -> Counts:
        """Pixels that a unit is on at, in the pictures that each concept is judged on, (units, concepts)."""
        return self._sums["unit"][:, self.groups]

    @property
    def concept_areas(self) -> Counts:
        """Pixels of each concept, (concepts,)."""
        return self._sums["concept"]

    def iou(self) -> Floats:
        """Return intersection over union, both summed over all pictures, (units, concepts); 0 where both are empty."""
        both = self.intersections
        found: Floats = both / np.maximum(self.unit_areas + self.concept_areas - both, 1)
        return found

    def iou_error(self) -> Floats:
        """Return the standard error of `iou` over pictures, (units, concepts).

        It is the jackknife over pictures to first order, which for a ratio of sums is the usual linearised variance
        (Cochran, "Sampling Techniques", 1977, chapter 6): the sum over pictures of (intersection - IoU * union)^2,
        over the union's sum squared. Pictures in which neither is add nothing.
        """
        sums, iou = self._sums, self.iou()
        union = np.maximum(self.unit_areas + self.concept_areas - self.intersections, 1)
        more = 1 + iou
        squares = (
            more**2 * sums["both2"]
            - 2 * iou * more * (sums["both_unit"] + sums["both_concept"])
            + iou**2 * (sums["unit2"][:, self.groups] + 2 * sums["unit_concept"] + sums["concept2"])
        )
        found: Floats = np.sqrt(np.maximum(squares, 0)) / union
        return found
