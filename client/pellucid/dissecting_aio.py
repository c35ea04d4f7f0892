"""The calls of the asyncio client that ask what is inside a model."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pellucid import ablation_calls, calls, dissection_calls
from pellucid.ablation_calls import Gathering, StreamReader
from pellucid.dissection_calls import DissectionReader, PreviewFunction
from pellucid.dissection_replays import read_dissection_replay
from pellucid.dissection_specs import Concept, DissectionSpec
from pellucid.dissections import Dissection
from pellucid.errors import PellucidError
from pellucid.findings import Findings
from pellucid.progress import ProgressOption, read_progress
from pellucid.sites import SiteLike
from pellucid.specs import Element
from pellucid.v1 import explanation_service_pb2

T = TypeVar("T")


class AsyncDissecting:
    """`pellucid.dissecting.Dissecting` for asyncio."""

    _signatures: calls.Signatures

    async def dissect(
        self,
        model: str,
        *layers: SiteLike,
        method: str = "network-dissection",
        dataset: str | None = None,
        inputs: Any = None,
        masks: Mapping[Concept, Any] | None = None,
        labels: Sequence[str] | None = None,
        rows: int = 0,
        target: Element | None = None,
        output: str | None = None,
        seed: int = 0,
        exact: bool = False,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        on_preview: PreviewFunction | None = None,
        **parameters: Any,
    ) -> Dissection:
        """Ask what a network has learnt inside; see `Client.dissect`."""
        spec = DissectionSpec(
            method=method,
            layers=layers,
            parameters=parameters,
            dataset=dataset,
            inputs=inputs,
            masks=masks,
            labels=labels,
            rows=rows,
            target=target,
            output=output,
            seed=seed,
            exact=exact,
        )
        return await self.dissect_spec(
            model,
            spec,
            version=version,
            priority=priority,
            timeout=timeout,
            progress=progress,
            on_preview=on_preview,
        )

    async def dissect_spec(
        self,
        model: str,
        spec: DissectionSpec,
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        on_preview: PreviewFunction | None = None,
    ) -> Dissection:
        """Ask what a specification says; see `Client.dissect_spec`."""
        reader = DissectionReader(spec.method, read_progress(progress, spec.method), on_preview)
        gathering = Gathering()
        async with aclosing(self._dissected_parts(model, spec, reader, version, priority, timeout)) as parts:
            async for part in parts:
                gathering.add(part)
        return reader.dissection(gathering)

    async def replay_dissection(
        self,
        answer: Dissection | Mapping[str, Any],
        inputs: Any = None,
        *,
        masks: Mapping[Concept, Any] | None = None,
        labels: Sequence[str] | None = None,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
    ) -> Dissection:
        """Ask again for an answer; see `Client.replay_dissection`."""
        asked = read_dissection_replay(answer, inputs, masks, labels)
        found = await self.dissect_spec(
            asked.model, asked.spec, version=asked.version, priority=priority, timeout=timeout, progress=progress
        )
        return asked.answer(found)

    def dissect_parts(
        self,
        model: str,
        spec: DissectionSpec,
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        on_preview: PreviewFunction | None = None,
    ) -> AsyncGenerator[Findings, None]:
        """Ask as `dissect_spec` does, and yield each part as it comes; see `Client.dissect_parts`.

        Put `contextlib.aclosing` around an iterator that is left early: closing it cancels the call on the server.
        """
        reader = DissectionReader(spec.method, read_progress(progress, spec.method), on_preview)
        return self._dissected_parts(model, spec, reader, version, priority, timeout)

    async def dissect_request(
        self,
        model: str,
        spec: DissectionSpec,
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> explanation_service_pb2.DissectRequest:
        """Return the request that `dissect_spec` sends; see `Client.dissect_request`."""
        flow = dissection_calls.written(self._signatures, model, spec, version)
        _, request = await self._run(flow, timeout, calls.PREDICT_SECONDS, priority)
        return request

    async def _dissected_parts(
        self,
        model: str,
        spec: DissectionSpec,
        reader: DissectionReader,
        version: int,
        priority: str | None,
        timeout: float | None,
    ) -> AsyncGenerator[Findings, None]:
        flow = dissection_calls.dissect(self._signatures, model, spec, version, reader)
        try:
            async with aclosing(self._parts(flow, reader, timeout, priority)) as parts:
                async for part in parts:
                    yield part
        except PellucidError as error:
            # The model may have changed since it was described.
            self._signatures.forget(model, version)
            said = ablation_calls.in_callers_words(error, [])
            if said is error:
                raise
            raise said from error
        finally:
            reader.progress.close()

    async def _run(self, flow: calls.Flow[T], timeout: float | None, default: float, priority: str | None = None) -> T:
        """Make a flow's calls, all of them within one deadline."""
        raise NotImplementedError

    def _parts(
        self, flow: calls.Flow[calls.Call], reader: StreamReader, timeout: float | None, priority: str | None
    ) -> AsyncGenerator[Findings, None]:
        """Yield the parts of the answer to the call that the flow returns."""
        raise NotImplementedError
