"""Where a point may be: a box, or the part of a ball that lies in it; projections, and the steepest way up in each.

Source: Boyd and Vandenberghe, "Convex Optimization", 2004, 8.1 (projection) and 9.4 (steepest ascent in a norm).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.searching.input_space import Floats, InputSpace

CONSTRAINTS = ("box", "l2", "linf")

_HALVINGS = 100


@dataclass(frozen=True, slots=True)
class Constraint:
    """What points of a space are held to.

    A ball is around the space's centre, over all elements that are numbers; categories are free in every ball.
    Points are within the space's bounds as well.

    Attributes
    ----------
    kind
        One of `CONSTRAINTS`.
    radius
        Of the ball; 0 for a box.
    """

    space: InputSpace
    kind: str
    radius: float = 0.0

    @property
    def numbers(self) -> npt.NDArray[np.bool_]:
        """Which elements are numbers, (elements,)."""
        found = np.ones(self.space.size, np.bool_)
        found[self.space.coded] = False
        return found

    @property
    def scale(self) -> Floats:
        """How far elements may be from the middle, (elements,): what steps are shares of."""
        low, high = self.space.low, self.space.high
        if self.kind == "box":
            return np.asarray((high - low) / 2)
        radius = np.full(self.space.size, self.radius, low.dtype)
        return np.where(self.numbers, radius, (high - low) / 2).astype(low.dtype)

    def project(self, points: Floats) -> Floats:
        """Return the nearest points that are allowed, (rows, elements); categories are left as they are."""
        low, high, centre, numbers = self.space.low, self.space.high, self.space.centre, self.numbers
        if self.kind == "box":
            found = np.clip(points, low, high)
        elif self.kind == "linf":
            radius = points.dtype.type(self.radius)
            found = np.clip(points, np.maximum(low, centre - radius), np.minimum(high, centre + radius))
        else:
            found = self._in_ball(points)
        return np.asarray(np.where(numbers, found, points), points.dtype)

    def steepest(self, gradients: Floats) -> Floats:
        """Return the way up that climbs most for its length in the constraint's norm, (rows, elements) in shares.

        Gradients are with respect to elements in units of `scale`. In a ball it has the length 1, in a box every
        element is 1 or -1. Elements that are categories get the gradient over its largest element.
        """
        numbers = self.numbers
        largest = np.abs(gradients).max(axis=1, keepdims=True, initial=0.0)
        shares = np.divide(gradients, largest, out=np.zeros_like(gradients), where=largest > 0)
        if self.kind == "l2":
            lengths = np.linalg.norm(shares * numbers, axis=1, keepdims=True)
            found = np.divide(shares, lengths, out=np.zeros_like(shares), where=lengths > 0)
        else:
            found = np.sign(gradients)
        return np.asarray(np.where(numbers, found, shares), gradients.dtype)

    def draw(self, source: np.random.Generator, count: int) -> Floats:
        """Return random points that are allowed, (count, elements), uniform in the box or the ball."""
        space, numbers = self.space, self.numbers
        low, high = space.low, space.high
        if self.kind == "box":
            return np.asarray(low + source.random((count, space.size)) * (high - low), low.dtype)
        if self.kind == "linf":
            moved = source.uniform(-1, 1, (count, space.size)) * self.radius
        else:
            ways = source.standard_normal((count, space.size)) * numbers
            lengths = np.linalg.norm(ways, axis=1, keepdims=True)
            shares = source.random((count, 1)) ** (1 / max(int(numbers.sum()), 1))
            moved = self.radius * shares * ways / np.maximum(lengths, np.finfo(np.float64).tiny)
        found = np.where(numbers, space.centre + moved, source.random((count, space.size)))
        found[:, space.ordinal] = low[space.ordinal] + found[:, space.ordinal] * (high - low)[space.ordinal]
        return self.project(found.astype(low.dtype))

    def _in_ball(self, points: Floats) -> Floats:
        """Return the nearest points in the ball and the box.

        For a multiplier m, the minimum of |x - y|^2 + m |x - c|^2 in the box is (y + m c) / (1 + m), clipped, as each
        element is by itself. With w = 1 / (1 + m), the distance from the centre grows with w, which is bisected.
        """
        low, high, centre, numbers = self.space.low, self.space.high, self.space.centre, self.numbers
        moved = points - centre

        def at(shares: Floats) -> Floats:
            return np.asarray(np.clip(centre + shares[:, None] * moved, low, high))

        def length(found: Floats) -> Floats:
            return np.asarray(np.linalg.norm((found - centre) * numbers, axis=1))

        bottom, top = np.zeros(len(points), points.dtype), np.ones(len(points), points.dtype)
        if (length(at(top)) <= self.radius).all():
            return at(top)
        # Where no bound is met, this is the answer, to the last digit.
        lengths = np.linalg.norm(moved * numbers, axis=1)
        plain = np.minimum(1.0, self.radius / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(points.dtype)
        unbounded = centre + plain[:, None] * moved
        if ((unbounded >= low) & (unbounded <= high) | ~numbers).all():
            return np.asarray(unbounded, points.dtype)
        for _ in range(_HALVINGS):
            middle = (bottom + top) / 2
            inside = length(at(middle)) <= self.radius
            bottom, top = np.where(inside, middle, bottom), np.where(inside, top, middle)
            if ((top - bottom) <= np.finfo(points.dtype).eps * top).all():
                break
        return at(np.where(length(at(np.ones_like(top))) <= self.radius, np.ones_like(top), bottom))
