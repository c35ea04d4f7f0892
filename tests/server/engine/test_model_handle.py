import dataclasses
import math
import threading
import time

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.model_handle import WorkerServices
from pellucid_server.engine.evaluations.recipes import Path, Rows
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.methods.shared.coalitions import Sampled, design, drawn
from pellucid_server.engine.methods.shared.groups import superpixels
from pellucid_server.engine.models.graph.suffix import Suffix as SuffixGraph
from pellucid_server.engine.tasks.helper import HelperError
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, OverloadedError, TimedOutError
from pellucid_server.faults import Faults
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.models.networks import ZOO, eager, zoo_graph, zoo_module, zoo_rows
from standstill import stop

NETWORKS = sorted(ZOO)
FLOATING = [name for name in NETWORKS if all(rows.is_floating_point() for rows in zoo_rows(name, 2, 5).values())]


def arrays(name, batch, length=5):
    return {key: rows.numpy() for key, rows in zoo_rows(name, batch, length).items()}


def first_output(name):
    return zoo_graph(name).outputs[0].name


def forward(handle, rows):
    return handle.ask(Forward(Rows(rows))).arrays


def scores(handle, rows, target):
    return handle.ask(Score(Rows(rows), target)).scores


def gradient(handle, rows, target, *, at=""):
    answer = handle.ask(Gradient(Rows(rows), target, at))
    return answer.scores, answer.values


def activations(handle, rows, layers):
    return handle.ask(Capture(Rows(rows), layers)).arrays


def suffix(handle, rows, layer, values):
    return handle.ask(Suffix(handle.hold(Rows(rows), layer), Rows({layer: values}))).arrays


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_is_what_the_eager_network_says(bench, name):
    handle = bench.handle(name)

    (outputs,) = bench.run(lambda: forward(handle, arrays(name, 7)))

    for found, expected in zip(outputs.values(), eager(zoo_module(name), zoo_rows(name, 7, 5)), strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FLOATING)
@pytest.mark.parametrize("space", ["", "softmax", "sigmoid"])
def test_gradients_and_scores_are_autograds_on_the_eager_network(bench, name, space):
    handle, rows = bench.handle(name), zoo_rows(name, 5, 5)
    target = Target(first_output(name), ((1, 1.0), (0, -1.0)), space)
    leaves = {key: value.clone().requires_grad_() for key, value in rows.items()}
    outputs = eager(zoo_module(name), leaves)[0]
    read = {"": lambda v: v, "softmax": lambda v: v.softmax(-1), "sigmoid": torch.sigmoid}[space](outputs)
    expected = read.flatten(1)[:, 1] - read.flatten(1)[:, 0]
    expected.sum().backward()

    found, gradients = bench.run(lambda: gradient(handle, arrays(name, 5), target))[0]
    (only_scores,) = bench.run(lambda: scores(handle, arrays(name, 5), target))

    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(only_scores, expected.detach().numpy(), rtol=1e-4, atol=1e-6)
    for key, leaf in leaves.items():
        np.testing.assert_allclose(gradients[key], leaf.grad.numpy(), rtol=1e-3, atol=1e-6)


def test_rows_that_a_recipe_grows_can_be_held_as_those_that_lie_there(bench):
    name = FLOATING[0]
    row = {key: value[0] for key, value in arrays(name, 1).items()}
    layer = next(each for each, found in zoo_graph(name).layers.items() if found.cuttable)
    handle, places = bench.handle(name), np.array([0.25, 0.5, 1.0])
    path = Path({key: np.zeros_like(value) for key, value in row.items()}, row, places)
    rows = {key: (places.reshape(-1, *(1,) * value.ndim) * value).astype(value.dtype) for key, value in row.items()}

    grown, lying = bench.run(lambda: handle.hold(path, layer).values, lambda: handle.hold(Rows(rows), layer).values)

    np.testing.assert_allclose(grown, lying, rtol=1e-5, atol=1e-6)


