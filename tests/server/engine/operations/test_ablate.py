"""What an answer in parts says of itself, from part to part and after a lost worker."""

import pytest
from pellucid_server.engine.operations.ablate import _common, _resumed, _with_earlier
from pellucid_server.engine.operations.streams import Resume
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.requests import Outcome, TargetSpec
from pellucid_server.vocabulary.results import Accuracy


@pytest.mark.parametrize(
    ("before", "now", "partial"), [(None, None, None), (True, None, True), (True, False, True), (False, True, True)]
)
def test_what_was_cut_short_once_stays_partial(before, now, partial):
    def part(cut):
        return Findings(accuracy=None if cut is None else Accuracy(partial=cut))

    found = _with_earlier(part(now), part(before))

    assert (None if found.accuracy is None else found.accuracy.partial) is partial


def test_parameters_that_were_settled_before_the_worker_was_lost_are_in_the_receipt_of_the_next():
    last = Findings(resolved={"receivers": "b"}, accuracy=Accuracy(partial=True), warnings=("once",))

    resumed = _resumed(Resume(3, last))
    found = _with_earlier(Findings(resolved={"frozen": "c"}), resumed)

    assert resumed.warnings == ()
    assert found.resolved == {"receivers": "b", "frozen": "c"}
    assert found.accuracy.partial
    assert _resumed(Resume()) == Findings()


def test_a_receipt_has_of_the_rows_targets_what_they_have_in_common_and_else_what_was_asked_for():
    def spec(outcome, contrast):
        return TargetSpec("output", Outcome((outcome,)), Outcome((contrast,)), "logits")

    asked = TargetSpec("output")

    assert _common([spec(1, 2), spec(1, 2)], asked) == spec(1, 2)
    assert _common([spec(1, 2), spec(1, 3)], asked) == TargetSpec("output", Outcome((1,)), None, "logits")
    assert _common([spec(1, 2), spec(3, 2)], asked) == TargetSpec("output", Outcome(), Outcome((2,)), "logits")
