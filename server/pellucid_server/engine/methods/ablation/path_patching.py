"""Path patching: how much of a change's effect goes by a direct path, and how much by others.

Source: Wang, Variengien, Conmy, Shlegeris and Steinhardt, "Interpretability in the Wild: a Circuit for Indirect Object
Identification in GPT-2 Small", ICLR 2023; Pearl, "Direct and Indirect Effects", UAI 2001.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.sites import Network, SiteQuestion
from pellucid_server.engine.asking.verbs import ABLATE
from pellucid_server.engine.methods.shared.bootstrap import mean_intervals
from pellucid_server.engine.methods.shared.sites.effects import Effects, Named
from pellucid_server.engine.methods.shared.sites.path_runs import PathRuns, Paths
from pellucid_server.engine.methods.shared.sites.site_parts import SitePart, site_parts
from pellucid_server.engine.methods.shared.sites.site_runs import ChangeSet, SiteRuns
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import Column, Findings, Table

Floats = npt.NDArray[np.float64]

_RECEIVERS, _FROZEN = 'parameters["receivers"]', 'parameters["frozen"]'
_NONE = "none"
_SITES_OF_A_PART = 16
"""Each takes two runs of the whole network."""


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of path patching."""

    receivers: str = parameter(
        "",
        "The layers that the path leads to: names as GetModel gives them, with :branch or :heads for parts, or "
        "patterns, separated by commas, at most 8192 characters; the output if empty.",
    )
    frozen: str = parameter(
        "",
        "The layers that are held at the unchanged network's values: names or patterns, or none; if empty, the "
        "innermost layers and residual branches between that some path leads round.",
    )
    freeze_norms: bool = parameter(
        False,
        "Hold the scale of layer norms and RMS norms on the way at the unchanged network's; else it is computed anew.",
    )


@method(
    "path-patching",
    Params,
    verb=ABLATE,
    family="patching",
    source="Wang, Variengien, Conmy, Shlegeris and Steinhardt, ICLR 2023, https://arxiv.org/abs/2211.00593",
    cost=lambda params, question: Cost(forward=3 * question.count),
    needs=(Need.LAYERS,),
    baselines=Background.NONE,
    skips_parts=True,
)
def path_patching(model: Handle, question: SiteQuestion, params: Params) -> Iterator[Findings]:
    """Split the effect of a change at a site into that by the direct path to some layers, and that by all others.

    The sites are the senders, and any intervention may change them. The direct effect is what the receivers bring
    about when they become what they are with the sender changed and everything beside the path held; the total effect
    is that of the change with everything computed anew; the indirect one is the total less the direct.
    """
    parts = site_parts(question, most=_SITES_OF_A_PART)
    if not parts:
        raise InvalidRequestError(
            "interventions is empty; name the sites that the path begins at.", field="interventions"
        )
    plan = _plan(question, parts, params)
    resolved = _resolved(plan, params)
    runs = SiteRuns(model, question)
    paths = PathRuns(model, question, runs)
    layer = ""
    for place, part in enumerate(parts):
        if place < question.parts_done:
            continue
        if part.layer != layer:
            runs.release()
            paths.release()
        layer = part.layer
        tables = _part(runs, paths, question, part, plan[layer])
        if place == 0:
            tables = {"paths": _paths_table(plan), **tables}
        yield Findings(tables=tables, resolved=resolved)
    runs.release()


