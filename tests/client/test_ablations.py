"""Answers in a stream, with both clients: parts put together, progress, and streams that break."""

import math
import threading

import grpc
import numpy as np
import pytest
from client.fake_server import (
    DIGEST,
    Failure,
    ablate_messages,
    column_message,
    effects_message,
    part_message,
    progress_message,
)
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from pellucid import Fixed, Mean, Patch, Rule, Site, Steer, Zero, errors
from pellucid.ablation_calls import ABLATE_SECONDS
from pellucid.counterfactuals import Change
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, findings_pb2

ROW = {"age": 40, "colour": "red"}
STUDY = findings_pb2.NamedTable(
    columns=[
        column_message("change", ["none", "none", "sex zero", "sex zero", "age zero", "age zero"]),
        column_message("by", ["all", "clinic"] * 3),
        column_message("group", ["", "north"] * 3),
        column_message("rows", [90, 30] * 3),
        column_message("accuracy", [0.9, 0.8, 0.85, 0.78, 0.91, 0.5]),
        column_message("low", [0.8, 0.7, 0.8, 0.7, 0.8, 0.4]),
        column_message("high", [0.95, 0.9, 0.9, 0.8, 0.93, 0.6]),
        column_message("difference", [0.0, 0.0, -0.05, -0.02, 0.01, -0.3], [True, True, False, False, False, False]),
    ]
)
SECONDS = 30
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def effects_part(number, *, last=False, **more):
    """Write a part with one effect."""
    tables = {"effects": effects_message([f"conv[{number}]"], [1.0], **more)}
    return part_message(number, 0.5, last=last, tables=tables)


def breaking(parts, code=UNAVAILABLE):
    """Answer with some messages, then with a status."""

    def answer(request, context):
        yield from parts
        context.abort(code, "lost")

    return answer


def test_tables_of_one_name_are_appended_and_the_rest_is_united(client):
    found = client.ablate("table", ROW, Zero("conv[*]"))

    assert list(found.tables["effects"]["site"]) == ["conv[0]", "conv[1]", "conv[2]"]
    assert list(found.tables["effects"]["effect"]) == [0.5, -2, 1]
    assert found.tables["effects"].columns["effect"].unit == "nats"
    assert list(found.arrays) == ["prediction"]
    assert found.pictures["site"].data == b"png"
    assert found.warnings == ("A draw.",)
    assert (found.partial, found.progress) == (False, 1.0)
    assert found.model.digest == DIGEST
    assert found.receipt.method == found.method == "ablation"


def test_effects_are_ranked_by_their_size(client):
    found = client.ablate("table", ROW, Zero("conv[*]"))

    assert list(found.effects["site"]) == ["conv[1]", "conv[2]", "conv[0]"]
    assert [each["effect"] for each in found.ranked(2)] == [-2, 1]
    assert len(found.ranked(0)) == 0
    assert len(found.ranked(99)) == 3
    assert list(found.to_pandas()["site"]) == ["conv[1]", "conv[2]", "conv[0]"]
    assert "conv[1]" in found._repr_html_()
    assert (
        repr(found) == "<Ablation by ablation of photos/3: arrays prediction; tables effects; pictures site; 1 warning>"
    )


def test_equal_effects_keep_their_order_and_missing_ones_are_last(client, server):
    sites, values = ["a", "b", "c", "d"], [0.0, 1.0, -1.0, 2.0]
    effects = findings_pb2.NamedTable(
        columns=[column_message("site", sites), column_message("effect", values, [True, False, False, False])]
    )
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables={"effects": effects})]

    assert list(client.ablate("table", ROW, Zero("conv")).effects["site"]) == ["d", "b", "c", "a"]


def test_an_answer_without_effects_says_which_tables_it_has(client, server):
    curve = findings_pb2.NamedTable(columns=[column_message("fraction", [0.0, 1.0])])
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables={"curve": curve})]

    found = client.ablate("table", ROW, method="ablation-curve")

    with pytest.raises(LookupError, match="ablation-curve has no table 'effects'; its tables are: 'curve'"):
        _ = found.effects
    assert list(found.to_pandas()["fraction"]) == [0, 1]


