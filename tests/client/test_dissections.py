"""Dissections with both clients: the request, parts put together, previews, progress, and streams that break."""

import json
import sys
from types import ModuleType, SimpleNamespace

import grpc
import numpy as np
import pytest
from client.dissected import activations_answer, answer, dictionary_answer, tuning_answer
from client.fake_server import DIGEST, dissect_messages, dissected_message
from client.test_ablations import breaking
from pellucid import Dissection, DissectionSpec, Findings, Site, errors
from pellucid.dissection_calls import counted
from pellucid.findings import Axis, NamedArray
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import ablation_pb2, dissection_pb2, findings_pb2

ROW = {"age": 40, "colour": "red"}
PICTURES = np.zeros((2, 8, 6, 3), np.uint8)


def asked(server):
    (request,) = server.requests["Dissect"]
    return request


def test_parts_are_put_together_and_the_last_says_what_they_are_of(client):
    found = client.dissect("photos", "conv1[3-5]", dataset="shapes")

    assert [(each.unit, each.concept, each.detected) for each in found.dictionary] == [
        (3, "red", "red"),
        (4, "blue", "blue"),
        (5, "red", None),
    ]
    assert (found.method, found.receipt.method) == ("network-dissection", "network-dissection")
    assert (found.model.name, found.model.digest) == ("photos", DIGEST)
    assert (found.record.layers, found.record.dataset) == (("conv1[3-5]",), "shapes")
    assert (found.progress, found.rows, found.partial) == (1.0, 200, False)
    assert found.warnings == ("Two rows have no mask.",)
    assert repr(found) == "<Dissection by network-dissection of photos/3: tables dictionary; 1 warning>"


def test_the_request_says_what_the_arguments_say(client, server):
    client.dissect(
        "photos", "conv1[3-7,9]", Site("attn", part="heads"), "block*", method="mine", dataset="shapes", rows=50,
        target="cat", output="logits", seed=7, exact=True, version=3, top=4, quantile=0.995,
    )  # fmt: skip

    request = asked(server)
    first, second, third = request.layers
    assert (first.layer, list(first.units)) == ("conv1", [3, 4, 5, 6, 7, 9])
    assert (second.layer, second.part) == ("attn", ablation_pb2.SITE_PART_HEADS)
    assert (third.layer, list(third.units)) == ("block*", [])
    assert (request.method, request.seed, request.exact) == ("mine", 7, True)
    assert (request.probe.dataset, request.probe.rows) == ("shapes", 50)
    assert (request.target.outcome.label, request.target.output) == ("cat", "logits")
    assert (request.model.name, request.model.version) == ("photos", 3)
    assert (request.parameters["top"].integer, request.parameters["quantile"].real) == (4, 0.995)


def test_rows_come_with_masks_of_concepts_and_labels(client, server):
    corner = np.zeros((8, 6), bool)
    corner[:2, :3] = True
    masks = {
        "everywhere": [True, False],
        ("red", "color"): np.stack([corner, np.zeros_like(corner)]),
        "blue": [None, corner],
    }

    client.dissect("photos", "conv1", inputs=PICTURES, masks=masks, labels=["cat", ""])

    probe = asked(server).probe
    sent = [(each.concept, each.category, each.row, each.HasField("mask")) for each in probe.masks]
    # A row that lacks a concept has no mask.
    assert sent == [("everywhere", "", 0, False), ("red", "color", 0, True), ("blue", "", 1, True)]
    np.testing.assert_array_equal(from_tensor(probe.masks[1].mask), corner)
    assert list(probe.labels) == ["cat", ""]
    assert list(probe.inputs) == ["image"]
    assert probe.dataset == ""


