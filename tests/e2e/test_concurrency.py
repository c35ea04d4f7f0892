"""Many requests at once are answered as each is alone: packed rows change nothing but the last bits."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import PICTURE_MODEL, TABLE_MODEL, attribute, pictures, predict, rows, spec
from e2e.serving import LONG_SECONDS, Server, children, wait_until
from pellucid.tensors import from_tensor
from pellucid_server.engine import methods
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from standstill import stop

Floats = npt.NDArray[np.float64]

CALLERS = 16
CROWDS = 10

registry.discover(methods)
NAMES = [method.name for method in registry.methods() if method.verb is ATTRIBUTE]

# Every installed method is held to the same; these work with fixed plans, and little of it on pictures.
TABLE_METHODS = {name: spec(name) for name in NAMES} | {
    "integrated-gradients": spec("integrated-gradients", steps=16),
    "kernel-shap": spec("kernel-shap", samples=256),
    "occlusion": spec("occlusion", window=3),
    "smoothgrad": spec("smoothgrad", samples=16),
}
PICTURE_METHODS = {name: spec(name) for name in NAMES} | {
    "feature-ablation": spec("feature-ablation", segments=6),
    "integrated-gradients": spec("integrated-gradients", steps=6),
    "kernel-shap": spec("kernel-shap", segments=4, regions="grid"),
    "occlusion": spec("occlusion", window=112, stride=112),
    "smoothgrad": spec("smoothgrad", samples=4),
}

Answers = Mapping[str, list[Any]]


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(CALLERS) as callers:
        return [call.result() for call in [callers.submit(call) for call in calls]]


def rows_of_others(attribution: Any) -> int:
    """Return how many rows of other requests were in the device batches of this one."""
    work = attribution.receipt.work
    return sum(shape.rows * shape.batches for shape in work.batch_shapes) - work.rows_forward - work.rows_backward


def in_a_crowd(calls: list[Callable[[], Any]], beside: list[Callable[[], Any]]) -> list[Any]:
    """Return the replies to the calls, made at once with others until their rows met.

    Which requests are at work at the same moment is chance: a crowd in which none met another shows nothing of packing.
    """
    for _ in range(CROWDS):
        replies = at_once(calls + beside)[: len(calls)]
        if sum(rows_of_others(attribution) for each in replies for attribution in each.explanation.attributions) > 0:
            break
    return replies


def asked(server: Server, model: str, explanations: Mapping[str, Any], inputs: list[Any]) -> list[Callable[[], Any]]:
    """Return a call for each method and input."""
    requests = [attribute(model, given, explanation) for explanation in explanations.values() for given in inputs]
    return [lambda request=request: server.explanations.Attribute(request) for request in requests]


def by_method(explanations: Mapping[str, Any], replies: list[Any], inputs: int) -> Answers:
    attributions = [reply.explanation.attributions[0] for reply in replies]
    return {name: attributions[number * inputs : (number + 1) * inputs] for number, name in enumerate(explanations)}


@pytest.fixture(scope="module")
def table_answers(server: Server, table: Floats) -> tuple[Answers, Answers]:
    """Each method's answers for three rows of a table, alone and among sixteen callers."""
    inputs = [{"features": rows(table[index : index + 1])} for index in (0, 100, 200)]
    calls = asked(server, TABLE_MODEL, TABLE_METHODS, inputs)
    alone = [call() for call in calls]
    crowded = in_a_crowd(calls, [])
    return by_method(TABLE_METHODS, alone, len(inputs)), by_method(TABLE_METHODS, crowded, len(inputs))


@pytest.fixture(scope="module")
def picture_answers(server: Server, cat: bytes) -> tuple[Answers, Answers]:
    """Each method's answers for a photograph and for noise, alone and among sixteen callers."""
    noise = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    inputs = [{"image": pictures(cat)}, {"image": rows(noise)}]
    calls = asked(server, PICTURE_MODEL, PICTURE_METHODS, inputs)
    alone = [call() for call in calls]
    crowded = at_once(calls)
    return by_method(PICTURE_METHODS, alone, len(inputs)), by_method(PICTURE_METHODS, crowded, len(inputs))


