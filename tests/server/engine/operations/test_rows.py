"""Inputs are made ready on threads beside the hub, as long as somebody waits for them."""

import hashlib
import io
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from pellucid_server.engine.models.files.manifest import ImageManifest, InputManifest
from pellucid_server.engine.models.graph.lengths import FIXED
from pellucid_server.engine.models.inputs.pictures import PicturePreprocessor
from pellucid_server.engine.models.inputs.preprocessing import TensorPreprocessor
from pellucid_server.engine.operations.context import Models, RequestContext
from pellucid_server.engine.operations.rows import digest, prepare
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, InvalidRequestError
from pellucid_server.vocabulary.requests import ModelKey, PicturesInput, TensorInput
from PIL import Image

MANIFEST = InputManifest("image", "image", image=ImageManifest(4, (4, 4), "nearest", (0.0,) * 3, (1.0,) * 3))


class Watched(PicturePreprocessor):
    """Tells which thread fills each row, and calls `before` first."""

    def __init__(self, before=lambda: None):
        super().__init__(MANIFEST, np.dtype(np.float32), (3, 4, 4))
        self.threads = []
        self._before = before

    def _row_of(self, picture, row):
        self.threads.append(threading.current_thread())
        self._before()
        return super()._row_of(picture, row)


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def prepared(bench, preprocessor, values, request=None, max_rows=8):
    model = SimpleNamespace(
        key=ModelKey("pictures", 1), inputs={"image": preprocessor}, max_rows=max_rows, lengths=FIXED
    )
    context = RequestContext(Models({}), bench.services, request or RequestState(1, None))
    given = {"image": PicturesInput(tuple(png(value) for value in values))}
    return bench.run(lambda: prepare(context, model, given))[0]


def test_each_picture_becomes_its_row_on_a_thread_beside_the_hub(bench):
    preprocessor = Watched()

    rows = prepared(bench, preprocessor, [3, 1, 2])

    np.testing.assert_array_equal(rows.arrays["image"], np.broadcast_to([[[[3]]], [[[1]]], [[[2]]]], (3, 3, 4, 4)))
    assert {thread.name.partition("-")[0] for thread in preprocessor.threads} == {"offload"}


def test_a_caller_who_leaves_after_a_picture_has_no_other_decoded(bench):
    request = RequestState(1, None)
    preprocessor = Watched(before=lambda: setattr(request, "cancelled", len(preprocessor.threads) == 2))

    with pytest.raises(CancelledError):
        prepared(bench, preprocessor, range(5), request)
    assert len(preprocessor.threads) == 2


def test_more_pictures_than_the_model_takes_rows_are_refused_before_one_is_decoded(bench):
    preprocessor = Watched()

    with pytest.raises(InvalidRequestError, match="inputs has 3 rows; pictures takes 1 to 2 a request"):
        prepared(bench, preprocessor, range(3), max_rows=2)
    assert preprocessor.threads == []


@pytest.mark.parametrize(("elements", "where"), [(100, "requests"), (1 << 19, "offload")])
def test_large_tensors_are_checked_and_converted_beside_the_hub(bench, elements, where):
    threads = []

    class Noted(TensorPreprocessor):
        def prepare(self, given, field):
            threads.append(threading.current_thread().name.partition("-")[0])
            return super().prepare(given, field)

    preprocessor = Noted(InputManifest("x", modality="tensor"), np.dtype("float32"), (elements,))
    model = SimpleNamespace(key=ModelKey("m", 1), inputs={"x": preprocessor}, max_rows=8, lengths=FIXED)
    context = RequestContext(Models({}), bench.services, RequestState(1, None))
    array = np.arange(elements, dtype=np.float64)[None]

    (rows,) = bench.run(lambda: prepare(context, model, {"x": TensorInput(array)}))

    assert threads == [where]
    np.testing.assert_array_equal(rows.arrays["x"], array.astype(np.float32))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[:, ::-1],
        np.broadcast_to(np.float16(3), (5, 2)),
        np.zeros((0, 3), np.int64),
        np.array(7.5),
        np.array([True, False]),
    ],
    ids=["plain", "turned", "spread", "empty", "scalar", "flags"],
)
def test_a_digest_is_of_the_elements_in_order_however_they_lie_in_memory(array):
    head = f"x\0{array.dtype.str}\0{array.shape}\0".encode()

    assert digest({"x": array}) == hashlib.sha256(head + array.tobytes()).hexdigest()
