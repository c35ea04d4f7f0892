"""The parts that an answer about sites comes in: each has sites of one layer."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pellucid_server.engine.asking.sites import Site, SiteQuestion

_SITES_OF_A_PART = 128


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


def site_parts(question: SiteQuestion) -> tuple[SitePart, ...]:
    """Divide the sites of a question, in their order; the parts are a function of the question alone."""
    total = sum(len(each.sites) for each in question.interventions)
    return tuple(_parts(question, total))


def _parts(question: SiteQuestion, total: int) -> Iterator[SitePart]:
    done = 0
    for number, intervention in enumerate(question.interventions):
        for _, group in itertools.groupby(intervention.sites, key=lambda site: site.layer):
            sites = tuple(group)
            for start in range(0, len(sites), _SITES_OF_A_PART):
                chosen = sites[start : start + _SITES_OF_A_PART]
                yield SitePart(number, chosen, done / total, (done + len(chosen)) / total)
                done += len(chosen)
