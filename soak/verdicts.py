"""What must hold after the run, each as a verdict: of answers, outcomes, refusals and the server's own account."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from soak import calling
from soak.catalogue import GENEROUS_SECONDS, Entry
from soak.ledger import Counters, Line, Log
from soak.records import Begun, Call, Ended
from soak.server import GRACE_SECONDS, Ending

OUTAGE_MARGIN_SECONDS = 1.5
"""Time around an outage, as the health service tells it, in which UNAVAILABLE is explained by it."""

_EARLIEST_SHARE = 0.8
"""A late call is told so after this share of its deadline at the earliest: the rest is kept for the reply's way."""

_EXAMPLES = 5

_GAUGES = (
    "pellucid_requests_in_flight",
    "pellucid_requests_pending",
    "pellucid_queue_requests",
    "pellucid_queue_rows",
    "pellucid_queue_bytes",
)


@dataclass(frozen=True)
class Verdict:
    """Whether something held, and the figures."""

    name: str
    held: bool
    figures: str
    examples: tuple[str, ...] = ()
    """Some of what was wrong."""


def _verdict(name: str, wrong: Sequence[str], figures: str) -> Verdict:
    return Verdict(name, not wrong, figures, tuple(wrong[:_EXAMPLES]))


def answers(calls: Iterable[Call], entries: Sequence[Entry], replays: Mapping[str, Sequence[str]]) -> Verdict:
    """Look for wrong answers.

    Parameters
    ----------
    replays
        What was wrong with each answer that was cut short, when it was made again by its receipt.
    """
    ended = [(call, call.ended) for call in calls if call.ended is not None]
    wrong = [f"{entries[call.begun.entry].name}: {fault}" for call, end in ended for fault in end.faults]
    wrong += [
        f"{entries[call.begun.entry].name} was answered, {entries[call.begun.entry].code} was due"
        for call, end in ended
        if end.code == "OK" and entries[call.begun.entry].code != "OK"
    ]
    wrong += [f"made again by its receipt, {name}: {fault}" for name, faults in replays.items() for fault in faults]
    right = sum(end.code == "OK" for _, end in ended)
    if not right:
        wrong.append("nothing was answered")
    partial = sum(end.partial for _, end in ended)
    if len(replays) != partial:
        wrong.append(f"{partial} answers were cut short, {len(replays)} were made again")
    figures = f"{right} answers, {partial} of them cut short by their deadline and made again"
    return _verdict("no wrong answer", wrong, figures)


def outcomes(calls: Sequence[Call], killed: Iterable[str]) -> Verdict:
    """Look for calls without an outcome; `killed` are the names of the callers' processes that were killed."""
    gone = tuple(f"{name}-" for name in killed)
    open_ended = [call.begun.id for call in calls if call.ended is None and not call.begun.id.startswith(gone)]
    hanging = [call.begun.id for call in calls if call.ended is not None and call.ended.code == calling.HANG]
    cut_off = sum(call.ended is None for call in calls) - len(open_ended)
    wrong = [f"{each} has no outcome" for each in open_ended] + [f"{each} outlived its deadline" for each in hanging]
    return _verdict("every call has an outcome", wrong, f"{len(calls)} calls, {cut_off} of callers killed meanwhile")


def refusals(calls: Iterable[Call], entries: Sequence[Entry], outages: Sequence[tuple[float, float]]) -> Verdict:
    """Look for codes that the situation does not explain; `outages` are from and to when no worker was there."""
    found: Counter[str] = Counter()
    wrong = []
    for call in calls:
        if call.ended is None or call.ended.code in {"OK", calling.HANG}:
            continue
        entry = entries[call.begun.entry]
        found[call.ended.code] += 1
        fault = _unexplained(call.begun, call.ended, entry, outages)
        if fault:
            wrong.append(f"{entry.name} ({call.begun.plan}, {call.begun.id}): {fault}; {call.ended.message}")
    figures = ", ".join(f"{count} {code}" for code, count in sorted(found.items()))
    return _verdict("every refusal is honest", wrong, figures)


def _unexplained(begun: Begun, ended: Ended, entry: Entry, outages: Sequence[tuple[float, float]]) -> str:
    """Return what is wrong with a code other than OK, or nothing."""
    if ended.code == entry.code:
        return ""
    match ended.code:
        case "CANCELLED":
            return "" if begun.plan == "leaving" else "CANCELLED, but the caller stayed"
        case "DEADLINE_EXCEEDED":
            return _unexplained_lateness(begun, ended)
        case "RESOURCE_EXHAUSTED" if ended.answered and ended.retry_seconds is not None:
            return ""
        case "UNAVAILABLE" if ended.answered and ended.retry_seconds is not None:
            return "" if _within(ended.at, outages) else "UNAVAILABLE while a worker was there"
    return f"{ended.code}{'' if ended.retry_seconds is None else ' with RetryInfo'}, {entry.code} was due"


def _unexplained_lateness(begun: Begun, ended: Ended) -> str:
    if begun.seconds >= GENEROUS_SECONDS:
        return f"late after {ended.at - begun.at:.1f} s"
    early = ended.at - begun.at < _EARLIEST_SHARE * begun.seconds
    if early and ended.stage != "refused":
        return f"called late after {ended.at - begun.at:.3f} of {begun.seconds:.3f} s"
    return ""


