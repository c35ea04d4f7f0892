"""From an `Ablate` that names a data set to the question of a study over its rows."""

import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.registry import Method
from pellucid_server.engine.asking.sites import Intervention, Site
from pellucid_server.engine.asking.studies import INPUT_PREFIX, Decision, StudyQuestion
from pellucid_server.engine.datasets.dataset import DataSet
from pellucid_server.engine.datasets.labels import decision
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.ablate import Asked, reads, refuse_rules
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.dataset_rows import offloaded
from pellucid_server.engine.operations.rows import digest
from pellucid_server.engine.operations.sites import resolve_interventions
from pellucid_server.engine.operations.streams import Resume
from pellucid_server.errors import InvalidRequestError, NotFoundError
from pellucid_server.vocabulary.descriptions import OutputInfo
from pellucid_server.vocabulary.findings import AblationRecord, Findings
from pellucid_server.vocabulary.requests import AblateRequest, InterventionSpec, Outcome, SiteSpec, TargetSpec

_COLUMN = re.compile(r"input:(?P<input>.*)\[(?P<column>.*)\]", re.DOTALL)
_MOST_NAMES = 20
"""Of data sets that an error lists."""
_COLUMN_KINDS = ("zero", "mean", "resample")


@reads("study")
def read_study(
    context: RequestContext, model: LoadedModel, request: AblateRequest, method: Method, resume: Resume
) -> Asked:
    """Make the question of a method that runs on a data set.

    Raises
    ------
    PellucidError
        There is no such data set, it cannot be read or does not fit the model, or an intervention is wrong.
    """
    _require_dataset(context, request, method)
    _refuse_others(request, method)
    datasets, run = context.models.datasets, offloaded(context)
    found = datasets.find(request.dataset)
    output = _output(model, request)
    decided = decision(output, model.name)
    dataset_digest = datasets.digest(found, run)
    references = _references(model, request, found, run)
    columns = [_split(spec, model, f"interventions[{number}]") for number, spec in enumerate(request.interventions)]
    specs = tuple(each.rest for each in columns)
    first = _first_row(model, found, decided, run) if any(spec.sites for spec in specs) else {}
    resolved = resolve_interventions(context, model, specs, first, reference="dataset")
    interventions = tuple(
        replace(each, sites=each.sites + beside.sites)
        for each, beside in zip(resolved.interventions, columns, strict=True)
    )
    question = StudyQuestion(
        batches=lambda size: found.batches(model, decided, size, run=run),
        count=found.info.rows,
        decision=decided,
        layers=resolved.layers,
        interventions=interventions,
        references=references,
        features=model.features,
        names={site: name for each in columns for site, name in each.names.items()},
        row_bytes=model.input_row_bytes,
        seed=request.seed,
        parts_done=resume.parts_done,
        last=resume.checkpoint if isinstance(resume.checkpoint, Findings) else None,
        classes=min(len(found.info.classes), len(decided.classes)),
    )
    record = AblationRecord(
        metric=request.metric,
        interventions=tuple(
            replace(spec, reference=each.reference)
            for spec, each in zip(request.interventions, interventions, strict=True)
        ),
        reference_digest=",".join(_digest(context, references[name]) for name in sorted(references)),
        dataset=request.dataset,
        dataset_digest=dataset_digest,
    )
    return Asked(question, dataset_digest, None, record, warnings=_warnings(model, interventions, question.names))


def _require_dataset(context: RequestContext, request: AblateRequest, method: Method) -> None:
    if not request.dataset:
        names = [each.name for each in context.models.datasets.infos]
        have = f"set it to one of: {', '.join(names[:_MOST_NAMES])}" if names else "there is none beside the models"
        beside = ", and leave inputs out" if request.inputs else ""
        text = f"dataset is empty; {method.name} reads the rows of a data set: {have}{beside}."
        raise InvalidRequestError(text, field="dataset")


def _refuse_others(request: AblateRequest, method: Method) -> None:
    refuse_rules(request, method)
    for name, given in (("inputs", request.inputs), ("source", request.source)):
        if given:
            text = f"{name} is set, and {method.name} reads the rows of a data set; leave it out, and name the dataset."
            raise InvalidRequestError(text, field=name)
    if request.metric != "score":
        text = (
            f"metric is {request.metric.upper().replace('-', '_')}; {method.name} measures accuracy, so leave it out."
        )
        raise InvalidRequestError(text, field="metric")
    target = request.target
    if replace(target, output="") != TargetSpec():
        name = "outcome" if target.outcome != Outcome() else "space" if target.space else "contrast"
        text = f"target.{name} is set; {method.name} compares an output with labels, so name that alone."
        raise InvalidRequestError(text, field=f"target.{name}")
    for number, spec in enumerate(request.interventions):
        if spec.kind == "patch":
            text = f"interventions[{number}] is a PATCH, which takes values from source rows; {method.name} has none."
            raise InvalidRequestError(text, field=f"interventions[{number}].kind")