def test_a_study_is_ranked_by_its_differences_and_says_who_loses_most(client, server):
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables={"accuracy": STUDY, "running": STUDY})]

    found = client.ablate("table", None, Zero("conv"), dataset="adult", method="ablation-study")

    changed = [-0.3, -0.05, -0.02, 0.01]
    assert [each["difference"] for each in found.ranked(4)] == changed
    assert [each["difference"] for each in found.effects] == [*changed, None, None]
    assert found.to_pandas()["difference"].tolist()[:4] == changed
    assert [(each["change"], each["group"]) for each in found.worst(by="clinic")] == [
        ("age zero", "north"),
        ("sex zero", "north"),
    ]
    assert [each["difference"] for each in found.worst(2)] == [-0.3, -0.05]
    with pytest.raises(LookupError, match="no groups by 'ward'; it has: 'all', 'clinic'"):
        found.worst(by="ward")


def test_of_errors_the_worst_is_the_one_that_rises_most(client, server):
    names = ["change", "by", "group"]
    columns = [
        column_message(name, values) for name, values in zip(names, [["a", "b"], ["all"] * 2, [""] * 2], strict=True)
    ]
    more = {"rows": [9, 9], "mean squared error": [4.0, 1.0], "mean squared error difference": [1.0, -2.0]}
    columns += [column_message(name, values) for name, values in more.items()]
    tables = {"errors": findings_pb2.NamedTable(columns=columns)}
    server.replies["Ablate"] = [part_message(0, 1.0, last=True, tables=tables)]

    found = client.ablate("table", None, Zero("conv"), dataset="adult", method="ablation-study")

    assert [each["change"] for each in found.worst()] == ["a", "b"]
    assert [each["change"] for each in found.ranked(2)] == ["b", "a"]


def test_only_a_study_has_groups_that_lose(client):
    with pytest.raises(LookupError, match="ablation is no study of a data set; ask ablation-study"):
        client.ablate("table", ROW, Zero("conv")).worst()


def test_columns_that_lack_values_in_one_part_only_are_put_together(client, server):
    rows = [column_message("rows", [1, 2]), column_message("rows", [0], [True])]
    server.replies["Ablate"] = [
        part_message(0, 0.5, tables={"t": findings_pb2.NamedTable(columns=[rows[0]])}),
        part_message(1, 1.0, last=True, tables={"t": findings_pb2.NamedTable(columns=[rows[1]])}),
    ]

    found = client.ablate("table", ROW, Zero("conv"))

    assert found.tables["t"]["rows"].tolist() == [1, 2, None]


def test_a_column_that_a_part_lacks_has_missing_values_there(client, server):
    more = [column_message("standard error", [0.5]), column_message("draws", [8]), column_message("note", ["drawn"])]
    effects = [effects_message(["a"], [1.0]), effects_message(["b"], [2.0], *more), effects_message(["c"], [3.0])]
    server.replies["Ablate"] = [
        part_message(number, 1.0, last=number == 2, tables={"effects": each}) for number, each in enumerate(effects)
    ]

    rows = list(client.ablate("table", ROW, Zero("conv")).tables["effects"])

    assert [row["site"] for row in rows] == ["a", "b", "c"]
    assert [row["standard error"] for row in rows] == [None, 0.5, None]
    assert [row["draws"] for row in rows] == [None, 8, None]
    assert [row["note"] for row in rows] == [None, "drawn", None]


def test_parts_come_one_by_one_as_they_are(client):
    parts = list(client.ablate_parts("table", ROW, Zero("conv[*]")))

    assert [len(part.tables.get("effects", ())) for part in parts] == [2, 1, 0]
    assert [part.receipt is not None for part in parts] == [False, False, True]


def test_a_part_is_there_before_the_next_is_made(client, server):
    go = threading.Event()

    def answer(request, context):
        yield effects_part(0)
        go.wait(SECONDS)
        yield effects_part(1, last=True)

    server.replies["Ablate"] = answer
    parts = client.ablate_parts("table", ROW, Zero("conv[*]"))

    assert list(next(parts).tables["effects"]["site"]) == ["conv[0]"]
    go.set()
    assert len(list(parts)) == 1