def _plan(question: SiteQuestion, parts: Sequence[SitePart], params: Params) -> Mapping[str, Paths]:
    """Return the paths from each layer that has senders.

    Raises
    ------
    PellucidError
        There is no such receiver, no sender changes it, or something is to be changed and held at once.
    """
    network = question.network
    if network is None:
        raise UnsupportedError(
            "The model has only an ONNX file; path-patching needs model.pt2 beside it (pellucid-export writes one), "
            "which says which layers lead to which.",
            subject="path-patching",
        )
    receivers = network.find(params.receivers, _RECEIVERS) if params.receivers.strip() else ()
    wanted = params.frozen.strip()
    frozen = network.find(wanted, _FROZEN) if wanted not in ("", _NONE) else ()
    _require_apart(network, receivers, frozen, _FROZEN, "frozen and a receiver")
    senders = tuple(dict.fromkeys(part.layer for part in parts))
    _require_apart(network, receivers, senders, _RECEIVERS, "a sender and a receiver")
    _require_apart(network, frozen, senders, _FROZEN, "frozen and a sender")
    output = question.targets[0].output
    found = {}
    for sender in senders:
        if receivers and not network.reaches((sender,), receivers):
            text = (
                f"{_RECEIVERS} is {params.receivers!r}, and a change at {sender} does not reach all of these; name "
                "layers that come behind it."
            )
            raise InvalidRequestError(text, field=_RECEIVERS)
        held = frozen if wanted else network.beside((sender,), receivers, output)
        norms = network.norms((sender,), receivers, output) if params.freeze_norms else ()
        found[sender] = Paths(receivers, held, norms)
    return found


def _require_apart(network: Network, some: Sequence[str], others: Sequence[str], field: str, what: str) -> None:
    values = {network.value_of(name): name for name in others}
    for name in some:
        if network.value_of(name) in values:
            raise InvalidRequestError(f"{name} is {what} at once; leave it out of one.", field=field)


def _resolved(plan: Mapping[str, Paths], params: Params) -> dict[str, str]:
    """Return the parameters that make the same answer again; what is frozen only where it is the same for all."""
    frozen = {paths.frozen for paths in plan.values()}
    receivers = next(iter(plan.values())).receivers
    found = {"receivers": ", ".join(receivers), "frozen": params.frozen.strip()}
    if len(frozen) == 1:
        found["frozen"] = ", ".join(frozen.pop()) or _NONE
    return found


def _paths_table(plan: Mapping[str, Paths]) -> Table:
    columns = {
        "sender": Column(tuple(plan), text="The layer of the sites."),
        "receivers": Column(
            tuple(", ".join(paths.receivers) for paths in plan.values()),
            text="What the path leads to; empty: the output.",
        ),
        "frozen": Column(tuple(", ".join(paths.frozen) for paths in plan.values()), text="What is held on the way."),
    }
    return Table(columns, "The path from each layer.")


def _part(runs: SiteRuns, paths: PathRuns, question: SiteQuestion, part: SitePart, plan: Paths) -> dict[str, Table]:
    sets: list[ChangeSet] = [((part.intervention, site),) for site in part.sites]
    effects = Effects([Named.of(question, part.intervention, site) for site in part.sites])
    before = np.empty(question.count)
    total, direct = np.empty((question.count, len(sets))), np.empty((question.count, len(sets)))
    for row in range(question.count):
        begin, end = part.of_row(row, question.count)
        middle = (begin + end) / 2
        measured = runs.measure(row, sets, progress=(begin, middle))
        effects.add(row, measured)
        before[row], total[row] = measured.before, measured.before - measured.after
        after = paths.measure(row, part.layer, sets, plan, progress=(middle, end))
        direct[row] = measured.before - after
    tables = {"effects": _with(effects.table(), direct.reshape(-1), (total - direct).reshape(-1))}
    if question.count > 1:
        tables["summary"] = _summary(effects.summary(question.seed), direct, total - direct, question.seed)
    return tables


def _with(table: Table, direct: Floats, indirect: Floats) -> Table:
    columns = {
        **table.columns,
        "direct": Column(direct, text="Effect by the direct path: before less the metric with the receivers changed."),
        "indirect": Column(indirect, text="Effect less the direct one: that of all other paths."),
    }
    return Table(columns, "The effect of each change, which is the total, and its parts.")


def _summary(table: Table, direct: Floats, indirect: Floats, seed: int) -> Table:
    columns = dict(table.columns)
    for name, values in (("direct", direct), ("indirect", indirect)):
        low, high = mean_intervals(values, seed)
        columns[name] = Column(values.mean(axis=0), text="Mean over the rows.")
        columns[f"{name} low"] = Column(low, text="Lower end of its 95 % bootstrap interval over rows.")
        columns[f"{name} high"] = Column(high, text="Upper end of its 95 % bootstrap interval over rows.")
    return Table(columns, table.text)