def scores(attribution: Any) -> Floats:
    (entry,) = attribution.inputs.values()
    return from_tensor(entry.scores).astype(np.float64)


def assert_alike(alone: list[Any], crowded: list[Any]) -> None:
    for one, other in zip(alone, crowded, strict=True):
        expected = scores(one)
        np.testing.assert_allclose(scores(other), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert other.receipt.input_digest == one.receipt.input_digest
        assert other.receipt.work.rows_forward == one.receipt.work.rows_forward
        assert other.receipt.work.rows_backward == one.receipt.work.rows_backward


@pytest.mark.parametrize("method", TABLE_METHODS)
def test_a_table_row_is_explained_alike_alone_and_in_a_crowd(
    table_answers: tuple[Answers, Answers], method: str
) -> None:
    alone, crowded = table_answers

    assert_alike(alone[method], crowded[method])


@pytest.mark.parametrize("method", PICTURE_METHODS)
def test_a_picture_is_explained_alike_alone_and_in_a_crowd(
    picture_answers: tuple[Answers, Answers], method: str
) -> None:
    alone, crowded = picture_answers

    assert_alike(alone[method], crowded[method])


def test_a_crowds_rows_are_packed_together(table_answers: tuple[Answers, Answers]) -> None:
    alone, crowded = (
        sum(rows_of_others(each) for found in answers.values() for each in found) for answers in table_answers
    )

    assert alone == 0
    assert crowded > 0


@pytest.fixture(scope="module")
def adaptive_answers(server: Server, table: Floats, cat: bytes) -> tuple[list[Any], list[Any]]:
    """Adaptive answers for rows and a photograph, alone and at once with predictions and methods of fixed plans."""
    adaptive = {"integrated-gradients": spec("integrated-gradients", tolerance=0.001)}
    on_pictures = {"integrated-gradients": spec("integrated-gradients", tolerance=0.2)}
    inputs = [{"features": rows(table[index : index + 1])} for index in range(8)]
    picture = {"image": pictures(cat)}
    calls = asked(server, TABLE_MODEL, adaptive, inputs) + asked(server, PICTURE_MODEL, on_pictures, [picture])
    fixed = {name: TABLE_METHODS[name] for name in ("kernel-shap", "occlusion", "smoothgrad")}
    request = predict(PICTURE_MODEL, picture)
    beside = [*asked(server, TABLE_MODEL, fixed, inputs[:2]), lambda: server.explanations.Predict(request)]

    alone = [call() for call in calls]
    assert len(calls + beside) == CALLERS
    crowded = in_a_crowd(calls, beside)

    return [each.explanation.attributions[0] for each in alone], [each.explanation.attributions[0] for each in crowded]


def test_an_adaptive_method_has_the_same_plan_and_answer_alone_and_in_a_crowd(
    adaptive_answers: tuple[list[Any], list[Any]],
) -> None:
    alone, crowded = adaptive_answers

    assert_alike(alone, crowded)
    assert sum(rows_of_others(each) for each in crowded) > 0
    # Plans differ between inputs: that they are equal in pairs is no matter of course.
    assert len({each.receipt.work.rows_backward for each in alone}) > 1


def test_an_adaptive_method_meets_its_tolerance_in_a_crowd(adaptive_answers: tuple[list[Any], list[Any]]) -> None:
    _, crowded = adaptive_answers

    found = crowded[:8]
    changes = np.array([each.instance_output_value - each.baseline_output_value for each in found])
    totals = np.array([scores(each).sum() for each in found])
    assert all(each.accuracy.tolerance_met for each in found)
    assert (np.abs(totals - changes) <= 0.00101 * np.abs(changes) + 1e-5).all()


def test_a_prediction_beside_attributions_is_the_quiet_one(server: Server, cat: bytes) -> None:
    request = predict(PICTURE_MODEL, {"image": pictures(cat)})
    quiet = server.explanations.Predict(request)
    busy = attribute(PICTURE_MODEL, {"image": pictures(cat)}, spec("integrated-gradients", steps=8))

    attributions = [lambda: server.explanations.Attribute(busy)] * 4
    replies = at_once([*attributions, *[lambda: server.explanations.Predict(request)] * 12])[4:]

    expected = from_tensor(quiet.outputs["output"].values)
    for reply in replies:
        np.testing.assert_allclose(
            from_tensor(reply.outputs["output"].values), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


def test_predictions_in_batches_of_one_shape_are_equal_bit_for_bit(server: Server, cat: bytes) -> None:
    request = predict(PICTURE_MODEL, {"image": pictures(cat)})
    quiet = server.explanations.Predict(request)
    busy = attribute(PICTURE_MODEL, {"image": pictures(cat)}, spec("integrated-gradients", steps=16))
    running = server.explanations.Attribute.future(busy)

    beside = [server.explanations.Predict(request) for _ in range(4)]

    assert len(running.result().explanation.attributions) == 1
    alike = [reply for reply in beside if reply.receipt.work == quiet.receipt.work]
    assert alike
    assert {reply.outputs["output"].values.data for reply in alike} == {quiet.outputs["output"].values.data}


def helper_pids(server: Server) -> list[int]:
    """Return the ids of the worker's helper processes, in the order of their start."""
    return sorted(children(server.worker_pid(), "pellucid-helper"))


def test_superpixels_do_not_wait_for_another_callers_long_analysis(server: Server, cat: bytes) -> None:
    (standing,) = helper_pids(server)
    small = attribute(PICTURE_MODEL, {"image": pictures(cat)}, spec("feature-ablation", segments=2))
    large = spec("kernel-shap", segments=500, samples=16384, regions="grid")
    long = server.explanations.Attribute.future(attribute(PICTURE_MODEL, {"image": pictures(cat)}, large))
    try:
        # The design of 484 players is drawn first; the process for it imports for as long as it takes to see it.
        wait_until(
            lambda: len(helper_pids(server)) == 2 or long.done(),
            seconds=LONG_SECONDS,
            what="the long call has a process",
        )
        (drawing,) = set(helper_pids(server)) - {standing}
        stop(drawing)

        reply = server.explanations.Attribute(small, timeout=LONG_SECONDS)

        assert len(reply.explanation.attributions) == 1
        assert "State:\tT" in Path(f"/proc/{drawing}/status").read_text()
        assert not long.done()
    finally:
        long.cancel()
    # It is killed with the call that it was at, and stands ready again for a while.
    wait_until(lambda: drawing not in helper_pids(server), seconds=LONG_SECONDS, what="the long call has ended")
    assert standing in helper_pids(server)


def test_exact_answers_have_the_same_bytes_alone_in_a_crowd_and_for_each_row_by_itself(
    server: Server, table: Floats
) -> None:
    exact = {name: type(each).FromString(each.SerializeToString()) for name, each in TABLE_METHODS.items()}
    for each in exact.values():
        each.exact = True
    crowd = asked(server, TABLE_MODEL, TABLE_METHODS, [{"features": rows(table[:2])}])
    together = asked(server, TABLE_MODEL, exact, [{"features": rows(table[:3])}])
    alone = [call() for call in together]
    crowded = in_a_crowd(together + crowd, crowd)
    row_by_row = [
        server.explanations.Attribute(attribute(TABLE_MODEL, {"features": rows(table[row : row + 1])}, each))
        for each in exact.values()
        for row in range(3)
    ]

    met = [rows_of_others(attribution) for reply in crowded for attribution in reply.explanation.attributions]
    assert sum(met) > 0, "no rows met: the crowd shows nothing"
    for one, other in zip(alone, crowded, strict=False):
        assert [made_of(each) for each in other.explanation.attributions] == [
            made_of(each) for each in one.explanation.attributions
        ]
    expected = [made_of(attribution) for reply in alone for attribution in reply.explanation.attributions]
    assert [made_of(reply.explanation.attributions[0]) for reply in row_by_row] == expected


def made_of(attribution: Any) -> bytes:
    """Return all of an attribution as bytes: its receipt names the batches, which are its own."""
    assert attribution.receipt.exact
    assert rows_of_others(attribution) == 0
    encoded: bytes = attribution.SerializeToString(deterministic=True)
    return encoded
