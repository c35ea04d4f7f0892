"""Digests that leave under a key, in answers in parts."""

import hmac

from pellucid_server.rpc.sealing import SealedWorkers
from pellucid_server.vocabulary.findings import AblationRecord, DissectionRecord, Findings
from pellucid_server.vocabulary.messages import Part
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import Receipt, Runtime, Work

KEY = b"a key of some thirty bytes, say."
ROWS, MASKS, FILES = "ab" * 32, "cd" * 32, "ef" * 32


def keyed(digest):
    return hmac.digest(KEY, digest.encode(), "sha256").hex()


class OnePart:
    hello = None

    def __init__(self, body):
        self._body = body

    async def stream(self, request, deadline_seconds=None, **how):
        yield Part(1, 0, self._body)


async def sealed(**facts):
    [part] = [part async for part in SealedWorkers(OnePart(Findings(**facts)), KEY).stream(None)]
    return part.body


async def test_digests_of_rows_and_masks_are_keyed_and_those_of_files_are_not():
    receipt = Receipt(ModelKey("iris", 1, FILES), ROWS, Runtime("graph", "", "cpu", "float32", {}), Work())

    found = await sealed(receipt=receipt, dissection=DissectionRecord(dataset_digest=FILES, masks_digest=MASKS))

    assert found.receipt.input_digest == keyed(ROWS)
    assert found.receipt.model.digest == FILES
    assert found.dissection == DissectionRecord(dataset_digest=FILES, masks_digest=keyed(MASKS))


async def test_what_there_is_no_digest_of_has_none():
    found = await sealed(dissection=DissectionRecord(), ablation=AblationRecord("score", source_digest=ROWS))

    assert found.dissection == DissectionRecord()
    assert found.ablation == AblationRecord("score", source_digest=keyed(ROWS))
