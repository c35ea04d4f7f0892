"""The calls of the blocking client that ask what is inside a model."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
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


class Dissecting:
    """What a client asks of the inside of models."""

    _signatures: calls.Signatures

    def dissect(
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
        """Ask what a network has learnt inside.

        The server answers in parts; this waits for all of them. A call is tried again only until its first part has
        come.

        Parameters
        ----------
        model, version, priority
            As for `predict`.
        *layers
            What is looked at, such as "layer4", "conv1[3-7]" for some units, or "block*" for all layers that match;
            `Client.model` lists them.
        method
            The method's name; `methods` lists those of the verb "dissect".
        dataset
            The name of a data set of the server, whose rows are looked at.
        inputs
            Rows of the caller's own in its place, as for `predict`. Methods that make their own take neither.
        masks
            Where concepts are in `inputs`: for each concept's name, or (name, category), a mask for each row. A mask
            is bool, (height, width) over the picture as it was sent; True is everywhere, False or None nowhere.
        labels
            The label of each row of `inputs`.
        rows
            Read at most so many rows, from the first on; 0 for all.
        target, output
            For methods that work towards an output: its element, by label or index, and the output's name.
        seed
            Seed of everything random in the method.
        exact
            Have no bit of the answer depend on what else the server does, nor on how often it was interrupted.
        timeout
            Deadline in seconds; None for the client's, or 120. What takes longer is a job.
        progress
            True for a bar on standard error, if that is a terminal; or a function that takes the share of the work
            done and the seconds left, None while they are unknown.
        on_preview
            Called with each estimate so far, as a `Dissection` without receipt, by methods that give some.
        **parameters
            The method's own parameters; `methods` describes them.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
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
        return self.dissect_spec(
            model,
            spec,
            version=version,
            priority=priority,
            timeout=timeout,
            progress=progress,
            on_preview=on_preview,
        )

    def dissect_spec(
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
        """Ask what a specification says: `dissect` for requests that a program puts together.

        Parameters
        ----------
        model, version, priority, timeout, progress, on_preview
            As for `dissect`.
        spec
            What is asked.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        reader = DissectionReader(spec.method, read_progress(progress, spec.method), on_preview)
        gathering = Gathering()
        with closing(self._dissected_parts(model, spec, reader, version, priority, timeout)) as parts:
            for part in parts:
                gathering.add(part)
        return reader.dissection(gathering)

    def replay_dissection(
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
        """Ask again for an answer: the same method, layers, probe, parameters, seed and model version.

        Parameters
        ----------
        answer
            What `dissect` returned, or its `to_dict`, read back from JSON for example.
        inputs, masks, labels
            The rows, concept masks and labels of that answer, if the request brought its own.
        priority, timeout, progress
            As for `dissect`.

        Returns
        -------
        Dissection
            Its warnings say which of the inputs, masks and data set differ from those of the answer.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`. A model version of another digest is refused with
            `UnsupportedError`.
        """
        asked = read_dissection_replay(answer, inputs, masks, labels)
        found = self.dissect_spec(
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
    ) -> Generator[Findings, None, None]:
        """Ask as `dissect_spec` does, and yield each part as it comes; the last has the receipt.

        The call is made, and its deadline runs, from the first part asked for. Closing the iterator, or leaving it to
        the garbage collector, cancels the call on the server. Parts that have come stay valid if the stream breaks.
        """
        reader = DissectionReader(spec.method, read_progress(progress, spec.method), on_preview)
        return self._dissected_parts(model, spec, reader, version, priority, timeout)

    def dissect_request(
        self,
        model: str,
        spec: DissectionSpec,
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> explanation_service_pb2.DissectRequest:
        """Return the request that `dissect_spec` sends, for a job that does it.

        Parameters
        ----------
        model, version, priority, timeout
            As for `dissect`. The model is described by the server, if it was not before.
        spec
            What is asked.

        Raises
        ------
        PellucidError
            The request makes no sense for the model, or the model could not be described.
        """
        flow = dissection_calls.written(self._signatures, model, spec, version)
        _, request = self._run(flow, timeout, calls.PREDICT_SECONDS, priority)
        return request

    def _dissected_parts(
        self,
        model: str,
        spec: DissectionSpec,
        reader: DissectionReader,
        version: int,
        priority: str | None,
        timeout: float | None,
    ) -> Generator[Findings, None, None]:
        flow = dissection_calls.dissect(self._signatures, model, spec, version, reader)
        try:
            yield from self._parts(flow, reader, timeout, priority)
        except PellucidError as error:
            # The model may have changed since it was described.
            self._signatures.forget(model, version)
            said = ablation_calls.in_callers_words(error, [])
            if said is error:
                raise
            raise said from error
        finally:
            reader.progress.close()

    def _run(self, flow: calls.Flow[T], timeout: float | None, default: float, priority: str | None = None) -> T:
        """Make a flow's calls, all of them within one deadline."""
        raise NotImplementedError

    def _parts(
        self, flow: calls.Flow[calls.Call], reader: StreamReader, timeout: float | None, priority: str | None
    ) -> Generator[Findings, None, None]:
        """Yield the parts of the answer to the call that the flow returns."""
        raise NotImplementedError