def test_the_request_says_what_was_asked(client, server):
    client.ablate(
        "table",
        ROW,
        Zero(["conv[*]", Site("fc", units=[1, 2])]),
        Mean("block.1:branch@3-5", reference="background", per_position=True),
        Steer("fc", [1, 2.5], coefficient=-2),
        Patch("attn:heads[2]"),
        method="ablation",
        target="cat",
        contrast=1,
        output="logits",
        space="probabilities",
        metric="logit-difference",
        source=ROW,
        dataset="adult",
        seed=7,
        exact=True,
        version=3,
        joint=True,
    )

    (request,) = server.requests["Ablate"]
    zero, mean, steer, patch = request.interventions
    assert request.model == explanation_pb2.ModelSpec(name="table", version=3)
    assert request.inputs["row"].table.rows[0].cells["age"].number == 40
    assert request.source == request.inputs
    assert (request.method, request.dataset, request.seed, request.exact) == ("ablation", "adult", 7, True)
    assert request.parameters["joint"].flag
    assert request.target.outcome.label == "cat"
    assert list(request.target.contrast.index) == [1]
    assert request.metric == ablation_pb2.METRIC_LOGIT_DIFFERENCE
    assert zero.sites[0] == ablation_pb2.Site(layer="conv", each=ablation_pb2.EACH_UNIT)
    assert zero.sites[1] == ablation_pb2.Site(layer="fc", units=[1, 2])
    assert mean.sites[0] == ablation_pb2.Site(layer="block.1", part=ablation_pb2.SITE_PART_BRANCH, positions=[3, 4, 5])
    assert (mean.reference, mean.per_position) == (ablation_pb2.REFERENCE_BACKGROUND, True)
    assert (from_tensor(steer.vector).tolist(), steer.value) == ([1.0, 2.5], -2.0)
    assert patch.sites[0] == ablation_pb2.Site(layer="attn", part=ablation_pb2.SITE_PART_HEADS, units=[2])
    assert not patch.HasField("value")


def test_inputs_may_be_left_to_a_data_set(client, server):
    client.ablate("table", None, Zero("conv"), dataset="adult")

    assert not server.requests["Ablate"][0].inputs


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ((Zero("conv"),), "inputs is an intervention; inputs go first, or None"),
        ((ROW, "conv"), r"interventions\[0\] is 'conv'; it must be one of Zero, Mean, .* as in Zero\('layer4\[3\]'\)"),
        ((ROW, Zero("conv[")), r"interventions\[0\].sites is 'conv\['; a site is LAYER"),
        ((ROW, Zero("conv"), Zero([])), r"interventions\[1\].sites is empty"),
        ((ROW, Steer("conv", "x")), r"interventions\[0\].vector is 'x'; give an array"),
        ((ROW, Steer("conv", 3)), r"interventions\[0\].vector is of type int|is 3; give an array"),
        ((ROW, Mean("conv", reference="all")), r"interventions\[0\].reference is 'all'; it must be one of 'batch'"),
    ],
)
def test_what_is_no_intervention_is_refused_with_the_remedy(client, server, given, right):
    with pytest.raises(errors.InvalidRequestError, match=right):
        client.ablate("table", *given)
    assert not server.requests["Ablate"]


def test_the_deadline_is_two_minutes_unless_it_is_set(client, server):
    client.ablate("table", ROW, Zero("conv"))
    client.ablate("table", ROW, Zero("conv"), timeout=5)

    first, second = server.remaining["Ablate"]
    assert ABLATE_SECONDS - 20 < first < ABLATE_SECONDS + 1
    assert 4 < second < 6


def test_a_deadline_that_passes_in_a_stream_is_a_timeout(client, server):
    def answer(request, context):
        yield effects_part(0)
        ended = threading.Event()
        context.add_callback(ended.set) or ended.set()
        ended.wait(SECONDS)

    server.replies["Ablate"] = answer

    with pytest.raises(errors.TimedOutError, match=r"within 0\.5 s"):
        client.ablate("table", ROW, Zero("conv"), timeout=0.5)


def test_progress_goes_to_a_function_with_the_time_left(client):
    seen = []

    client.ablate("table", ROW, Zero("conv"), progress=lambda share, left: seen.append((share, left)))

    assert [share for share, _ in seen] == [0, 0.25, 0.5, 0.75, 1]
    assert seen[0][1] is None
    assert all(left >= 0 for _, left in seen[1:])
    assert seen[-1][1] == 0


