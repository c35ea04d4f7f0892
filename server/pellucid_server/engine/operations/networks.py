"""What methods of sites see of a network: which sites a text names, and which lie between others."""

import difflib
import fnmatch
import re
from collections.abc import Hashable, Iterable, Sequence

from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.errors import InvalidRequestError, NotFoundError

_NEAR = 3
_MOST_CHARACTERS, _MOST_NAMES, _MOST_STARS = 8192, 1024, 16
"""Of a text that names sites, and of a pattern in it: each is held to every site of the network."""
_CALL = re.compile(r"#\d+$")


class GraphNetwork:
    """The sites of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def find(self, text: str, field: str) -> tuple[str, ...]:
        """Return the sites that a text names; see `Network.find`. Patterns do not match parts unless they name one."""
        found: dict[str, None] = {}
        for entry in _entries(text, field):
            found.update(dict.fromkeys(self._named(entry, field)))
        if not found:
            raise InvalidRequestError(f"{field} is {text!r}, which names no layer; GetModel names all.", field=field)
        return self._graph.ended(found)

    def _named(self, entry: str, field: str) -> list[str]:
        sites = self._graph.sites
        if entry in sites:
            if not sites[entry].cuttable:
                text = (
                    f"{field} has {entry!r}, whose value does not hold one row of the batch at each place of axis 0; "
                    "choose a layer that GetModel shows as cuttable."
                )
                raise InvalidRequestError(text, field=field)
            return [entry]
        names = [name for name in sites if (":" in name) == (":" in entry)]
        if any(sign in entry for sign in "*?"):
            # fnmatch would read brackets as sets of characters.
            pattern = entry.replace("[", "[[]")
            matching = [name for name in names if fnmatch.fnmatchcase(name, pattern) and sites[name].cuttable]
            if matching:
                return self._distinct(matching)
        near = difflib.get_close_matches(entry, names, n=_NEAR, cutoff=0.4) or names[:_NEAR]
        hint = f"; near ones: {', '.join(map(repr, near))}" if near else ""
        text = f"{field} has {entry!r}, and there is no such layer{hint}. GetModel names all."
        raise NotFoundError(text, resource_type="layer", resource_name=entry)

    def value_of(self, name: str) -> Hashable:
        """Return what is equal for sites that have one value."""
        return self._graph.value_of(name)

    def reaches(self, senders: Sequence[str], receivers: Sequence[str]) -> bool:
        """Whether a change of the senders can change every receiver."""
        return self._graph.ways(senders, receivers).reached

    def beside(self, senders: Sequence[str], receivers: Sequence[str], output: str) -> tuple[str, ...]:
        """Return what to hold so that only the direct path is left; see `Network.beside`."""
        ways = self._graph.ways(senders, receivers, output)
        inner = self._innermost()
        chosen = [name for name in ways.between if name in ways.avoidable and self._graph.sites[name].cuttable]
        branches = [name for name in chosen if name.endswith(":branch")]
        held = self._distinct([*branches, *(name for name in chosen if name in inner)])
        return self._graph.ended(ways.screening(held))

    def norms(self, senders: Sequence[str], receivers: Sequence[str], output: str) -> tuple[str, ...]:
        """Return the normalisations strictly between whose scale can be held, by names that evaluations take."""
        return self._graph.ways(senders, receivers, output).norms

    def _innermost(self) -> frozenset[str]:
        """Return the layers that have no others inside."""
        paths = {name: _CALL.sub("", name) for name in self._graph.layers}
        outer = {path[:place] for path in paths.values() for place, sign in enumerate(path) if sign == "."}
        return frozenset(name for name, path in paths.items() if path not in outer)

    def _distinct(self, names: Iterable[str]) -> list[str]:
        """Leave out sites that have the value of one before them."""
        found: dict[Hashable, str] = {}
        for name in names:
            found.setdefault(self._graph.value_of(name), name)
        return list(found.values())


def _entries(text: str, field: str) -> tuple[str, ...]:
    """Return the names and patterns of a text, each once."""
    if len(text) > _MOST_CHARACTERS:
        shown = f"{field} has {len(text)} characters; at most {_MOST_CHARACTERS} are taken, so use patterns."
        raise InvalidRequestError(shown, field=field)
    entries = tuple(dict.fromkeys(filter(None, (each.strip() for each in text.split(",")))))
    if len(entries) > _MOST_NAMES:
        shown = f"{field} has {len(entries)} names; at most {_MOST_NAMES} are taken, so use patterns."
        raise InvalidRequestError(shown, field=field)
    stars = max((entry.count("*") for entry in entries), default=0)
    if stars > _MOST_STARS:
        shown = f"{field} has a pattern with {stars} signs *; at most {_MOST_STARS} are taken."
        raise InvalidRequestError(shown, field=field)
    return entries