def test_a_method_that_makes_its_own_rows_is_sent_no_probe(client, server):
    client.dissect("photos", "conv1", method="tuning-curve")

    assert not asked(server).HasField("probe")
    assert not asked(server).HasField("target")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"dataset": "shapes", "inputs": PICTURES}, "dataset is set, and inputs too; set one of them"),
        ({"dataset": "shapes", "masks": {}}, "masks is set without inputs"),
        ({"labels": ["a"]}, "labels is set without inputs"),
        ({"rows": 5}, "rows is set, and there are none to read"),
        ({"dataset": "shapes", "rows": -1}, "rows is -1; it must be a whole number"),
        ({"inputs": PICTURES, "labels": ["a"]}, "labels has 1 entries for 2 rows"),
        ({"inputs": PICTURES, "masks": ["red"]}, "masks is of type list; it must be a dict of masks by concept"),
        ({"inputs": PICTURES, "masks": {"red": [True]}}, r"masks\['red'\] has 1 entries; it must have a mask for each"),
        ({"inputs": PICTURES, "masks": {"red": True}}, r"masks\['red'\] is True; it must have a mask for each"),
        ({"inputs": PICTURES, "masks": {"red": [True, 1.5]}}, r"masks\['red'\]\[1\] is float64 of shape \(\)"),
        ({"inputs": PICTURES, "masks": {3: [True, True]}}, "masks has the key 3; it must be a concept's name"),
        ({"inputs": PICTURES, "masks": {"": [True, True]}}, "masks has a concept without a name"),
        ({"seed": -1}, "seed is -1"),
        ({"exact": 1}, "exact is 1; it must be True or False"),
        ({"method": 3}, "method is of type int"),
        ({"progress": "bar"}, "progress is 'bar'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_is_sent(client, server, more, words):
    with pytest.raises(errors.InvalidRequestError, match=words):
        client.dissect("photos", "conv1", **more)

    assert server.requests["Dissect"] == []


@pytest.mark.parametrize("layer", ["conv1[*]", "conv1@3", "conv1[", 3])
def test_layers_that_are_none_are_refused(client, server, layer):
    with pytest.raises(errors.InvalidRequestError, match="layers"):
        client.dissect("photos", layer, dataset="shapes")

    assert server.requests["Dissect"] == []


def test_estimates_so_far_come_before_the_answer(client):
    seen = []

    found = client.dissect("photos", "conv1", dataset="shapes", on_preview=seen.append)

    (preview,) = seen
    assert [each.concept for each in preview.dictionary] == ["dots"]
    assert (preview.receipt, preview.record, preview.model) == (None, None, None)
    assert (preview.progress, preview.rows) == (0.5, 100)
    assert "so far, 50% done" in repr(preview)
    assert "dots" not in [each.concept for each in found.dictionary]


def test_progress_is_what_the_server_says(client):
    seen = []

    client.dissect("photos", "conv1", dataset="shapes", progress=lambda share, left: seen.append((share, left)))

    assert seen == [(0.0, 3), (0.5, 3), (0.75, 3), (1.0, 0)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"rows_done": 1200}, "1,200"),
        ({"rows": 5000}, "0 of 5,000"),
        ({"rows_done": 1200, "rows": 5000, "rows_per_second": 1234.5}, "1,200 of 5,000, 1,234 a second"),
        ({"rows_done": 1, "rows": 2, "rows_per_second": 0.123}, "1 of 2, 0.12 a second"),
    ],
)
def test_rows_are_counted_in_words(fields, words):
    assert counted(dissection_pb2.Progress(**fields)) == words


def test_parts_come_one_by_one(client):
    parts = list(client.dissect_parts("photos", DissectionSpec(layers=["conv1"], dataset="shapes")))

    assert [len(part.tables) for part in parts] == [1, 1, 0]
    assert [part.receipt is not None for part in parts] == [False, False, True]


def test_a_request_is_written_for_a_job_without_being_sent(client, server):
    spec = DissectionSpec("activations", ["conv1[3]"], dataset="shapes", parameters={"top": 4})

    request = client.dissect_request("photos", spec, version=3)

    assert server.requests["Dissect"] == []
    client.dissect_spec("photos", spec, version=3)
    assert asked(server) == request
    with pytest.raises(errors.InvalidRequestError, match="seed is -1"):
        client.dissect_request("photos", DissectionSpec(seed=-1))


def test_findings_that_were_fetched_are_a_dissection(client):
    fetched = client.dissect("photos", "conv1", dataset="shapes").findings

    found = Dissection.of(fetched)

    assert (found.method, len(found.dictionary), found.progress) == ("network-dissection", 3, 1.0)
    with pytest.raises(ValueError, match="have no receipt"):
        Dissection.of(Findings())