def test_a_gradient_at_an_embedding_reaches_a_model_of_integer_tokens(bench):
    handle = bench.handle("tokens")
    target = Target(first_output("tokens"), ((0, 1.0),))
    rows = arrays("tokens", 3)
    (values,) = bench.run(lambda: activations(handle, rows, ("embedding",)))
    (_, gradients) = bench.run(lambda: gradient(handle, rows, target, at="embedding"))[0]
    step = 1e-2
    nudge = np.zeros_like(values["embedding"])
    nudge[:, 1, 2] = step

    up, down = bench.run(
        lambda: suffix(handle, rows, "embedding", values["embedding"] + nudge),
        lambda: suffix(handle, rows, "embedding", values["embedding"] - nudge),
    )

    slope = (next(iter(up.values()))[:, 0] - next(iter(down.values()))[:, 0]) / (2 * step)
    np.testing.assert_allclose(gradients["embedding"][:, 1, 2], slope, rtol=0.05, atol=1e-4)


def test_a_suffix_with_one_row_for_all_values_is_a_full_run_of_each(bench):
    handle, rows = bench.handle("residual"), arrays("residual", 6)
    layer = ZOO["residual"].cuts.split()[1]
    values, expected = bench.run(lambda: activations(handle, rows, (layer,)), lambda: forward(handle, rows))
    one = {name: value[:1] for name, value in rows.items()}

    same, shared = bench.run(
        lambda: suffix(handle, rows, layer, values[layer]), lambda: suffix(handle, one, layer, values[layer])
    )

    for name in expected:
        np.testing.assert_allclose(same[name], expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(shared[name][0], expected[name][0], rtol=1e-5, atol=1e-6)


def test_what_lies_before_a_cut_runs_once_for_any_number_of_values(bench):
    handle, rows = bench.handle("residual"), arrays("residual", 1)
    layer = ZOO["residual"].cuts.split()[1]

    def edited():
        held = handle.hold(Rows(rows), layer)
        values = np.repeat(held.values, 120, axis=0)
        values[np.arange(120), np.arange(120) % values.shape[1]] = 0
        return suffixes(handle, held, values), handle.ask(Forward(Rows(rows))).arrays, held

    (found, plain, held) = bench.run(edited)[0]

    shapes = {(shape.evaluation, shape.rows): shape.batches for shape in handle.tally.work().batch_shapes}
    assert shapes["prefix", 1] == 1
    assert sum(rows * count for (kind, rows), count in shapes.items() if kind == "suffix") == 120
    assert held.nbytes >= held.values.nbytes
    for name in plain:
        assert len(found[name]) == 120
        assert not np.allclose(found[name], plain[name])


def suffixes(handle, held, values):
    return handle.ask(Suffix(held, Rows({held.layer: values}))).arrays


def test_values_beside_another_requests_go_on_from_their_own_rows(bench):
    name, layer = "residual", ZOO["residual"].cuts.split()[1]
    rows = arrays(name, 8)
    handles = [bench.handle(name) for _ in range(8)]
    (expected,) = bench.run(lambda: forward(handles[0], rows))

    def one(number):
        own = {key: value[number : number + 1] for key, value in rows.items()}
        held = handles[number].hold(Rows(own), layer)
        return suffixes(handles[number], held, np.repeat(held.values, 3, axis=0))

    found = bench.run(*(lambda n=n: one(n) for n in range(8)))

    for key, values in expected.items():
        for number in range(8):
            np.testing.assert_allclose(found[number][key], np.tile(values[number], (3, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", ["", "softmax"])
def test_a_gradient_at_given_values_is_the_gradient_at_the_layer(bench, space):
    name, layer = "residual", ZOO["residual"].cuts.split()[1]
    handle, rows, target = bench.handle(name), arrays(name, 4), Target(first_output(name), ((1, 1.0), (0, -1.0)), space)

    def given():
        held = handle.hold(Rows(rows), layer)
        answer = handle.ask(Suffix(held, Rows({layer: held.values}), target, gradient=True))
        plain = handle.ask(Suffix(held, Rows({layer: held.values}), target))
        return answer.scores, answer.values[layer], plain.scores

    ((values, slopes, plain),) = bench.run(given)
    ((expected, gradients),) = bench.run(lambda: gradient(handle, rows, target, at=layer))

    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes, gradients[layer], rtol=1e-4, atol=1e-6)


def test_a_request_holds_no_more_bytes_than_one_may_and_can_let_go(bench, monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.tasks.request_state.MOST_HELD_BYTES", 1 << 13)
    request = RequestState(1, None)
    handle, layer = bench.handle("residual", request=request), ZOO["residual"].cuts.split()[1]
    rows = Rows(arrays("residual", 2))
    (held,) = bench.run(lambda: handle.hold(rows, layer))
    before = request.held_bytes

    handle.release(held)
    with pytest.raises(OverloadedError, match=r"would hold .* bytes of a layer's values"):
        bench.run(lambda: [handle.hold(rows, layer) for _ in range(1 << 10)])

    assert before == held.nbytes
    assert request.held_bytes <= 1 << 13


@pytest.mark.parametrize("name", ["residual", "encoder", "several-inputs", "convolutional"])
def test_cuts_held_together_are_those_held_one_by_one_and_take_one_pass(bench, name):
    request = RequestState(1, None)
    handle, rows = bench.handle(name, request=request), Rows(arrays(name, 3))
    layers = [layer for layer in ZOO[name].cuts.split() if layer in zoo_graph(name).sites][:6]

    def both():
        together = handle.hold_each(rows, (*reversed(layers), layers[0]))
        passes = handle.tally.work().batch_shapes
        return together, passes, [handle.hold(rows, layer) for layer in layers]

    together, passes, alone = bench.run(both)[0]

    assert [each.layer for each in together] == [*reversed(layers), layers[0]]
    assert together[-1] is together[-2]
    assert [(shape.evaluation, shape.rows, shape.batches) for shape in passes] == [("prefix", 3, 1)]
    for one, other in zip(reversed(together[:-1]), alone, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.nbytes == other.nbytes
        outputs = bench.run(*(lambda held=held: suffixes(handle, held, 2 * held.values) for held in (one, other)))
        for key in outputs[0]:
            np.testing.assert_allclose(outputs[0][key], outputs[1][key], rtol=1e-5, atol=1e-6)
    before = request.held_bytes
    assert before == 2 * sum(each.nbytes for each in alone)
    handle.release(together[0])
    assert request.held_bytes == before - together[0].nbytes


def test_cuts_held_together_are_refused_before_they_are_computed(bench, monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.tasks.request_state.MOST_HELD_BYTES", 1 << 9)
    request = RequestState(1, None)
    handle = bench.handle("residual", request=request)

    with pytest.raises(OverloadedError, match=r"would hold .* bytes of a layer's values"):
        bench.run(lambda: handle.hold_each(Rows(arrays("residual", 2)), ("blocks.0", "blocks.1", "blocks.1#1")))

    assert (handle.tally.work().batch_shapes, request.held_bytes) == ((), 0)


def test_what_crosses_of_the_only_row_is_not_copied_for_each_value(bench, monkeypatch):
    crossed = []
    run = SuffixGraph.__call__
    monkeypatch.setattr(
        SuffixGraph,
        "__call__",
        lambda self, values, context, index=None: (crossed.append(index), run(self, values, context, index))[1],
    )
    handle, rows = bench.handle("residual"), arrays("residual", 2)

    def both():
        for count in (1, 2):
            held = handle.hold(Rows({key: value[:count] for key, value in rows.items()}), "blocks.1.conv")
            assert held.context.rows
            suffixes(handle, held, held.values)

    bench.run(both)

    assert [index is None for index in crossed] == [True, False]


def test_cuts_of_both_graphs_of_a_model_can_be_held_together(bench):
    graph = zoo_graph("convolutional")
    fast = graph.faster()
    handle, rows = bench.handle("convolutional"), Rows(arrays("convolutional", 2))
    handle._model = _Both(dataclasses.replace(handle._model, key=ModelKey("both", 1)), graph, fast)
    layers = ("conv1", "norm1", "relu")

    held = bench.run(lambda: handle.hold_each(rows, layers))[0]
    found = bench.run(*(lambda each=each: suffixes(handle, each, each.values) for each in held))

    assert "conv1" not in fast.sites
    assert "norm1" in fast.sites
    (expected,) = bench.run(lambda: forward(handle, rows.arrays))
    for outputs in found:
        np.testing.assert_allclose(outputs["output"], expected["output"], rtol=1e-4, atol=1e-5)


class _Both:
    """A model with two graphs."""

    def __init__(self, model, graph, fast):
        self._model, self._graph, self._fast = model, graph, fast

    def __getattr__(self, name):
        return getattr(self._model, name)

    def graph_for(self, *layers):
        return self._fast if all(layer in self._fast.sites for layer in layers) else self._graph


def test_rows_that_must_be_exact_run_by_themselves_in_chunks_of_a_fixed_size(bench):
    name, target = "convolutional", Target(first_output("convolutional"), ((0, 1.0),))
    handles = [bench.handle(name) for _ in range(5)]
    rows = Rows(arrays(name, 20))
    crowd = [lambda n=n: handles[n].ask(Gradient(rows, target)) for n in range(1, 5)]

    alone = bench.run(lambda: handles[0].ask(Gradient(rows, target, exact=True)))[0]
    beside = bench.run(*crowd, lambda: handles[0].ask(Gradient(rows, target, exact=True)))[-1]

    shapes = [(shape.rows, shape.batches) for shape in handles[0].tally.work().batch_shapes]
    assert shapes == [(4, 2), (8, 4)]
    for key in alone.arrays:
        assert alone.arrays[key].tobytes() == beside.arrays[key].tobytes()


def test_progress_goes_from_the_share_before_to_the_share_after(bench):
    shares = []
    handle = bench.handle("convolutional")
    handle.progress = shares.append

    bench.run(lambda: handle.ask(Forward(Rows(arrays("convolutional", 40))), progress=(0.25, 0.75)))

    assert shares == sorted(shares)
    assert shares[0] > 0.25
    assert shares[-1] == 0.75


def test_rows_of_concurrent_requests_are_packed_and_each_gets_its_own_answer(bench):
    name, target = "convolutional", Target(first_output("convolutional"), ((2, 1.0),))
    handles = [bench.handle(name) for _ in range(16)]
    rows = arrays(name, 48)
    parts = [{key: value[3 * n : 3 * n + 3] for key, value in rows.items()} for n in range(16)]
    (alone,) = bench.run(lambda: gradient(bench.handle(name), rows, target))

    packed = bench.run(*(lambda n=n: gradient(handles[n], parts[n], target) for n in range(16)))

    shapes = {shape.rows for handle in handles for shape in handle.tally.work().batch_shapes}
    assert max(shapes) > 3, "nothing was packed"
    np.testing.assert_allclose(np.concatenate([each for each, _ in packed]), alone[0], rtol=1e-5, atol=1e-6)
    for key in rows:
        found = np.concatenate([gradients[key] for _, gradients in packed])
        np.testing.assert_allclose(found, alone[1][key], rtol=1e-4, atol=1e-6)


def test_a_class_and_a_difference_of_two_classes_share_a_batch(bench):
    name = "convolutional"
    output = first_output(name)
    rows = arrays(name, 4)
    one, two = Target(output, ((1, 1.0),)), Target(output, ((1, 1.0), (0, -1.0)))
    (outputs,) = bench.run(lambda: forward(bench.handle(name), rows))

    singles, differences = bench.run(
        lambda: scores(bench.handle(name), rows, one), lambda: scores(bench.handle(name), rows, two)
    )

    np.testing.assert_allclose(singles, outputs[output][:, 1], rtol=1e-5)
    np.testing.assert_allclose(differences, outputs[output][:, 1] - outputs[output][:, 0], rtol=1e-4, atol=1e-6)


def test_what_a_caller_gave_and_what_the_model_holds_are_unchanged(bench):
    name = "convolutional"
    rows = arrays(name, 4)
    before = {key: value.copy() for key, value in rows.items()}
    weights = [parameter.clone() for parameter in zoo_module(name).state_dict().values()]

    bench.run(lambda: gradient(bench.handle(name), rows, Target(first_output(name), ((0, 1.0),))))

    for key, value in before.items():
        np.testing.assert_array_equal(rows[key], value)
    for old, new in zip(weights, zoo_module(name).state_dict().values(), strict=True):
        assert torch.equal(old, new)


def test_a_model_of_dependent_rows_is_explained_one_row_at_a_time(bench):
    handle = bench.handle("convolutional", solo=True)

    bench.run(lambda: gradient(handle, arrays("convolutional", 5), Target(first_output("convolutional"), ((0, 1.0),))))

    assert [(shape.rows, shape.batches) for shape in handle.tally.work().batch_shapes] == [(1, 5)]


@pytest.mark.parametrize(("length", "growth"), [(2, 1.0), (5, 1.0), (50, 100.0)])
def test_rows_longer_than_those_tried_count_for_more_memory(bench, length, growth):
    tried = sum(rows[:1].nbytes for rows in arrays("encoder", 1, 5).values())

    assert bench.handle("encoder", input_row_bytes=tried)._growth(Rows(arrays("encoder", 2, length)).layout) == growth


def test_a_cancelled_request_is_stopped_before_it_evaluates_anything(bench):
    request = RequestState(1, None, cancelled=True)
    handle = bench.handle("convolutional", request=request)

    with pytest.raises(CancelledError):
        bench.run(lambda: forward(handle, arrays("convolutional", 2)))
    assert handle.tally.work().rows_forward == 0


@pytest.mark.parametrize(("deadline", "least", "most"), [(1000.0, 900.0, 1000.0), (-1.0, 0.0, 0.0)])
def test_the_time_left_is_up_to_the_deadline(bench, deadline, least, most):
    request = RequestState(1, time.monotonic() + deadline)

    assert least <= bench.handle("convolutional", request=request).seconds_left() <= most


def test_without_a_deadline_there_is_time_without_end(bench):
    assert bench.handle("convolutional").seconds_left() == math.inf


def test_a_part_of_a_request_has_the_time_up_to_its_own_deadline(bench):
    request = RequestState(1, time.monotonic() + 1000)

    assert 850 < bench.handle("convolutional", request=request.part(reserve_seconds=50)).seconds_left() <= 950


def test_a_part_of_a_request_ends_in_time_though_its_batch_is_in_progress(bench):
    class Held(Faults):
        def reach(self, point, *, model=""):
            assert gate.wait(10)

    gate = threading.Event()
    engine = Engine(chunk_seconds=0.05, chunk_bytes=1 << 28, threads=1, faults=Held())
    whole = RequestState(1, time.monotonic() + 1000)
    part = whole.part(reserve_seconds=0)
    part.deadline = time.monotonic() + 0.05
    handle = bench.handle(
        "convolutional", request=part, services=WorkerServices(engine, bench.hub, bench.helper, "cpu")
    )

    with pytest.raises(TimedOutError):
        bench.run(lambda: forward(handle, arrays("convolutional", 2)))

    assert not gate.is_set()
    gate.set()
    engine.close()
    assert whole.rows_forward == 2


def test_the_least_time_of_rows_is_in_proportion_to_those_measured_if_any_and_no_more_than_they_took(bench):
    engine = Engine(chunk_seconds=1e-9, chunk_bytes=1 << 28, threads=1)
    handle = bench.handle("convolutional", services=WorkerServices(engine, bench.hub, bench.helper, "cpu"))
    rows, target = arrays("convolutional", 20), Target(first_output("convolutional"), ((0, 1.0),))
    unknown = handle.least_seconds({"forward": 10**9, "gradient": 10**9})
    started = time.monotonic()

    bench.run(lambda: forward(handle, rows))
    bench.run(lambda: gradient(handle, rows, target))

    ahead, back = (
        handle.least_seconds({"forward": 20, "gradient": 0}),
        handle.least_seconds({"forward": 0, "gradient": 20}),
    )
    engine.close()
    assert unknown == 0
    assert min(ahead, back) > 0
    assert ahead + back <= time.monotonic() - started
    assert handle.least_seconds({"forward": 60, "gradient": 100}) == pytest.approx(3 * ahead + 5 * back)


def test_chunks_of_any_size_tell_what_rows_are_likely_to_take(bench):
    engine = Engine(chunk_seconds=1000.0, chunk_bytes=1 << 28, threads=1)
    services = WorkerServices(engine, bench.hub, bench.helper, "cpu")
    handle = bench.handle("convolutional", services=services)
    unknown = handle.likely_seconds({"forward": 1, "gradient": 0})

    bench.run(lambda: forward(handle, arrays("convolutional", 1)))

    likely = handle.likely_seconds({"forward": 20, "gradient": 0})
    open_ended = bench.handle("convolutional", services=services, open_lengths=True)
    engine.close()
    assert unknown == handle.likely_seconds({"forward": 1, "gradient": 1}) == math.inf
    assert 0 < likely < math.inf
    assert handle.least_seconds({"forward": 20, "gradient": 0}) == 0
    assert open_ended.likely_seconds({"forward": 1, "gradient": 0}) == math.inf


def test_a_design_drawn_in_the_helper_process_is_the_one_drawn_here(bench):
    handle = bench.handle("convolutional")

    (found,) = bench.run(lambda: design(150, 3000, 21, compute=handle.compute))

    expected = Sampled(*drawn(150, 3000, 21))
    values = np.random.default_rng(21).normal(size=len(expected.present))
    np.testing.assert_array_equal(found.present, expected.present)
    estimates_here = expected.shapley_values(values, compute=lambda function, *arguments: function(*arguments))
    (estimates,) = bench.run(lambda: found.shapley_values(values, compute=handle.compute))
    np.testing.assert_allclose(estimates, estimates_here, rtol=1e-9)


def test_long_python_runs_in_the_helper_process(bench):
    picture = np.zeros((3, 32, 32), np.float32)
    picture[:, :, 16:] = 1

    (found,) = bench.run(lambda: bench.handle("convolutional").compute(superpixels, picture, 4))

    np.testing.assert_array_equal(found, superpixels(picture, 4))


def test_an_error_in_the_helper_process_is_raised_and_the_next_call_works(bench):
    handle = bench.handle("convolutional")

    with pytest.raises(HelperError, match="superpixels failed"):
        bench.run(lambda: handle.compute(superpixels, "no picture", 4))
    assert bench.run(lambda: handle.compute(superpixels, np.zeros((3, 8, 8), np.float32), 1))


def test_a_killed_helper_process_is_started_again(bench):
    handle = bench.handle("convolutional")
    call = lambda: handle.compute(superpixels, np.zeros((3, 8, 8), np.float32), 1)  # noqa: E731
    bench.run(call)
    bench.helper.short._process.kill()
    bench.helper.short._process.wait()

    assert bench.run(call)


def test_cancelling_kills_a_helper_process_that_does_not_answer(bench):
    request = RequestState(1, None)
    handle = bench.handle("convolutional", request=request)
    call = lambda: handle.compute(superpixels, np.zeros((3, 8, 8), np.float32), 1)  # noqa: E731
    bench.run(call)
    import threading

    stopped = bench.helper.short._process
    stop(stopped.pid)
    threading.Timer(0.1, lambda: setattr(request, "cancelled", True)).start()

    with pytest.raises(CancelledError):
        bench.run(call)
    assert stopped.poll() is not None


def test_work_on_large_arrays_runs_on_a_thread_beside_and_on_small_ones_at_once(bench):
    handle = bench.handle("residual")
    where = {}

    def noted(name):
        where[name] = threading.get_ident()
        return name

    found = bench.run(
        lambda: [
            noted("task"),
            handle.beside(lambda: noted("small"), byte_count=1 << 10),
            handle.beside(lambda: noted("large"), byte_count=1 << 24),
        ]
    )

    assert found == [["task", "small", "large"]]
    assert where["small"] == where["task"] != where["large"]


def test_others_go_on_while_one_works_on_large_arrays(bench):
    handle, went_on = bench.handle("residual"), threading.Event()

    waited, _ = bench.run(lambda: handle.beside(lambda: went_on.wait(30), byte_count=1 << 24), went_on.set)

    assert waited


def test_a_cancelled_request_does_no_work_beside(bench):
    request = RequestState(1, None)
    request.cancelled = True
    handle = bench.handle("residual", request=request)

    with pytest.raises(CancelledError):
        bench.run(lambda: handle.beside(lambda: pytest.fail("it ran"), byte_count=1 << 24))


def test_functions_together_go_on_while_another_waits(bench):
    handle = bench.handle("convolutional")
    met = threading.Barrier(2, timeout=60)

    def waiting(number):
        # Neither goes on before the other has begun.
        handle.beside(met.wait)
        return number, threading.current_thread().name

    (found,) = bench.run(lambda: handle.together(lambda: waiting(1), lambda: waiting(2)))

    assert [number for number, _ in found] == [1, 2]
    assert len({thread for _, thread in found}) == 1


def test_a_function_beside_runs_on_another_thread_and_its_error_comes_back(bench):
    handle = bench.handle("convolutional")

    def failing():
        raise ValueError("no such luck")

    (names,) = bench.run(
        lambda: (handle.beside(lambda: threading.current_thread().name), threading.current_thread().name)
    )
    assert names[0] != names[1]
    with pytest.raises(ValueError, match="no such luck"):
        bench.run(lambda: handle.beside(failing))
