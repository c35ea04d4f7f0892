"""Rows that a request brings itself: with masks over the pictures as they were sent."""

import io

import numpy as np
import pytest
from e2e.small_models import PICTURES, SCORES, write_pictures, write_scores
from pellucid_server.engine.asking.probes import Concept
from pellucid_server.engine.models.loading.repository import load_repository
from pellucid_server.engine.operations import inline_probe
from pellucid_server.engine.operations.context import Models, RequestContext
from pellucid_server.engine.operations.probe_sets import opened_probe
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.requests import MaskSpec, PicturesInput, ProbeSpec, TableInput, TensorInput
from PIL import Image

SIDE = 12
"""Of the model's input; its pictures are resized so that their short side has as many pixels."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_pictures(folder)
    write_scores(folder)
    return {model.name: model for model in load_repository(folder, "cpu", 1)}


@pytest.fixture
def opened(bench, models):
    def opening(spec, model=PICTURES):
        context = RequestContext(Models({}), bench.services, RequestState(1, None))
        return bench.run(lambda: opened_probe(context, models[model], spec))[0]

    return opening


@pytest.fixture
def looked_at(bench, opened):
    def looking(spec, model=PICTURES, size=2):
        rows = opened(spec, model).rows
        return rows, bench.run(lambda: list(rows.batches(size, masks=True)))[0]

    return looking


def pixels(rows=3, height=24, width=36):
    values = np.random.default_rng(0).integers(0, 256, (rows, height // 2, width // 2, 3)).astype(np.uint8)
    return values.repeat(2, 1).repeat(2, 2)


def spec(**fields):
    return ProbeSpec(inputs={"image": TensorInput(pixels())}, **fields)


def test_masks_are_cropped_as_the_pictures_are_and_named_in_the_requests_order(looked_at):
    left = np.zeros((24, 36), np.bool_)
    left[:, :10] = True
    masks = (MaskSpec("left", "side", 2, left), MaskSpec("noise", "", 1, None), MaskSpec("left", "side", 0, ~left))

    rows, (first, second) = looked_at(spec(masks=masks, labels=("a", "b", "")))

    # The model sees the columns 6 to 30, two by two: of the first ten of the picture, two of its own.
    assert rows.concepts == (Concept("left", "side"), Concept("noise", ""))
    assert [each.concepts.tolist() for each in (*first.masks, *second.masks)] == [[0], [1], [0]]
    assert first.masks[1].masks.all()
    wanted = np.broadcast_to(np.arange(SIDE) < 2, (SIDE, SIDE))
    assert np.array_equal(second.masks[0].masks[0], wanted)
    assert np.array_equal(first.masks[0].masks[0], ~wanted)
    assert first.labels + second.labels == ("a", "b", "")
    assert (rows.classes, rows.kind, rows.count) == (("a", "b"), "pictures", 3)


def test_masks_of_one_concept_and_row_add_up(looked_at):
    top = np.zeros((2, 3), np.bool_)
    top[0] = True

    _, batches = looked_at(spec(masks=(MaskSpec("all", "", 0, top), MaskSpec("all", "", 0, ~top))))

    assert batches[0].masks[0].masks.all()


def test_pictures_are_what_the_model_sees_of_pixels_of_files_and_of_rows_that_are_ready(opened):
    array = pixels()
    files = []
    for picture in array:
        files.append(io.BytesIO())
        Image.fromarray(picture).save(files[-1], "PNG")
    sent = TensorInput(array), PicturesInput(tuple(file.getvalue() for file in files))
    box = (6, 0, 30, 24)
    wanted = [
        np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)) for each in array
    ]
    inner = array[:, ::2, 6:30:2]
    ready = (np.moveaxis(inner, 3, 1).astype(np.float32) - 127.5) / 127.5

    for given in sent:
        found = opened(ProbeSpec(inputs={"image": given})).rows.pictures([2, 0])
        assert np.array_equal(found, [wanted[2], wanted[0]])
    found = opened(ProbeSpec(inputs={"image": TensorInput(ready)})).rows
    assert np.array_equal(found.pictures([1]), inner[1:2])
    assert found.names([1]) == ("row 1",)


def test_a_mask_of_a_row_that_is_ready_has_the_inputs_shape(looked_at):
    ready = TensorInput(np.zeros((1, 3, SIDE, SIDE), np.float32))
    mask = np.eye(SIDE, dtype=np.bool_)

    _, (batch,) = looked_at(ProbeSpec(inputs={"image": ready}, masks=(MaskSpec("line", "", 0, mask),)))

    assert np.array_equal(batch.masks[0].masks[0], mask)


def test_a_limit_of_rows_is_as_if_the_others_had_not_come(opened):
    masks = (MaskSpec("one", "", 0, None), MaskSpec("two", "", 2, None))
    limited = opened(spec(masks=masks, labels=("a", "b", "c"), rows=2))
    alone = opened(ProbeSpec(inputs={"image": TensorInput(pixels()[:2])}, masks=masks[:1], labels=("a", "b")))
    whole = opened(spec(masks=masks, labels=("a", "b", "c")))

    assert (limited.digest, limited.masks_digest) == (alone.digest, alone.masks_digest)
    assert limited.rows.concepts == alone.rows.concepts
    assert limited.digest != whole.digest
    assert limited.masks_digest != whole.masks_digest


def test_the_digest_of_masks_is_of_all_that_they_say(opened):
    mask = np.zeros((24, 36), np.bool_)
    other = mask.copy()
    other[0, 0] = True
    sets = [
        (),
        (MaskSpec("a", "", 0, mask),),
        (MaskSpec("a", "", 0, other),),
        (MaskSpec("a", "", 1, mask),),
        (MaskSpec("a", "", 0, None),),
        (MaskSpec("", "a", 0, mask),),
        (MaskSpec("a", "", 0, mask[:12, :18]),),
    ]

    found = [opened(spec(masks=masks)).masks_digest for masks in sets]

    assert found[0] == ""
    assert len(set(found)) == len(sets)
    assert opened(spec(labels=("a", "b", "c"))).masks_digest not in {
        "",
        opened(spec(labels=("a", "b", "d"))).masks_digest,
    }


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"labels": ("a",)}, "probe.labels", "has 1 entries, and there are 3 rows"),
        ({"masks": (MaskSpec("a", "", 3, None),)}, "probe.masks[0].row", "is 3; the probe has 3 rows"),
        (
            {"masks": (MaskSpec("a", "", 0, None), MaskSpec("a", "", 1, np.ones((24, 24), np.bool_)))},
            "probe.masks[1].mask",
            "is [24, 24], and the picture of row 1 is [24, 36] upright",
        ),
    ],
)
def test_what_does_not_fit_the_rows_is_refused_by_its_field(opened, fields, field, words):
    with pytest.raises(InvalidRequestError) as caught:
        opened(spec(**fields))

    assert words in caught.value.message
    assert caught.value.metadata["field"] == field


def test_tables_have_neither_masks_nor_pictures(opened):
    table = TableInput(({"width": 1.0, "height": 2.0, "colour": "red"},))
    found = opened(ProbeSpec(inputs={"features": table}), SCORES).rows

    assert found.kind == "table"
    with pytest.raises(UnsupportedError):
        found.pictures([0])
    with pytest.raises(InvalidRequestError) as caught:
        opened(ProbeSpec(inputs={"features": table}, masks=(MaskSpec("a", "", 0, None),)), SCORES)
    assert caught.value.metadata["field"] == "probe.masks"


def test_more_concepts_of_one_row_than_there_is_memory_for_are_refused(opened, monkeypatch):
    monkeypatch.setattr(inline_probe, "_MOST_ROW_BYTES", 3 * SIDE * SIDE)
    monkeypatch.setattr(inline_probe, "_LEAST_CONCEPTS", 2)
    masks = [MaskSpec(name, "", row, None) for row in (0, 1) for name in "abc"]
    assert len(opened(spec(masks=(*masks, MaskSpec("a", "", 1, None)))).rows.concepts) == 3

    with pytest.raises(InvalidRequestError, match="marks 4 concepts in row 1; at most 3 are taken") as refused:
        opened(spec(masks=(*masks, MaskSpec("d", "", 1, None))))

    assert refused.value.metadata["field"] == "probe.masks"


def test_more_masks_of_one_row_than_are_sampled_in_one_go_are_refused(opened):
    masks = [MaskSpec("a", "", 1, np.ones((2, 3), np.bool_))] * 1024
    assert len(opened(spec(masks=(*masks, MaskSpec("a", "", 0, None)))).rows.concepts) == 1

    with pytest.raises(InvalidRequestError, match="1025 masks of row 1; at most 1024 are taken") as refused:
        opened(spec(masks=(*masks, MaskSpec("a", "", 1, None))))

    assert refused.value.metadata["field"] == "probe.masks"