def _within(at: float, outages: Sequence[tuple[float, float]]) -> bool:
    return any(begin - OUTAGE_MARGIN_SECONDS <= at <= end + OUTAGE_MARGIN_SECONDS for begin, end in outages)


def shipped(calls: Sequence[Call]) -> Verdict:
    """Look for calls by the shipped client, with its retries, that failed."""
    failed = [call for call in calls if call.ended is not None and call.ended.code != "OK"]
    wrong = [f"{call.begun.id}: {call.ended.code}: {call.ended.message}" for call in failed if call.ended is not None]
    if not calls:
        wrong.append("there were none")
    return _verdict("the shipped client's calls succeed", wrong, f"{len(calls)} calls, {len(failed)} failed")


def log_agrees(bare: Sequence[Call], by_client: Sequence[Call], entries: Sequence[Entry], log: Log) -> Verdict:
    """Reconcile the log, one line for each request, with what the callers saw.

    Parameters
    ----------
    bare
        Calls by bare stubs, each with an id of its own.
    by_client
        Calls by the shipped client, which has one id for all calls of a caller, "ID" of the record "ID#N".
    """
    lines = {identity: list(found) for identity, found in log.by_id().items()}
    wrong, differing = [], 0
    for call in bare:
        found = lines.pop(call.begun.id, [])
        if entries[call.begun.entry].rpc == "Check":
            continue
        known = call.ended is not None and call.ended.answered
        if len(found) > 1 or (known and not found):
            wrong.append(f"{call.begun.id} has {len(found)} lines")
        elif known and call.ended is not None and found[0].code != call.ended.code:
            wrong.append(f"{call.begun.id} ended {call.ended.code}, the log says {found[0].code}")
        elif found and call.ended is not None and found[0].code != call.ended.code:
            differing += 1
    wrong += _client_differences(by_client, lines)
    wrong += [f"the log has {found[0].rpc} {identity}, which nobody called" for identity, found in lines.items()]
    figures = f"{len(log.lines)} lines; of {differing} calls that left or ran out, the server had another end"
    return _verdict("the log has every request once", wrong, figures)


def _client_differences(calls: Iterable[Call], lines: dict[str, list[Line]]) -> list[str]:
    """Compare the shipped client's successes with the log's; takes its lines out of `lines`."""
    wrong = []
    successes = Counter(
        call.begun.id.partition("#")[0] for call in calls if call.ended is not None and call.ended.code == "OK"
    )
    for identity in {call.begun.id.partition("#")[0] for call in calls}:
        found = [line for line in lines.pop(identity, []) if line.rpc != "GetModel" and line.code == "OK"]
        if len(found) != successes[identity]:
            wrong.append(f"{identity} had {successes[identity]} answers, the log has {len(found)}")
    return wrong


def counters_agree(counters: Counters, log: Log) -> Verdict:
    """Reconcile the counters with the log, and look for gauges that did not come back to 0."""
    logged, counted = log.counts(), counters.requests()
    wrong = [
        f"{rpc} {code}: {logged[rpc, code]} lines, {counted[rpc, code]} counted"
        for rpc, code in sorted(logged | counted)
        if logged[rpc, code] != counted[rpc, code]
    ]
    wrong += [f"{name} is {value:g} at the end" for name, value in counters.not_zero(_GAUGES).items()]
    evaluated = counters.total("pellucid_rows_evaluated_total")
    wasted = counters.total("pellucid_rows_wasted_total")
    for _, labels, value in (each for each in counters.values if each[0] == "pellucid_rows_wasted_total"):
        done = counters.total("pellucid_rows_evaluated_total", **labels)
        if value > done:
            wrong.append(f"{value:g} rows wasted of {done:g} evaluated, {labels}")
    figures = f"{sum(counted.values())} requests; {evaluated:.0f} rows, {wasted:.0f} of them for nobody"
    return _verdict("counters agree with the log", wrong, figures)


def no_bugs(log: Log, exits: Mapping[str, int]) -> Verdict:
    """Look for tracebacks in the log, and for callers' processes, by name, that did not end by themselves with 0."""
    wrong = [f"the callers {name} ended with {status}" for name, status in exits.items() if status]
    wrong += [f"in the log: {text}" for text in log.tracebacks]
    return _verdict("no tracebacks", wrong, f"{len(log.tracebacks)} in the log")


def ended(ending: Ending) -> Verdict:
    """Look how the server ended after SIGTERM."""
    wrong = []
    if ending.status != 0:
        wrong.append(f"the exit status is {ending.status}")
    if ending.seconds > GRACE_SECONDS:
        wrong.append(f"it took {ending.seconds:.1f} s, its grace is {GRACE_SECONDS:g} s")
    if ending.left:
        wrong.append(f"processes are left: {', '.join(map(str, ending.left))}")
    return _verdict("SIGTERM ends it cleanly", wrong, f"exit status {ending.status} after {ending.seconds:.1f} s")
