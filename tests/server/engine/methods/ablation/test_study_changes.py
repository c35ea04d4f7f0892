"""Which changes a study makes: each by itself, or all at once where they do not overlap."""

from types import SimpleNamespace

import pytest
from pellucid_server.engine.asking.sites import Intervention, Site, SiteLayer
from pellucid_server.engine.methods.shared.studies.labelled_runs import study_changes
from pellucid_server.errors import InvalidRequestError


def question(*interventions):
    return SimpleNamespace(interventions=interventions, layers={"a": SiteLayer("a", (4, 3))}, names={})


def test_changes_of_one_name_are_told_apart_by_their_interventions_number():
    changes = study_changes(question(Intervention((Site("a", (1,)),)), Intervention((Site("a", (1,)),))), joint=False)

    assert [change.name for change in changes] == ["a[1] zero (0)", "a[1] zero (1)"]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (Site("a", (1,)), Site("a", (1, 2)), r"a\[1-2\]"),
        (Site("a"), Site("a", None, (0,)), "a@0"),
        (Site("input:x", (0,)), Site("input:x", (0,)), r"input:x\[0\]"),
    ],
)
def test_a_place_that_is_changed_twice_at_once_is_refused(first, second, named):
    asked = question(Intervention((first,)), Intervention((second,), "constant", 1.0))

    with pytest.raises(InvalidRequestError, match=f"{named} is changed twice"):
        study_changes(asked, joint=True)


def test_more_changes_than_a_study_makes_are_refused_at_once():
    asked = question(Intervention((Site("a", (1,)),) * 100_000))

    with pytest.raises(InvalidRequestError, match="100000 sites; a study makes at most 4096"):
        study_changes(asked, joint=False)
