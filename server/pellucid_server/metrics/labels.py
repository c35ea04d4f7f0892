"""The names in a request that may become labels: those that are served, and one word for all others."""

from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import ModelKey

UNKNOWN = "unknown"
"""The label of a model, a version or a method that is not served."""


class ServedLabels:
    """The labels of what the workers serve, by what they said last; None before they are ready.

    A broken model is a label too: requests for it are refused by its name.
    """

    def __init__(self, hello: Hello | None) -> None:
        self._methods = frozenset() if hello is None else frozenset(method.name for method in hello.methods)
        self._models: dict[tuple[str, int], tuple[str, str]] = {("", 0): ("", "")}
        self._names: frozenset[str] = frozenset()
        if hello is None:
            return
        served = [(model.key.name, model.key.version) for model in hello.models]
        broken = [(each.name, each.version) for each in hello.broken]
        for name, version in (*served, *broken):
            self._models[name, version] = (name, str(version))
        # Version 0 is the highest that is served, or if none is, the highest that is broken.
        for pairs in (broken, served):
            for name, version in sorted(pairs):
                self._models[name, 0] = (name, str(version))
        self._names = frozenset(name for name, _ in self._models)

    def method(self, name: str) -> str:
        """Return the label of a method; of none, an empty text."""
        return name if not name or name in self._methods else UNKNOWN

    def labels(
        self, method: str, model: str, version: int, answered_by: ModelKey | None = None
    ) -> tuple[str, str, str]:
        """Return the method, the model and the version: those that were asked for, or those that made the answer.

        A version that was replaced meanwhile is served no more, and still made it.
        """
        if answered_by is not None:
            return self.method(method), answered_by.name, str(answered_by.version)
        return (self.method(method), *self.model(model, version))

    def model(self, name: str, version: int) -> tuple[str, str]:
        """Return the labels of a model and its version, with the version that 0 stands for."""
        found = self._models.get((name, version))
        if found is not None:
            return found
        return (name if name in self._names else UNKNOWN), UNKNOWN