def test_what_a_progress_function_raises_ends_the_call(client, server):
    cancelled = threading.Event()

    def answer(request, context):
        context.add_callback(cancelled.set) or cancelled.set()
        yield progress_message(0.5)
        cancelled.wait(SECONDS)

    def stop(share, left):
        raise ArithmeticError

    server.replies["Ablate"] = answer

    with pytest.raises(ArithmeticError):
        client.ablate("table", ROW, Zero("conv"), progress=stop)
    assert cancelled.wait(SECONDS)


@pytest.mark.parametrize("progress", ["yes", 1, None])
def test_progress_is_a_flag_or_a_function(client, progress):
    with pytest.raises(errors.InvalidRequestError, match="it must be True, False or a function"):
        client.ablate("table", ROW, Zero("conv"), progress=progress)


def test_a_stream_that_breaks_before_its_first_part_is_asked_for_again(hurried, server, pauses):
    seen = []
    tries = iter([breaking([progress_message(0.5)]), breaking([]), lambda request, context: iter(ablate_messages())])

    def answer(request, context):
        yield from next(tries)(request, context)

    server.replies["Ablate"] = answer

    found = hurried.ablate("table", ROW, Zero("conv"), progress=lambda share, left: seen.append(share))

    assert len(found.effects) == 3
    assert len(server.requests["Ablate"]) == 3
    assert len(pauses) == 2
    assert seen == [0.5, 0, 0.25, 0.5, 0.75, 1]


def test_a_refusal_for_load_is_tried_again_after_the_servers_time(hurried, server, pauses):
    trailing = (("grpc-retry-pushback-ms", "1500"),)
    server.failures["Ablate"].append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailing))

    assert len(hurried.ablate("table", ROW, Zero("conv")).effects) == 3
    assert pauses[0] >= 1.5


def test_a_stream_that_breaks_after_a_part_is_unavailable_and_not_asked_for_again(hurried, server):
    server.replies["Ablate"] = breaking([effects_part(0)])

    with pytest.raises(errors.UnavailableError):
        hurried.ablate("table", ROW, Zero("conv"))
    assert len(server.requests["Ablate"]) == 1


def test_parts_that_came_before_the_break_stay(hurried, server):
    server.replies["Ablate"] = breaking([effects_part(0), effects_part(1)])
    parts = hurried.ablate_parts("table", ROW, Zero("conv"))

    assert [next(parts).tables["effects"]["site"][0] for _ in range(2)] == ["conv[0]", "conv[1]"]
    with pytest.raises(errors.UnavailableError):
        next(parts)


UNREADABLE = {
    "no message": [],
    "no part": [progress_message(1.0)],
    "no receipt": [effects_part(0)],
    "a part twice": [effects_part(0), effects_part(0), effects_part(1, last=True)],
    "a part left out": [effects_part(1, last=True)],
    "a part after the last": [effects_part(0, last=True), effects_part(1, last=True)],
    "progress above 1": [progress_message(1.5), effects_part(0, last=True)],
    "progress that is no number": [progress_message(math.nan), effects_part(0, last=True)],
    "one array in two parts": [
        part_message(0, 0.5, arrays={"a": findings_pb2.NamedArray(values=to_tensor(1.0))}),
        part_message(1, 1.0, last=True, arrays={"a": findings_pb2.NamedArray(values=to_tensor(1.0))}),
    ],
    "a column whose unit changes": [
        part_message(0, 0.5, tables={"t": findings_pb2.NamedTable(columns=[column_message("x", [1.0], unit="m")])}),
        part_message(1, 1.0, last=True, tables={"t": findings_pb2.NamedTable(columns=[column_message("x", [1.0])])}),
    ],
    "a column whose type changes": [
        effects_part(0),
        part_message(1, 1.0, last=True, tables={"effects": effects_message(["conv[1]"], [1])}),
    ],
    "an array without its axes": [
        part_message(0, 1.0, last=True, arrays={"a": findings_pb2.NamedArray(values=to_tensor([1.0]))})
    ],
}


@pytest.mark.parametrize("messages", UNREADABLE.values(), ids=UNREADABLE)
def test_a_stream_that_makes_no_sense_is_unreadable(client, server, messages):
    server.replies["Ablate"] = messages

    with pytest.raises(errors.PellucidError, match="cannot be read"):
        client.ablate("table", ROW, Zero("conv"))
    assert len(server.requests["Ablate"]) == 1


