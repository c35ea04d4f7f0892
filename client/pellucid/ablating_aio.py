"""The calls of the asyncio client that answer in a stream of parts."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from pellucid import ablation_calls, calls
from pellucid.ablation_calls import Gathering, PartReader, StreamReader
from pellucid.ablation_rules import ColumnRule
from pellucid.ablation_specs import AblationSpec, Metric
from pellucid.ablations import Ablation
from pellucid.counterfactuals import Counterfactuals, read_counterfactuals
from pellucid.errors import PellucidError
from pellucid.findings import Findings
from pellucid.interventions import Intervention
from pellucid.progress import ProgressOption, read_progress
from pellucid.replays import read_replay
from pellucid.specs import Element, Space


class AsyncAblating:
    """`pellucid.ablating.Ablating` for asyncio."""

    _signatures: calls.Signatures

    async def ablate(
        self,
        model: str,
        inputs: Any = None,
        *interventions: Intervention,
        method: str = "ablation",
        target: Element | None = None,
        contrast: Element | None = None,
        output: str | None = None,
        space: Space | None = None,
        metric: Metric | None = None,
        source: Any = None,
        dataset: str | None = None,
        seed: int = 0,
        exact: bool = False,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        **parameters: Any,
    ) -> Ablation:
        """Ask what would change if parts of a model were different; see `Client.ablate`."""
        spec = AblationSpec(
            method=method,
            interventions=interventions,
            parameters=parameters,
            target=target,
            contrast=contrast,
            output=output,
            space=space,
            metric=metric,
            source=source,
            dataset=dataset,
            seed=seed,
            exact=exact,
        )
        return await self.ablate_spec(
            model, inputs, spec, version=version, priority=priority, timeout=timeout, progress=progress
        )

    def ablate_parts(
        self,
        model: str,
        inputs: Any = None,
        *interventions: Intervention,
        method: str = "ablation",
        target: Element | None = None,
        contrast: Element | None = None,
        output: str | None = None,
        space: Space | None = None,
        metric: Metric | None = None,
        source: Any = None,
        dataset: str | None = None,
        seed: int = 0,
        exact: bool = False,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        **parameters: Any,
    ) -> AsyncGenerator[Findings, None]:
        """Ask as `ablate` does, and yield each part as it comes; see `Client.ablate_parts`.

        Put `contextlib.aclosing` around an iterator that is left early: closing it cancels the call on the server.
        """
        spec = AblationSpec(
            method=method,
            interventions=interventions,
            parameters=parameters,
            target=target,
            contrast=contrast,
            output=output,
            space=space,
            metric=metric,
            source=source,
            dataset=dataset,
            seed=seed,
            exact=exact,
        )
        reader = PartReader(read_progress(progress, method))
        return self._asked_parts(model, inputs, spec, reader, version, priority, timeout)

    async def counterfactual(
        self,
        model: str,
        inputs: Any,
        *,
        wanted: Element | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
        columns: Mapping[str, ColumnRule] | None = None,
        target: Element | None = None,
        output: str | None = None,
        space: Space | None = None,
        seed: int = 0,
        exact: bool = False,
        method: str = "counterfactual",
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
        **parameters: Any,
    ) -> Counterfactuals:
        """Ask for the smallest changes of the inputs that change the answer; see `Client.counterfactual`."""
        spec = AblationSpec(
            method=method,
            parameters=parameters,
            target=target,
            output=output,
            space=space,
            seed=seed,
            exact=exact,
            wanted=wanted,
            minimum=minimum,
            maximum=maximum,
            columns={} if columns is None else columns,
        )
        found = await self.ablate_spec(
            model, inputs, spec, version=version, priority=priority, timeout=timeout, progress=progress
        )
        return read_counterfactuals(found)

    async def ablate_spec(
        self,
        model: str,
        inputs: Any,
        spec: AblationSpec,
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
    ) -> Ablation:
        """Ask what a specification says; see `Client.ablate_spec`."""
        reader, gathering = PartReader(read_progress(progress, spec.method)), Gathering()
        async with aclosing(self._asked_parts(model, inputs, spec, reader, version, priority, timeout)) as parts:
            async for part in parts:
                gathering.add(part)
        return gathering.ablation(spec.method, reader)

    async def replay(
        self,
        answer: Ablation | Counterfactuals | Mapping[str, Any],
        inputs: Any = None,
        *,
        source: Any = None,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
    ) -> Ablation | Counterfactuals:
        """Ask again for an answer; see `Client.replay`."""
        asked = read_replay(answer, source)
        found = await self.ablate_spec(
            asked.model,
            inputs,
            asked.spec,
            version=asked.version,
            priority=priority,
            timeout=timeout,
            progress=progress,
        )
        return asked.answer(found)

    async def _asked_parts(
        self,
        model: str,
        inputs: Any,
        spec: AblationSpec,
        reader: PartReader,
        version: int,
        priority: str | None,
        timeout: float | None,
    ) -> AsyncGenerator[Findings, None]:
        flow = ablation_calls.ablate(self._signatures, model, inputs, spec, version, reader)
        try:
            async with aclosing(self._parts(flow, reader, timeout, priority)) as parts:
                async for part in parts:
                    yield part
        except PellucidError as error:
            # The model may have changed since it was described.
            self._signatures.forget(model, version)
            said = ablation_calls.in_callers_words(error, [*spec.columns])
            if said is error:
                raise
            raise said from error
        finally:
            reader.progress.close()

    def _parts(
        self, flow: calls.Flow[calls.Call], reader: StreamReader, timeout: float | None, priority: str | None
    ) -> AsyncGenerator[Findings, None]:
        """Yield the parts of the answer to the call that the flow returns."""
        raise NotImplementedError
