"""The calls of the blocking client that answer in a stream of parts."""

from collections.abc import Generator, Mapping
from contextlib import closing
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


class Ablating:
    """What a client asks of changed models and inputs."""

    _signatures: calls.Signatures

    def ablate(
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
        """Ask what would change if parts of a model were different.

        The server answers in parts; this waits for all of them. A call is tried again only until its first part has
        come. One that its deadline cuts off returns what there is then, marked partial, if the server has that in time.

        Parameters
        ----------
        model, inputs, version, priority
            As for `predict`; the inputs may be None for methods that run on a data set.
        *interventions
            What is changed, and where: `Zero("layer4[*]")`, `Mean(Site("layer3"), reference="background")`. Each
            site is changed by itself, unless the method says otherwise.
        method
            The method's name; `methods` lists those of the verb "ablate".
        target, contrast, output, space
            The score, as for `ExplanationSpec`.
        metric
            What is measured: "score" (what None means), "probability", "logit-difference" or "kl-divergence".
        source
            For `Patch`: the row that values come from, or one for each row of the inputs.
        dataset
            The name of a data set of the server.
        seed
            Seed of everything random in the method.
        exact
            As for `ExplanationSpec`.
        timeout
            Deadline in seconds; None for the client's, or 120.
        progress
            True for a bar on standard error, if that is a terminal; or a function that takes the share of the work
            done and the seconds left, None while they are unknown.
        **parameters
            The method's own parameters; `methods` describes them.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
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
        return self.ablate_spec(
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
    ) -> Generator[Findings, None, None]:
        """Ask as `ablate` does, and yield each part as it comes; the last has the receipt.

        The call is made, and its deadline runs, from the first part asked for. Closing the iterator, or leaving it to
        the garbage collector, cancels the call on the server. Parts that have come stay valid if the stream breaks.
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

    def counterfactual(
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
        """Ask for the smallest changes of the inputs that change the answer.

        Parameters
        ----------
        model, inputs, version, priority
            As for `predict`.
        wanted
            The class that is to be the highest, by its label or index. None, and without bounds: any other class
            than the row's own.
        minimum, maximum
            Bounds that the target's score is to keep, in place of a class; None for none.
        columns
            What may become of a table's columns, by name: `Fixed`, a pair of minimum and maximum, or a `Rule`.
        target, output, space
            The score that the bounds are for, as for `ExplanationSpec`.
        seed, exact, timeout, progress
            As for `ablate`.
        method
            The method's name.
        **parameters
            The method's own parameters, such as `k=3` for three different ones of each row, or `distance="l1"`.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`. That nothing was found is an answer and no error.
        """
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
        found = self.ablate_spec(
            model, inputs, spec, version=version, priority=priority, timeout=timeout, progress=progress
        )
        return read_counterfactuals(found)

    def ablate_spec(
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
        """Ask what a specification says: `ablate` and `counterfactual` for requests that a program puts together.

        Parameters
        ----------
        model, inputs, version, priority, timeout, progress
            As for `ablate`.
        spec
            What is asked.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        reader, gathering = PartReader(read_progress(progress, spec.method)), Gathering()
        with closing(self._asked_parts(model, inputs, spec, reader, version, priority, timeout)) as parts:
            for part in parts:
                gathering.add(part)
        return gathering.ablation(spec.method, reader)

    def replay(
        self,
        answer: Ablation | Counterfactuals | Mapping[str, Any],
        inputs: Any = None,
        *,
        source: Any = None,
        priority: str | None = None,
        timeout: float | None = None,
        progress: ProgressOption = False,
    ) -> Ablation | Counterfactuals:
        """Ask again for an answer: the same method, changes, parameters, metric, target, seed and model version.

        Parameters
        ----------
        answer
            What `ablate` or `counterfactual` returned, or its `to_dict`, read back from JSON for example.
        inputs
            The rows of that answer; None for one of a data set.
        source
            The rows that values were patched from, if they were; the record has only their digest.
        priority, timeout, progress
            As for `ablate`.

        Returns
        -------
        Ablation or Counterfactuals
            As for the answer. Its warnings say which of the inputs, source rows, reference rows and data set differ
            from those of the answer.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`. A model version of another digest is refused with
            `UnsupportedError`.
        """
        asked = read_replay(answer, source)
        found = self.ablate_spec(
            asked.model,
            inputs,
            asked.spec,
            version=asked.version,
            priority=priority,
            timeout=timeout,
            progress=progress,
        )
        return asked.answer(found)

    def _asked_parts(
        self,
        model: str,
        inputs: Any,
        spec: AblationSpec,
        reader: PartReader,
        version: int,
        priority: str | None,
        timeout: float | None,
    ) -> Generator[Findings, None, None]:
        flow = ablation_calls.ablate(self._signatures, model, inputs, spec, version, reader)
        try:
            yield from self._parts(flow, reader, timeout, priority)
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
    ) -> Generator[Findings, None, None]:
        """Yield the parts of the answer to the call that the flow returns."""
        raise NotImplementedError
