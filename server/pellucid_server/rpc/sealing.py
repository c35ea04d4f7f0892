"""Digests of rows in receipts under a key, so that who has a receipt cannot try out which rows it is of."""

import contextlib
import hmac
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, TypeVar

from pellucid_server.rpc.service import Workers
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Hello, Part
from pellucid_server.vocabulary.requests import Request
from pellucid_server.vocabulary.results import (
    AttributeResult,
    AttributionResult,
    PredictResult,
    Receipt,
    RequestTiming,
    Result,
)

Explained = TypeVar("Explained", AttributionResult, PredictResult)


class SealedWorkers:
    """Workers whose answers leave with keyed digests: HMAC-SHA-256 of the text that the worker gave.

    Equal rows have equal digests under one key. Digests of models and data sets are of files that callers know
    of anyway, and stay.
    """

    def __init__(self, workers: Workers, key: bytes) -> None:
        self._workers = workers
        self._key = key

    @property
    def hello(self) -> Hello | None:
        """What the workers serve."""
        return self._workers.hello

    async def run(
        self, request: Request, deadline_seconds: float | None = None, **how: Any
    ) -> tuple[Result, RequestTiming]:
        """Do one request, as the workers do."""
        result, timing = await self._workers.run(request, deadline_seconds, **how)
        return self._result(result), timing

    async def stream(
        self, request: Request, deadline_seconds: float | None = None, **how: Any
    ) -> AsyncGenerator[Part, None]:
        """Do one request that is answered in parts; closing the generator cancels it."""
        parts = self._workers.stream(request, deadline_seconds, **how)
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield replace(part, body=self._findings(part.body))

    def _result(self, result: Result) -> Result:
        if isinstance(result, AttributeResult):
            return replace(result, attributions=tuple(map(self._explained, result.attributions)))
        outcomes = [
            replace(each, attributions=tuple(map(self._explained, each.attributions))) for each in result.explanations
        ]
        return replace(self._explained(result), explanations=tuple(outcomes))

    def _explained(self, result: Explained) -> Explained:
        return replace(result, receipt=self._receipt(result.receipt))

    def _findings(self, found: Findings) -> Findings:
        receipt = None if found.receipt is None else self._receipt(found.receipt)
        record = found.ablation
        if record is not None:
            source, reference = self._digest(record.source_digest), self._digest(record.reference_digest)
            record = replace(record, source_digest=source, reference_digest=reference)
        inside = found.dissection
        if inside is not None:
            # Masks and labels that came with the request; a data set's own have none.
            inside = replace(inside, masks_digest=self._digest(inside.masks_digest))
        return replace(found, receipt=receipt, ablation=record, dissection=inside)

    def _receipt(self, receipt: Receipt) -> Receipt:
        digest, baseline = self._digest(receipt.input_digest), self._digest(receipt.baseline_digest)
        return replace(receipt, input_digest=digest, baseline_digest=baseline)

    def _digest(self, digest: str) -> str:
        return hmac.digest(self._key, digest.encode(), "sha256").hex() if digest else ""