def test_a_server_without_the_call_is_an_error_of_its_own(client, server):
    server.failures["Ablate"].append(Failure(grpc.StatusCode.UNIMPLEMENTED))

    with pytest.raises(errors.UnimplementedError):
        client.ablate("table", ROW, Zero("conv"))


def test_an_answer_that_was_cut_short_says_so(client, server):
    accuracy = explanation_pb2.Accuracy(partial=True)
    tables = {"effects": effects_message(["conv[0]"], [1.0])}
    server.replies["Ablate"] = [
        part_message(0, 0.25, tables=tables),
        part_message(1, 1.0, last=True, accuracy=accuracy),
    ]

    found = client.ablate("table", ROW, Zero("conv[*]"))

    assert found.partial
    assert found.progress == 0.25
    assert "partial (25% done)" in repr(found)


def counterfactual_messages(**more):
    """Write the counterfactuals of two rows: two of the first, none of the second."""
    places = [column_message("row", [0, 0, 1]), column_message("number", [0, 1, 0])]
    gone = [False, False, True]
    found = [
        column_message("found", [True, True, False]),
        column_message("valid", [True, False, False]),
        column_message("minimal", [True, False, False], gone),
        column_message("distance", [1.5, 2.0, 0.0], gone),
        column_message("changed", [1, 2, 0], gone),
        column_message("score_before", [0.9, 0.9, 0.8]),
        column_message("score_after", [0.4, 0.3, 0.0], gone),
        column_message("prediction_before", ["malignant", "malignant", "malignant"]),
        column_message("prediction_after", ["benign", "benign", ""], gone),
    ]
    numbers = [False, False, True]
    changes = [
        column_message("row", [0, 0, 0]),
        column_message("number", [0, 1, 1]),
        column_message("column", ["worst radius", "age", "colour"]),
        column_message("before", ["17.94", "40", "red"]),
        column_message("after", ["14.2", "41", "green"]),
        column_message("before_value", [17.94, 40.0, 0.0], numbers),
        column_message("after_value", [14.2, 41.0, 0.0], numbers),
        column_message("unit", ["mm", "", ""]),
    ]
    rows = [
        column_message("row_", [0, 0]),
        column_message("number", [0, 1]),
        column_message("row", [14.2, 17.94]),
        column_message("colour", ["red", "green"]),
    ]
    tables = {
        "counterfactuals": findings_pb2.NamedTable(columns=[*places, *found]),
        "changes": findings_pb2.NamedTable(columns=changes),
        "rows": findings_pb2.NamedTable(columns=rows),
    }
    return [part_message(0, 1.0, last=True, tables=tables, **more)]


def test_counterfactuals_are_said_in_words_and_sent_back_as_rows(client, server):
    server.replies["Ablate"] = counterfactual_messages()

    found = client.counterfactual("table", [ROW, ROW], wanted="benign", k=2)

    assert found.sentences() == [
        "benign if worst radius were 14.2 mm instead of 17.94 mm",
        "benign if age were 41 instead of 40 and colour were green instead of red (not valid on the served model)",
        "row 1: not found within the budget",
    ]
    first, second, third = found
    assert first.values == {"row": 14.2, "colour": "red"}
    assert (first.distance, first.changed, first.minimal, first.valid) == (1.5, 1, True, True)
    assert second.changes[1].after == "green"
    assert (third.found, third.minimal, third.distance, third.changes) == (False, None, None, ())
    assert found.of_row(1) == (third,)
    assert (len(found), found[0]) == (3, first)
    assert found.model.version == 3
    assert repr(found) == "<Counterfactuals by photos/3: 2 of 3 found>"
    assert "benign if worst radius" in found._repr_html_()
    assert list(found.to_pandas()["column"]) == ["worst radius", "age", "colour"]
    assert found.to_dict()["counterfactuals"][0]["sentence"] == found.sentences()[0]


def test_a_row_without_a_line_was_not_found(client, server):
    server.replies["Ablate"] = counterfactual_messages()

    found = client.counterfactual("table", [ROW] * 4)

    assert [each.row for each in found] == [0, 0, 1, 2, 3]
    assert found.sentences()[3:] == ["row 2: not found within the budget", "row 3: not found within the budget"]


