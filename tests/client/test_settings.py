"""What both clients are told: who asks, in which class, how long; and what they refuse before any call."""

import grpc
import numpy as np
import pytest
from pellucid import Client, errors
from pellucid.aio import AsyncClient

ROW = {"age": 40, "colour": "red"}
HALF = "\ud800"


def test_the_caller_and_the_class_go_with_every_call(server, connect):
    client = connect(server.address, caller="reports of the night", priority="bulk")

    client.predict("table", ROW)
    client.attribute("table", ROW)

    assert {each["x-pellucid-caller"] for each in server.metadata} == {"reports of the night"}
    assert {each["x-pellucid-priority"] for each in server.metadata} == {"bulk"}


def test_without_a_caller_and_a_class_nothing_is_said(client, server):
    client.predict("table", ROW)

    assert not {"x-pellucid-caller", "x-pellucid-priority"} & set(server.metadata[-1])


@pytest.mark.parametrize("own", [None, "bulk"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.predict("table", ROW, priority="urgent"),
        lambda client: client.attribute("table", ROW, priority="urgent"),
        lambda client: client.attribute_rows("table", ROW, priority="urgent"),
    ],
    ids=["predict", "attribute", "attribute_rows"],
)
def test_a_calls_own_class_goes_before_the_clients(server, connect, own, ask):
    ask(connect(server.address, priority=own))

    assert server.metadata[-1]["x-pellucid-priority"] == "urgent"


def test_a_key_that_the_server_was_told_to_read_goes_as_metadata(server, connect):
    connect(server.address, metadata={"x-tenant": "a", "x-trace-bin": b"\0\xff"}).predict("table", ROW)

    assert server.metadata[-1]["x-tenant"] == "a"
    assert server.metadata[-1]["x-trace-bin"] == b"\0\xff"


WRONG = {
    "caller of another type": ({"caller": 7}, "caller is of type int; it must be a text"),
    "caller beyond ASCII": ({"caller": "Zoë"}, r"caller is 'Zo\\xeb'; it must have 1 to 128 printable"),
    "caller with a line's end": ({"caller": "a\nb"}, r"caller is 'a\\nb'; it must have 1 to 128 printable"),
    "caller of spaces": ({"caller": " a"}, "caller is ' a'; it must have .* no space at its ends"),
    "caller of half a character": ({"caller": HALF}, "caller is .*; half of a surrogate pair is no character"),
    "long caller": ({"caller": "a" * 129}, "caller is 'aaa.*…; it must have 1 to 128"),
    "empty class": ({"priority": ""}, "priority is ''; it must have 1 to 64"),
    "class of another type": ({"priority": b"bulk"}, "priority is of type bytes; it must be a text"),
    "no time": ({"timeout": 0}, "timeout is 0; it must be a number of seconds above 0"),
    "time below 0": ({"timeout": -1.5}, "timeout is -1.5; it must be a number of seconds"),
    "endless time": ({"timeout": float("inf")}, "timeout is inf; it must be a number of seconds"),
    "no number": ({"timeout": float("nan")}, "timeout is nan; it must be a number of seconds"),
    "time beyond all numbers": ({"timeout": 10**400}, "timeout is a whole number of 1329 bits; it must be a number of"),
    "time as text": ({"timeout": "30"}, "timeout is '30'; it must be a number"),
    "time as a flag": ({"timeout": True}, "timeout is True; it must be a number"),
    "retries as text": ({"retries": "3"}, "retries is '3'; it must be a whole number in"),
    "retries below 0": ({"retries": -1}, "retries is -1; it must be a whole number in"),
    "half a retry": ({"retries": 0.5}, "retries is 0.5; it must be a whole number in"),
    "waiting as text": ({"wait_for_ready": "yes"}, "wait_for_ready is 'yes'; it must be True or False"),
    "metadata as a list": ({"metadata": [("a", "b")]}, "metadata is of type list; it must be a dict of texts by key"),
    "large key": ({"metadata": {"X-Key": "a"}}, r"metadata\['X-Key'\] is no key; it must be of a-z"),
    "key of another type": ({"metadata": {7: "a"}}, "a key of metadata is of type int"),
    "gRPC's own key": ({"metadata": {"grpc-timeout": "a"}}, 'must be of .* and not begin with "grpc-"'),
    "secret beyond ASCII": ({"metadata": {"key": "sécret"}}, r"metadata\['key'\] must be a text of printable"),
    "bytes under a text's key": ({"metadata": {"key": b"secret"}}, r"metadata\['key'\] must be a text of printable"),
    "text under a key for bytes": ({"metadata": {"key-bin": "secret"}}, "must be bytes, as its key ends in -bin"),
    "credentials of another type": ({"credentials": "secret"}, "credentials is of type str; grpc.ssl_channel"),
    "options as a list": ({"options": [("a", 1)]}, "options is of type list; it must be a dict of values by option"),
    "option of another type": ({"options": {"grpc.a": 1.5}}, r"options\['grpc.a'\] is 1.5; it must be a text or an"),
    "option of half a character": (
        {"options": {"grpc.a": HALF}},
        r"options\['grpc.a'\] is .*; half of a surrogate pair",
    ),
    "large option": ({"options": {"grpc.a": 1 << 31}}, r"options\['grpc.a'\] is 2147483648; it must be"),
}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("options", "right"), WRONG.values(), ids=WRONG)
async def test_what_a_client_cannot_be_told_is_refused_by_name_and_remedy(kind, options, right):
    with pytest.raises(errors.InvalidRequestError, match=right) as caught:
        kind("localhost:1", **options)

    assert "secret" not in str(caught.value)
    assert "sécret" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("address", [None, 50051, "", "ex ample:1\n", "exämple:1", HALF])
