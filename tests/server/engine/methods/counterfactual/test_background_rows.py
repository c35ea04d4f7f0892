"""The nearest row of the background."""

import pytest
from pellucid_server.engine.methods.counterfactual.background_rows import nearest_unlike, require_disclosable
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.models.files.manifest import ColumnManifest
from pellucid_server.errors import UnsupportedError
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = (ColumnManifest("p", 3.0, 7.0), ColumnManifest("c", categories=("a", "b")))
BACKGROUND = [{"p": value, "c": c} for value in (1.1, 2.2, 3.3, 4.4, 5.5, 6.6) for c in "ab"]


def nearest(rules=None, row=None, offset=0.0):
    given = row or {"p": 1.1, "c": "a"}
    question = table_row(COLUMNS, given, rules=rules, background=BACKGROUND, disclosable=True)
    judge = Judge(Network(linear([1.0, 0.0, 0.0], offset)), question, 1000)
    space = space_of(question, 3)
    found = nearest_unlike(judge, space, question, "l1")
    return (
        None
        if found is None
        else {c.name: space.text(v, at) for at, (c, v) in enumerate(zip(COLUMNS, found, strict=True))}
    )


def test_it_is_the_nearest_of_the_other_class_in_the_callers_own_numbers():
    # The score is (p - 3) / 7: above 0 from p = 3.3 on.
    assert nearest() == {"p": "3.3", "c": "a"}


def test_it_obeys_the_rules():
    assert nearest({"c": {"allowed": (1,)}, "p": {"minimum": 4.0}}) == {"p": "4.4", "c": "a"}
    assert nearest({"p": {"fixed": True}}) is None


def test_where_no_row_is_of_another_class_there_is_none():
    assert nearest(offset=-9.0) is None


def test_rows_that_may_not_be_shown_are_not():
    hidden = table_row(COLUMNS, {"p": 1.1, "c": "a"}, background=BACKGROUND)
    with pytest.raises(UnsupportedError, match="may not be shown"):
        require_disclosable(hidden)
    with pytest.raises(UnsupportedError, match="no background"):
        require_disclosable(table_row(COLUMNS, {"p": 1.1, "c": "a"}, disclosable=True))