def _output(model: LoadedModel, request: AblateRequest) -> OutputInfo:
    for info in model.outputs:
        if request.target.output in ("", info.name):
            return info
    names = ", ".join(info.name for info in model.outputs)
    text = f"{model.name} has no output {request.target.output!r}; its outputs: {names}."
    raise InvalidRequestError(text, field="target.output")


def _references(
    model: LoadedModel, request: AblateRequest, found: DataSet, run: Callable[..., Arrays]
) -> dict[str, Arrays]:
    """Return the rows that means and draws come from, by reference; those that no intervention names are left out."""
    references: dict[str, Arrays] = {}
    for number, spec in enumerate(request.interventions):
        if spec.kind not in ("mean", "resample"):
            continue
        chosen, field = spec.reference or "dataset", f"interventions[{number}].reference"
        if chosen == "batch":
            raise InvalidRequestError(
                f"{field} is BATCH, and a study has none; use DATASET or BACKGROUND.", field=field
            )
        if chosen == "background" and not model.background:
            text = f"{field} is BACKGROUND, and {model.name} has none; use DATASET."
            raise InvalidRequestError(text, field=field)
        if chosen == "background":
            references[chosen] = model.background
        elif chosen not in references:
            references[chosen] = found.sample(model, seed=request.seed, run=run)
    return references


def _digest(context: RequestContext, rows: Arrays) -> str:
    return context.heavy(lambda: digest(rows), rows)


def _first_row(model: LoadedModel, found: DataSet, decided: Decision, run: Callable[..., Arrays]) -> Arrays:
    for batch in itertools.islice(found.batches(model, decided, 1, run=run), 1):
        return batch.rows
    raise found.unfit("it has no rows.")


@dataclass(frozen=True, slots=True)
class _Split:
    """An intervention's sites at layers, which `rest` has, and those that are columns of inputs, with their names."""

    rest: InterventionSpec
    sites: tuple[Site, ...]
    names: Mapping[Site, str]


def _split(spec: InterventionSpec, model: LoadedModel, field: str) -> _Split:
    names: dict[Site, str] = {}
    rest = []
    for place, site in enumerate(spec.sites):
        if site.layer.startswith(INPUT_PREFIX):
            names |= _columns(site, spec, model, f"{field}.sites[{place}]", field)
        else:
            rest.append(site)
    return _Split(replace(spec, sites=tuple(rest)), tuple(names), names)


def _columns(site: SiteSpec, spec: InterventionSpec, model: LoadedModel, field: str, owner: str) -> dict[Site, str]:
    """Return the columns that a site names, by the elements that they are in a row."""
    if spec.kind not in _COLUMN_KINDS:
        text = f"{owner}.kind is {spec.kind.upper()}; columns of an input take: {', '.join(_COLUMN_KINDS).upper()}."
        raise InvalidRequestError(text, field=f"{owner}.kind")
    if site.units or site.positions or site.part or site.each:
        text = f"{field} has more than a layer; a column is named by itself, as input:NAME[COLUMN]."
        raise InvalidRequestError(text, field=field)
    tables = {name: feature for name, feature in model.features.items() if feature.columns}
    read = _COLUMN.fullmatch(site.layer)
    if read is None or read["input"] not in tables:
        have = ", ".join(f"input:{name}[COLUMN]" for name in tables) or "none, as no input is a table"
        text = f"{field}.layer is {site.layer!r}; columns of {model.name} are named: {have}."
        raise InvalidRequestError(text, field=f"{field}.layer")
    name, wanted = read["input"], read["column"]
    feature = tables[name]
    pattern = re.compile(fnmatch.translate(wanted.replace("[", "[[]")))
    chosen = [each for each in feature.columns if each == wanted] or (
        [each for each in feature.columns if pattern.fullmatch(each)] if set("*?") & set(wanted) else []
    )
    if not chosen:
        near = ", ".join(map(repr, difflib.get_close_matches(wanted, feature.columns) or feature.columns[:5]))
        text = f"The input {name!r} of {model.name} has no column {wanted!r}; near names: {near}."
        raise NotFoundError(text, resource_type="column", resource_name=wanted)
    assert feature.groups is not None  # noqa: S101 - tables have it
    groups = feature.groups.reshape(-1)
    return {
        Site(f"{INPUT_PREFIX}{name}", tuple(np.flatnonzero(groups == feature.columns.index(each)).tolist())): (
            f"{INPUT_PREFIX}{name}[{each}]"
        )
        for each in chosen
    }


def _warnings(
    model: LoadedModel, interventions: tuple[Intervention, ...], names: Mapping[Site, str]
) -> tuple[str, ...]:
    """Say of which columns of categories the mean, or zero, is no category."""
    found = []
    for each in interventions:
        for site in each.sites if each.kind in ("mean", "zero") else ():
            if not site.layer.startswith(INPUT_PREFIX):
                continue
            coded = model.features[site.layer.removeprefix(INPUT_PREFIX)].coded
            if coded is not None and coded.reshape(-1)[list(site.units or ())].any():
                found.append(
                    f"{names[site]} has categories, and what {each.kind} makes of it is none of them: the model has "
                    "seen no such row. RESAMPLE puts a category of another row there."
                )
    return tuple(dict.fromkeys(found))