async def test_an_address_is_a_text_that_names_a_server(kind, address):
    with pytest.raises(errors.InvalidRequestError, match=r"^address is"):
        kind(address)


def test_numbers_of_any_kind_are_times(server, connect):
    client = connect(server.address, timeout=np.float32(30))

    assert client.predict("table", ROW, timeout=np.int64(20)).top


def test_a_servers_certificate_is_asked_for(server, connect):
    client = connect(server.address, credentials=grpc.ssl_channel_credentials(), wait_for_ready=False, retries=0)

    with pytest.raises(errors.UnavailableError):
        client.predict("table", ROW)


ASKED = {
    "model": (lambda client: client.predict(7, ROW), "model is of type int; it must be a text"),
    "model in a list": (lambda client: client.predict(["table"], ROW), "model is of type list"),
    "half a character": (lambda client: client.predict(HALF, ROW), "model is .*; half of a surrogate pair"),
    "version": (lambda client: client.predict("table", ROW, version="1"), "version is '1'; it must be a whole number"),
    "version below 0": (lambda client: client.model("table", version=-1), "version is -1; it must be a whole number"),
    "outputs": (lambda client: client.predict("table", ROW, outputs="risk"), "outputs is 'risk'; it must be a list of"),
    "an output": (lambda client: client.predict("table", ROW, outputs=[1]), r"outputs\[0\] is of type int"),
    "top_k": (lambda client: client.predict("table", ROW, top_k=2.5), "top_k is 2.5; it must be a whole number"),
    "large top_k": (lambda client: client.predict("table", ROW, top_k=1 << 40), "top_k is 1099511627776; it must be"),
    "explanations": (
        lambda client: client.predict("table", ROW, explanations="saliency"),
        "explanations is 'saliency'; it must be a list of methods' names",
    ),
    "explanations in an array": (
        lambda client: client.predict("table", ROW, explanations=np.array(["saliency", "occlusion"])),
        "explanations is of type ndarray; it must be a list of methods' names",
    ),
    "an explanation": (
        lambda client: client.predict("table", ROW, explanations=["a", 7]),
        r"explanations\[1\] is 7; it must be a method's name or an ExplanationSpec",
    ),
    "index below 0": (lambda client: client.attribute("table", ROW, target=-1), "target is -1; an index is counted"),
    "large index": (
        lambda client: client.attribute("table", ROW, target=1 << 63),
        "target is 9223.*; an index must fit",
    ),
    "specification": (lambda client: client.attribute_rows("table", ROW, 7), "spec is 7; it must be a method's name"),
    "method": (lambda client: client.attribute("table", ROW, 7), "method is of type int; it must be a text"),
    "class": (lambda client: client.attribute("table", ROW, priority=7), "priority is of type int"),
    "time": (lambda client: client.methods(timeout="soon"), "timeout is 'soon'; it must be a number"),
    "time until ready": (lambda client: client.wait_until_ready("soon"), "timeout is 'soon'; it must be a number"),
}


@pytest.mark.parametrize(("ask", "right"), ASKED.values(), ids=ASKED)
def test_arguments_of_other_types_are_refused_by_name_before_anything_is_computed(client, server, ask, right):
    with pytest.raises(errors.InvalidRequestError, match=right):
        ask(client)

    assert not server.requests["Predict"]
    assert not server.requests["Attribute"]
