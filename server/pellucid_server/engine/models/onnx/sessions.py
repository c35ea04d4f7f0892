"""The sessions of an ONNX file's parts: opened when they are needed, and kept as long as there is room."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pellucid_server.engine.models.onnx.file import SessionError
from pellucid_server.engine.models.onnx.parts import Part
from pellucid_server.engine.models.onnx.session import Options, Session, Weights
from pellucid_server.engine.models.onnx.skeleton import Skeleton
from pellucid_server.errors import UnsupportedError

_LEAST_KEPT_BYTES = 256 << 20
_TIMES_KEPT = 3
"""ONNX Runtime may rearrange weights for itself. Sessions are kept until they have as many bytes, or those of the
file's weights as often."""

_Made = TypeVar("_Made")


class Kept(Generic[_Made]):
    """What is made once for each key, and given up by the order of use. May be called from several threads.

    Parameters
    ----------
    room
        The sum of sizes from which on those used longest ago are given up; the last one never is.
    size
        The size of what was made.
    """

    def __init__(self, room: int, size: Callable[[_Made], int]) -> None:
        self._room = room
        self._size = size
        self._found: OrderedDict[Hashable, Future[_Made]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what belongs to a key, made first if it is not there; others that want it wait."""
        with self._lock:
            found = self._found.get(key)
            new = found is None
            if found is None:
                found = self._found[key] = Future()
            self._found.move_to_end(key)
        if new:
            try:
                found.set_result(make())
            except BaseException as error:  # noqa: BLE001 - raised again where it is asked for
                with self._lock:
                    self._found.pop(key, None)
                found.set_exception(error)
            self._make_room(key)
        return found.result()

    def _make_room(self, newest: Hashable) -> None:
        with self._lock:
            sizes = {
                key: self._size(made.result())
                for key, made in self._found.items()
                if made.done() and made.exception() is None
            }
            total = sum(sizes.values())
            for key, size in sizes.items():
                if total <= self._room:
                    break
                if key != newest:
                    del self._found[key]
                    total -= size


class PartSessions:
    """Sessions of one file's parts. May be called from several threads."""

    def __init__(self, skeleton: Skeleton, options: Options, largest_value_bytes: int) -> None:
        self._skeleton = skeleton
        self._options = options
        self._largest_value_bytes = largest_value_bytes
        weights = skeleton.weights
        room = max(_LEAST_KEPT_BYTES, _TIMES_KEPT * (weights.beside + weights.bytes_of(list(weights.values))))
        self._kept: Kept[tuple[Session, int]] = Kept(room, lambda made: made[1])

    def of(self, part: Part, layers: tuple[str, ...]) -> Session:
        """Return a part's session, opened first if it is not there.

        Raises
        ------
        UnsupportedError
            ONNX Runtime cannot load the part; `layers` are those that it is for.
        """
        return self._kept.get(part, lambda: self._opened(part, layers))[0]

    def _opened(self, part: Part, layers: tuple[str, ...]) -> tuple[Session, int]:
        shared = self._skeleton.weights
        weights = Weights({name: shared.values[name] for name in part.weights}, shared.beside)
        try:
            self._skeleton.require_unchanged()
            session = Session(
                part.content, self._options, weights=weights, largest_value_bytes=self._largest_value_bytes
            )
        except SessionError as error:
            raise UnsupportedError(
                f"The ONNX file cannot be cut at {', '.join(map(repr, layers))[:400]}: {error}.", subject="layer"
            ) from error
        return session, len(part.content) + weights.bytes_of(part.weights)
