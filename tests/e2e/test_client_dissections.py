"""Dissections by the Python clients and the command, on the real server."""

import json

import numpy as np
import pytest
from e2e.messages import TABLE_MODEL
from e2e.test_command import pellucid
from pellucid import Client, DissectionSpec
from pellucid.aio import AsyncClient
from pellucid.errors import InvalidRequestError, NotFoundError


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as connected:
        yield connected


def test_units_are_looked_at_over_rows_of_the_callers_own(client, table):
    shares = []

    found = client.dissect(
        TABLE_MODEL,
        "hidden1[3-7]",
        method="activations",
        inputs=table[:90],
        rows=64,
        progress=lambda share, left: shares.append(share),
    )

    assert found.tables["hidden1/units"]["unit"].tolist() == [3, 4, 5, 6, 7]
    assert np.isfinite(found.tables["hidden1/units"]["mean"]).all()
    assert (found.receipt.method, found.model.name, found.rows) == ("activations", TABLE_MODEL, 64)
    assert (found.record.layers, found.record.rows) == (("hidden1[3-7]",), 64)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert json.loads(found.to_json())["record"]["layers"] == ["hidden1[3-7]"]


async def test_the_asyncio_client_gets_the_same_answer(server, client, table):
    spec = DissectionSpec("activations", ["hidden*"], inputs=table[:20], exact=True)

    async with AsyncClient(server.address) as connected:
        found = await connected.dissect_spec(TABLE_MODEL, spec)

    expected = client.dissect_spec(TABLE_MODEL, spec)
    assert found.to_dict()["tables"] == expected.to_dict()["tables"]
    assert found.record.layers == expected.record.layers


def test_an_answer_is_asked_for_again_by_its_receipt_and_record(client, table):
    found = client.dissect(
        TABLE_MODEL,
        "hidden*",
        method="activations",
        inputs=table[:40],
        labels=["a", "b"] * 20,
        rows=30,
        seed=3,
        exact=True,
    )

    again = client.replay_dissection(json.loads(found.to_json()), table[:40], labels=["a", "b"] * 20)
    other = client.replay_dissection(found, table[1:41], labels=["b", "a"] * 20)

    assert again.to_dict()["tables"] == found.to_dict()["tables"]
    assert again.receipt.parameters == found.receipt.parameters
    assert not [each for each in again.warnings if "replayed" in each]
    assert "The inputs and masks and labels are not what the replayed answer rests on." in other.warnings


async def test_the_asyncio_client_asks_for_an_answer_again_as_well(server, client):
    found = client.dissect(TABLE_MODEL, "hidden1[0-3]", method="tuning-curve", column="mean radius", exact=True)

    async with AsyncClient(server.address) as connected:
        again = await connected.replay_dissection(found)

    assert again.to_dict()["arrays"] == found.to_dict()["arrays"]


def test_what_cannot_be_asked_for_again_is_refused_with_what_is_missing(client, table):
    found = client.dissect(TABLE_MODEL, "hidden1", method="activations", inputs=table[:5], labels=["a"] * 5)

    with pytest.raises(InvalidRequestError, match="rests on rows of the request"):
        client.replay_dissection(found, labels=["a"] * 5)
    with pytest.raises(InvalidRequestError, match="rests on masks or labels"):
        client.replay_dissection(found, table[:5])
    with pytest.raises(InvalidRequestError, match="without a receipt and a record"):
        client.replay_dissection({})
    with pytest.raises(InvalidRequestError, match="must be a Dissection"):
        client.replay_dissection(3)


def test_parts_come_one_by_one_and_the_last_has_the_receipt(client, table):
    spec = DissectionSpec("activations", ["hidden1", "hidden2"], inputs=table[:20])

    parts = list(client.dissect_parts(TABLE_MODEL, spec))

    assert [part.receipt is not None for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {name for part in parts for name in part.tables} >= {"hidden1/units", "hidden2/units"}


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        ("nothing", NotFoundError, "nothing"),
        ("hidden1[9999]", InvalidRequestError, "9999"),
    ],
)
def test_what_there_is_not_is_named(client, table, layer, error, words):
    with pytest.raises(error, match=words):
        client.dissect(TABLE_MODEL, layer, method="activations", inputs=table[:2])


def test_the_command_prints_tables_and_writes_a_page(server, tmp_path, table):
    np.save(tmp_path / "rows.npy", table[:40])
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"

    words = ["--method", "activations", "--input", str(tmp_path / "rows.npy"), "--rows", "30"]
    done = pellucid(server, "dissect", TABLE_MODEL, "hidden1[0-5]", *words, "--html", str(page), "--plot", str(plot))

    assert done.returncode == 0, done.stderr
    assert "hidden1/units" in done.stdout
    assert f"{page} has {page.stat().st_size:,} bytes" in done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_command_names_a_layer_that_there_is_not(server, tmp_path, table):
    np.save(tmp_path / "rows.npy", table[:4])

    done = pellucid(
        server, "dissect", TABLE_MODEL, "nothing", "--method", "activations", "--input", str(tmp_path / "rows.npy")
    )

    assert done.returncode == 2
    assert "nothing" in done.stderr
    assert done.stdout == ""