def lines_message(**columns):
    """Write counterfactuals of row 0, a line for each value of the columns."""
    count = len(next(iter(columns.values())))
    places = [column_message("row", [0] * count), column_message("number", list(range(count)))]
    rest = [column_message(name, values) for name, values in columns.items()]
    return [part_message(0, 1.0, last=True, tables={"counterfactuals": findings_pb2.NamedTable(columns=places + rest)})]


def test_the_row_itself_the_closest_and_rows_of_the_background_are_said_as_such(client, server):
    server.replies["Ablate"] = lines_message(
        found=[True, False, True],
        valid=[True, False, True],
        source=["row", "search", "background"],
        changed=[0, 2, 3],
        score_after=[0.9, 0.4, 0.8],
        prediction_after=["benign", "malignant", "benign"],
    )

    assert client.counterfactual("table", ROW).sentences() == [
        "benign as it is",
        "row 0: not found within the budget; the closest has the score 0.4",
        "benign if 3 elements changed (a row of the background)",
    ]


RECORD = ablation_pb2.AblationRecord


@pytest.mark.parametrize(
    ("reason", "wanted", "margin", "words"),
    [
        ("impossible", {"outcome": {"label": "benign"}}, -0.25, "benign is impossible: the rules for columns leave"),
        ("ended", {"outcome": {"index": [1]}}, -0.25, "dog was not found: the search ended without it"),
        ("budget", {"minimum": 5, "maximum": 7}, -0.25, "a score of at least 5 and at most 7 was not found within the"),
        ("deadline", {}, -0.25, "another answer was not found before the deadline"),
        ("budget", {}, None, "another answer was not found within the evaluations that were allowed"),
        ("", {}, None, "not found within the budget; the closest has the score 5.86"),
        ("of a newer server", {}, None, "not found within the budget"),
    ],
)
def test_the_reason_why_nothing_was_found_is_said_with_what_was_wanted_and_how_far_it_is(
    client, server, reason, wanted, margin, words
):
    columns = {"found": [False], "score_after": [5.86], "prediction_after": ["malignant"], "reason": [reason]}
    (message,) = lines_message(**columns, **({} if margin is None else {"margin": [margin]}))
    message.findings.receipt.target.output = "logits"
    if wanted:
        message.findings.ablation.CopyFrom(RECORD(wanted=wanted))
    server.replies["Ablate"] = [message]

    (found,) = client.counterfactual("table", ROW)

    assert found.sentence.startswith(f"row 0: {words}")
    assert found.sentence.endswith("; the closest falls short by 0.25") == (margin is not None)
    assert (found.reason, found.margin, found.values) == (reason, margin, None)


def test_a_closest_candidate_that_ties_falls_short_by_nothing(client, server):
    server.replies["Ablate"] = lines_message(found=[False], reason=["ended"], margin=[0.0])

    (found,) = client.counterfactual("table", ROW)

    assert found.sentence.endswith("; the closest is on its edge")


def refusing(message, field, code=grpc.StatusCode.INVALID_ARGUMENT):
    """Answer with a status that names a field, as the server writes it."""

    def answer(request, context):
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details = any_pb2.Any()
        details.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        status = status_pb2.Status(code=code.value[0], message=message, details=[details])
        context.abort_with_status(rpc_status.to_status(status))
        yield

    return answer


@pytest.mark.parametrize(
    ("message", "field", "said", "named"),
    [
        ("columns[1].column is 'agee'.", "columns[1].column", "columns['agee'] is 'agee'.", "columns['agee']"),
        ("columns[0].minimum is 5.", "columns[0].minimum", "columns['n'].minimum is 5.", "columns['n'].minimum"),
        ("columns[7].minimum is 5.", "columns[7].minimum", "columns[7].minimum is 5.", "columns[7].minimum"),
        ("wanted.outcome.label is 'x'.", "wanted.outcome.label", "wanted is 'x'.", "wanted"),
        ("target.contrast.index is 9.", "target.contrast.index", "contrast is 9.", "contrast"),
        ("parameters[k] is 0.", "parameters[k]", "parameters[k] is 0.", "parameters[k]"),
    ],
)
def test_a_refusal_names_the_arguments_as_the_caller_wrote_them(client, server, message, field, said, named):
    server.replies["Ablate"] = refusing(message, field)

    with pytest.raises(errors.InvalidRequestError) as caught:
        client.counterfactual("table", ROW, columns={"n": (5, 1), "agee": Fixed})

    assert (caught.value.message, caught.value.violations) == (said, {named: said})


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (17.94, 14.2, "x were 14.2 instead of 17.94"),
        (0.12345, 0.12347, "x were 0.12347 instead of 0.12345"),
        (1.0, 1.0 + 2**-52, "x were 1.0000000000000002 instead of 1"),
        (101.0, 0.0, "x were 0 instead of 101"),
        (1e20, -1e-20, "x were -1e-20 instead of 1e+20"),
        ("red", "green", "x were green instead of red"),
    ],
)
def test_before_and_after_have_as_many_digits_as_tell_them_apart(before, after, words):
    assert str(Change("x", before, after)) == words


