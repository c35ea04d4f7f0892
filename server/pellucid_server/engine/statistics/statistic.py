"""What all statistics have in common."""

from typing import Any, Protocol, Self, TypeVar

from pellucid_server.engine.asking.question import Arrays

S = TypeVar("S", bound="Statistic")


class Statistic(Protocol):
    """A summary of rows that have been seen, of bounded size.

    Laws, which a test holds for every one: `update` by a batch is the same as by its parts in order; two halves merged
    are the whole, to rounding, or within the error that the statistic states; and what `from_state` makes of `state` is
    equal to the original, bit for bit, now and after any further updates.
    """

    def update(self, *batch: Any) -> None:
        """Take some rows in."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another one has seen; its rows come after one's own."""
        ...

    def state(self) -> Arrays:
        """Return all of it as arrays by name."""
        ...

    @classmethod
    def from_state(cls: type[S], state: Arrays) -> S:
        """Make one again of what `state` returned."""
        ...


def nested(name: str, state: Arrays) -> Arrays:
    """Return a state's arrays under `name/`, to be kept beside others."""
    return {f"{name}/{key}": array for key, array in state.items()}


def within(name: str, state: Arrays) -> Arrays:
    """Return the arrays that `nested` put under `name/`."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