def test_a_call_is_made_again_until_its_first_part(hurried, server, pauses):
    tries = []

    def answering(request, context):
        tries.append(request)
        if len(tries) > 1:
            yield from dissect_messages()
            return
        # A preview is no part.
        yield from dissect_messages()[:3]
        context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    server.replies["Dissect"] = answering

    found = hurried.dissect("photos", "conv1", dataset="shapes")

    assert len(found.dictionary) == 3
    assert (len(tries), len(pauses)) == (2, 1)


def test_a_call_that_breaks_after_its_first_part_is_not_made_again(hurried, server, pauses):
    server.replies["Dissect"] = breaking(dissect_messages()[:4])

    with pytest.raises(errors.UnavailableError):
        hurried.dissect("photos", "conv1", dataset="shapes")

    assert (len(server.requests["Dissect"]), pauses) == (1, [])


PART = {"tables": {"t": findings_pb2.NamedTable()}}


@pytest.mark.parametrize(
    "messages",
    [
        [dissected_message(1.5)],
        [dissected_message(0.5, part=1, **PART)],
        [dissected_message(0.5, part=0, **PART)],
        [],
        [dissected_message(1.0, part=0, last=True), dissected_message(1.0, part=1, last=True)],
        [
            dissected_message(0.5, part=0, arrays={"a": findings_pb2.NamedArray(values=to_tensor(1.0))}),
            dissected_message(1.0, part=1, last=True, arrays={"a": findings_pb2.NamedArray(values=to_tensor(1.0))}),
        ],
    ],
    ids=["share", "out of turn", "without the last", "empty", "after the last", "an array twice"],
)
def test_a_stream_that_makes_no_sense_is_an_error(client, server, messages):
    server.replies["Dissect"] = messages

    with pytest.raises(errors.PellucidError, match="The reply cannot be read"):
        client.dissect("photos", "conv1", dataset="shapes")


def test_an_answer_without_a_dictionary_says_which_tables_it_has():
    with pytest.raises(LookupError, match="activations has no table 'dictionary'; its tables are: 'conv1/units'"):
        _ = activations_answer().dictionary


def test_an_answer_is_plain_values_and_json():
    found = dictionary_answer(units=3, layers=("conv1",))

    plain = json.loads(found.to_json())

    assert plain["method"] == "network-dissection"
    assert plain["tables"]["dictionary"][1]["layer"] == "conv1"
    assert plain["arrays"]["conv1/iou"]["axes"][1]["labels"][0] == "red"
    assert plain["record"]["dataset"] == "generated-concepts"
    assert plain["receipt"]["parameters"] == {"quantile": 0.995}
    assert "network-dissection of photos/3" in found._repr_html_()


def test_arrays_that_lack_values_are_json_too():
    lacking = NamedArray("a", np.array([np.nan, 1.0]), (Axis("unit"),), missing=True)

    assert json.loads(answer("mine", arrays=[lacking]).to_json())["arrays"]["a"]["values"] == ["NaN", 1.0]


def test_arrays_are_one_data_set_of_xarray_whose_axes_keep_their_names_where_they_agree(monkeypatch):
    xarray = ModuleType("xarray")
    xarray.DataArray = lambda data, coords, dims, **more: SimpleNamespace(data=data, coords=coords, dims=dims, **more)
    xarray.Dataset = lambda arrays, attrs: SimpleNamespace(arrays=arrays, attrs=attrs)
    monkeypatch.setitem(sys.modules, "xarray", xarray)
    units = NamedArray("other/orientation", np.zeros((2, 3)), (Axis("unit"), Axis("orientation")))

    curves = [each for name, each in tuning_answer().arrays.items() if name != "conv1/colour"]
    found = answer("tuning-curve", arrays=[*curves, units]).to_xarray()

    assert found.arrays["conv1/frequency"].dims == ["conv1/frequency:unit", "frequency"]
    assert found.arrays["conv1/orientation"].dims == ["conv1/orientation:unit", "conv1/orientation:orientation"]
    assert found.attrs["model_digest"] == DIGEST
    assert tuning_answer().to_xarray().arrays["conv1/frequency"].dims == ["unit", "frequency"]


def test_without_xarray_the_data_set_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)

    with pytest.raises(ImportError, match=r"^to_xarray needs xarray: pip install xarray$"):
        tuning_answer().to_xarray()
