"""A whole search of a table."""

import numpy as np
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.tables import search
from pellucid_server.engine.models.files.manifest import ColumnManifest
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = tuple(ColumnManifest(name, 0.0, 1.0, -10.0, 10.0) for name in "pqrs")
ROW = dict.fromkeys("pqrs", 0.0)
ALL = frozenset({"gradient", "spheres", "genetic"})


def found(function, count=1, budget=4000, by=ALL, **options):
    question = table_row(COLUMNS, ROW, **options)
    judge, space = Judge(Network(function), question, budget), space_of(question, 3)
    return search(judge, space, question, by=by, distance="l1", count=count, budget=budget), judge


def test_several_leave_alone_what_those_before_changed_most():
    answer, _ = found(linear([4, 3, 2, 1], -4.0), count=3)

    largest = [int(np.abs(each.values).argmax()) for each in answer.found]
    assert largest == [0, 1, 2]
    assert all(each.minimal for each in answer.found)


def test_more_than_there_can_be_are_not_made_up():
    answer, _ = found(linear([4, 0, 0, 0], -4.0), count=4)

    assert len(answer.found) == 1


def test_the_budget_holds_for_all_of_them_together():
    for budget in (16, 100, 1000):
        _, judge = found(linear([4, 3, 2, 1], -4.0), count=5, budget=budget)
        assert judge.spent <= budget


def test_nothing_found_has_what_came_closest():
    answer, _ = found(linear([1, 0, 0, 0], -20.0))

    assert answer.found == ()
    assert answer.closest is not None
    assert answer.closest[0] == 10.0