def test_a_model_without_classes_is_said_by_its_score(client, server):
    server.replies["Ablate"] = lines_message(
        found=[True], valid=[True], changed=[2], score_after=[151.26], prediction_after=[""]
    )

    assert client.counterfactual("table", ROW, minimum=150).sentences() == ["151.3 if 2 elements changed"]


def test_arrays_and_pictures_are_with_their_row(client, server):
    picture = findings_pb2.Picture(data=b"png", media_type="image/png", width=2, height=1, text="Changed.")
    pictures = {"counterfactual/0/image": picture, "counterfactual/10/image": picture}
    arrays = {"change/1/image": findings_pb2.NamedArray(values=to_tensor(1.0))}
    server.replies["Ablate"] = counterfactual_messages(pictures=pictures, arrays=arrays)

    first, second, third = client.counterfactual("table", [ROW, ROW])

    assert [list(each.pictures) for each in (first, second, third)] == [["counterfactual/0/image"], [], []]
    assert [list(each.arrays) for each in (first, second, third)] == [[], [], ["change/1/image"]]


def test_a_counterfactual_request_says_what_is_wanted_and_what_columns_may_do(client, server):
    server.replies["Ablate"] = counterfactual_messages()
    columns = {
        "age": Fixed,
        "mean radius": (10, None),
        "colour": Rule(categories=["green"]),
        "n": Rule(only_up=True, whole=True),
    }

    client.counterfactual("table", ROW, wanted=1, columns=columns, seed=3, k=2, distance="l1")

    (request,) = server.requests["Ablate"]
    assert (request.method, request.seed) == ("counterfactual", 3)
    assert (request.parameters["k"].integer, request.parameters["distance"].text) == (2, "l1")
    assert list(request.wanted.outcome.index) == [1]
    assert not request.wanted.HasField("minimum")
    assert list(request.columns) == [
        ablation_pb2.ColumnRule(column="age", fixed=True),
        ablation_pb2.ColumnRule(column="mean radius", minimum=10),
        ablation_pb2.ColumnRule(column="colour", categories=["green"]),
        ablation_pb2.ColumnRule(column="n", only_up=True, whole=True),
    ]


def test_bounds_of_the_score_take_the_place_of_a_class(client, server):
    server.replies["Ablate"] = counterfactual_messages()

    client.counterfactual("table", ROW, minimum=0, target="cat", space="probabilities")
    client.counterfactual("table", ROW)

    first, second = server.requests["Ablate"]
    assert (first.wanted.minimum, first.wanted.HasField("minimum"), first.wanted.HasField("outcome")) == (
        0,
        True,
        False,
    )
    assert not second.HasField("wanted")


@pytest.mark.parametrize(
    ("columns", "right"),
    [
        ({"age": "fixed"}, r"columns\['age'\] is 'fixed'; it must be Fixed, a pair of minimum and maximum, or a Rule"),
        ({"age": (1, 2, 3)}, r"columns\['age'\] has 3 entries; it must be the pair"),
        ({"age": ("a", 2)}, r"columns\['age'\].minimum is 'a'; it must be a number"),
        ([1], "columns is of type list; it must be a dict of rules"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_remedy(client, columns, right):
    with pytest.raises(errors.InvalidRequestError, match=right):
        client.counterfactual("table", ROW, columns=columns)


def test_values_of_arrays_put_together_cannot_be_changed(client):
    values = client.ablate("table", ROW, Zero("conv[*]")).tables["effects"]["effect"]

    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    np.testing.assert_array_equal(values, [0.5, -2, 1])
