"""Ablations and counterfactuals by the Python clients and the command, on the real server."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import PICTURE_MODEL, TABLE_MODEL
from e2e.serving import Server
from e2e.test_command import pellucid
from matplotlib.figure import Figure
from pellucid import Client, Fixed, Mean, Patch, Resample, Rule, Scale, Site, Steer, Zero
from pellucid.aio import AsyncClient
from pellucid.counterfactuals import Counterfactuals
from pellucid.errors import InvalidRequestError, NotFoundError, UnsupportedError

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def test_all_units_of_a_layer_are_ranked_and_their_sites_can_be_sent_back(client: Client, table: Floats) -> None:
    shares: list[float] = []

    found = client.ablate(TABLE_MODEL, table[:1], Zero("hidden2[*]"), progress=lambda share, left: shares.append(share))

    sizes = np.abs(found.effects["effect"])
    assert len(sizes) == 64
    assert (np.diff(sizes) <= 0).all()
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert found.receipt.method == "ablation"
    (first,) = found.ranked(1)
    again = client.ablate(TABLE_MODEL, table[:1], Zero(first["site"]), exact=True)
    (line,) = again.effects
    assert line["site"] == first["site"]
    assert line["effect"] == pytest.approx(first["effect"], abs=1e-5)
    predicted = next(iter(client.predict(TABLE_MODEL, table[:1]).outputs.values()))[0]
    assert line["before"] == pytest.approx(predicted.max(), abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        Scale("hidden2", 1.0),
        Steer("hidden2", np.zeros(64)),
        Steer("hidden2", np.ones(64), coefficient=0.0),
        Patch(Site("hidden1")),
    ],
    ids=lambda change: change.kind,
)
def test_a_change_that_changes_nothing_has_no_effect(client: Client, table: Floats, change: Any) -> None:
    source = table[:1] if isinstance(change, Patch) else None

    (line,) = client.ablate(TABLE_MODEL, table[:1], change, source=source).effects

    assert line["effect"] == pytest.approx(0, abs=1e-5)


def test_a_record_of_an_answer_asks_for_the_same_again(client: Client, table: Floats) -> None:
    changes = [Mean("hidden1[0-3]", reference="background"), Resample("hidden2[5]", draws=4)]
    first = client.ablate(TABLE_MODEL, table[:2], *changes, seed=3, exact=True)

    assert first.findings.record is not None
    again = client.ablate(TABLE_MODEL, table[:2], *first.findings.record.interventions, seed=3, exact=True)

    assert first.findings.record.interventions[1].reference == "background"  # type: ignore[attr-defined]
    assert again.tables["effects"]["effect"].tobytes() == first.tables["effects"]["effect"].tobytes()
    assert list(first.tables["summary"]["rows"]) == [2, 2]


def test_an_answer_is_replayed_from_itself_and_from_its_json(client: Client, table: Floats) -> None:
    changes = [Mean("hidden1[0-3]", reference="background"), Resample("hidden2[*5,6]", draws=4), Patch("hidden1[7]")]
    first = client.ablate(
        TABLE_MODEL, table[:2], *changes, source=table[300], metric="probability", target="benign", seed=3, exact=True
    )
    kept = json.loads(json.dumps(first.to_dict()))

    again = client.replay(first, table[:2], source=table[300])
    read = client.replay(kept, table[:2], source=table[300])
    others = client.replay(kept, table[1:3], source=table[301])

    assert again.findings.tables["effects"]["effect"].tobytes() == first.tables["effects"]["effect"].tobytes()
    assert read.findings.tables["effects"]["effect"].tobytes() == first.tables["effects"]["effect"].tobytes()
    assert again.warnings == read.warnings == first.warnings
    assert others.warnings[-1] == "The inputs and source rows are not what the replayed answer rests on."
    kept["receipt"]["model"]["digest"] = "00" * 32
    with pytest.raises(UnsupportedError, match="digest"):
        client.replay(kept, table[:2], source=table[300])


def test_a_counterfactual_is_replayed_with_its_wishes_and_rules(
    client: Client, table: Floats, columns: tuple[str, ...]
) -> None:
    row = dict(zip(columns, table[0].tolist(), strict=True))
    rules = {"worst radius": Fixed, "mean radius": (10, 20), "worst area": Rule(only_down=True)}
    first = client.counterfactual(TABLE_MODEL, row, wanted="benign", columns=rules, seed=3, exact=True)

    again = client.replay(json.loads(json.dumps(first.to_dict())), row)

    assert isinstance(again, Counterfactuals)
    assert again[0].values == first[0].values
    assert again.warnings == first.warnings


async def _replayed(address: str, answer: Any, rows: Floats) -> Any:
    async with AsyncClient(address) as asked:
        return await asked.replay(answer, rows)


def test_the_asyncio_client_replays_too(server: Server, client: Client, table: Floats) -> None:
    first = client.ablate(TABLE_MODEL, table[:1], Zero("hidden2[*]"), exact=True)

    again = asyncio.run(_replayed(server.address, first, table[:1]))

    assert again.tables["effects"]["effect"].tobytes() == first.tables["effects"]["effect"].tobytes()


def test_parts_come_one_by_one_and_are_the_whole(client: Client, table: Floats) -> None:
    changes = [Zero("hidden1[*]"), Zero("hidden2[*]")]

    parts = list(client.ablate_parts(TABLE_MODEL, table[:1], *changes, exact=True))

    whole = client.ablate(TABLE_MODEL, table[:1], *changes, exact=True)
    assert len(parts) > 1
    assert [part.receipt is None for part in parts] == [True] * (len(parts) - 1) + [False]
    sites = [site for part in parts if "effects" in part.tables for site in part.tables["effects"]["site"]]
    assert sites == list(whole.tables["effects"]["site"])


def test_leaving_parts_early_leaves_the_client_usable(client: Client, table: Floats) -> None:
    with contextlib.closing(client.ablate_parts(TABLE_MODEL, table[:1], Zero("hidden*[*]"))) as parts:
        next(parts)

    assert client.predict(TABLE_MODEL, table[:1]).top


def test_the_asyncio_client_says_the_same(server: Server, client: Client, table: Floats) -> None:
    async def ask() -> Any:
        async with AsyncClient(server.address) as asked:
            return await asked.ablate(TABLE_MODEL, table[:1], Zero("hidden2[*]"), exact=True)

    found = asyncio.run(ask())

    expected = client.ablate(TABLE_MODEL, table[:1], Zero("hidden2[*]"), exact=True)
    assert list(found.effects["site"]) == list(expected.effects["site"])
    assert found.effects["effect"].tobytes() == expected.effects["effect"].tobytes()


def test_a_site_that_there_is_not_is_refused_with_near_names(client: Client, table: Floats) -> None:
    with pytest.raises(NotFoundError, match=r"hiden2.*near ones: 'hidden2'"):
        client.ablate(TABLE_MODEL, table[:1], Zero("hiden2"))
    with pytest.raises(InvalidRequestError, match="units has 64"):
        client.ablate(TABLE_MODEL, table[:1], Zero("hidden2[64]"))


def test_channels_of_a_picture_network_are_drawn(client: Client, cat: bytes) -> None:
    layer = next(each for each in client.model(PICTURE_MODEL).layers if each.units and each.cuttable)

    found = client.ablate(PICTURE_MODEL, cat, Zero(Site(layer.name, units=range(4), each="unit")), target="tiger cat")

    assert len(found.effects) == 4
    assert isinstance(found.plot(), Figure)
    assert "tiger cat" in list(found.tables["rows"]["label"])


def test_the_command_ranks_draws_and_prints_json(server: Server, table: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "row.npy", table[:1])
    words = ["ablate", TABLE_MODEL, str(tmp_path / "row.npy"), "--at", "hidden2[*]"]

    shown = pellucid(server, *words, "--top", "3", "--plot", str(tmp_path / "bars.png"))
    written = pellucid(server, *words, "--json")

    assert (shown.returncode, written.returncode) == (0, 0), shown.stderr + written.stderr
    assert "the largest 3 of 64" in shown.stdout
    assert (tmp_path / "bars.png").stat().st_size > 1000
    assert shown.stderr == ""
    assert len(json.loads(written.stdout)["tables"]["effects"]) == 64


def test_a_counterfactual_is_a_row_that_the_model_answers_as_wanted(
    client: Client, table: Floats, columns: tuple[str, ...]
) -> None:
    row = dict(zip(columns, table[0].tolist(), strict=True))
    rules = {"worst radius": Fixed, "mean radius": (10, 20), "worst area": Rule(only_down=True)}

    found = client.counterfactual(TABLE_MODEL, row, wanted="benign", k=2, columns=rules, seed=3)

    assert [each.found for each in found] == [True, True]
    assert found.model.name == TABLE_MODEL
    for each in found:
        assert client.predict(TABLE_MODEL, each.values).top[0][0].name == "benign" == each.answer
        moved = {name for name in columns if each.values[name] != pytest.approx(row[name], rel=1e-6)}
        assert moved <= {change.column for change in each.changes}
        assert each.values["worst radius"] == pytest.approx(row["worst radius"], rel=1e-6)
        assert float(each.values["worst area"]) <= row["worst area"]
        assert 10 <= float(each.values["mean radius"]) <= 20
        assert each.sentence.startswith("benign if ")
    assert isinstance(found.plot(), Figure)


def test_a_row_that_is_as_wanted_and_one_that_cannot_be_are_said_to_be(
    client: Client, table: Floats, columns: tuple[str, ...]
) -> None:
    row = dict(zip(columns, table[0].tolist(), strict=True))

    as_it_is = client.counterfactual(TABLE_MODEL, row, wanted="malignant")
    never = client.counterfactual(TABLE_MODEL, row, wanted="benign", columns=dict.fromkeys(columns[1:], Fixed))

    assert as_it_is.sentences() == ["malignant as it is"]
    (sentence,) = never.sentences()
    assert sentence.startswith("row 0: benign was not found")
    assert not never[0].found


def test_the_command_says_a_counterfactual_in_words(
    server: Server, table: Floats, columns: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "row.json").write_text(json.dumps(dict(zip(columns, table[0].tolist(), strict=True))))

    done = pellucid(
        server, "counterfactual", TABLE_MODEL, str(tmp_path / "row.json"), "--want", "benign", "--fix", "mean texture"
    )

    assert done.returncode == 0, done.stderr
    assert "benign if " in done.stdout
    assert "\nmean texture " not in done.stdout
