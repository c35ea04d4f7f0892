"""The parts that an answer about sites comes in: each has sites of one layer."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pellucid_server.engine.asking.sites import Site, SiteQuestion

_FIRST_SITES, _SITES_OF_A_PART = 8, 128
"""Sites of the first part, so that there is soon something to answer with, and of later ones; sizes double between."""


@dataclass(frozen=True, slots=True)
class SitePart:
    """Sites that are answered together.

    Attributes
    ----------
    intervention
        The number of the intervention that names them.
    sites
        Sites of one layer, at least one.
    begin, end
        Shares of all sites that come before the part, and with it.
    """

    intervention: int
    sites: tuple[Site, ...]
    begin: float
    end: float

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.sites[0].layer

    def of_row(self, row: int, count: int) -> tuple[float, float]:
        """Return the stretch of progress that a row takes of `count`."""
        step = (self.end - self.begin) / count
        return self.begin + row * step, self.begin + (row + 1) * step


def site_parts(question: SiteQuestion, *, most: int = _SITES_OF_A_PART) -> tuple[SitePart, ...]:
    """Divide the sites of a question, in their order, into parts of at most `most`: a function of the two alone."""
    total = sum(len(each.sites) for each in question.interventions)
    return tuple(_parts(question, total, most))


def _parts(question: SiteQuestion, total: int, most: int) -> Iterator[SitePart]:
    done, size = 0, min(most, _FIRST_SITES)
    for number, intervention in enumerate(question.interventions):
        for _, group in itertools.groupby(intervention.sites, key=lambda site: site.layer):
            sites = tuple(group)
            start = 0
            while start < len(sites):
                chosen = sites[start : start + size]
                yield SitePart(number, chosen, done / total, (done + len(chosen)) / total)
                start, done, size = start + size, done + len(chosen), min(most, 2 * size)
