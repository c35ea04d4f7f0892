"""Writes a report for people, as plain text."""

from collections.abc import Iterator, Sequence

from pellucid_server.check.report import ModelFound, Report, RepositoryFound

_DIGEST_CHARACTERS = 12
_HEADINGS = ("MODEL", "VERSION", "STATE", "DIGEST", "INPUTS", "OUTPUTS", "LAYERS", "METHODS", "SECONDS", "MIB")


def text(report: Report) -> str:
    """Return the report in lines, with a line's end behind the last."""
    return "\n".join(_plain(line) for line in _lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    settings, found = report.settings, report.repository
    if settings.problems:
        yield "settings: wrong"
    else:
        yield "settings: good"
    yield from (f"  problem: {line}" for each in settings.problems for line in each.splitlines())
    yield from (f"  warning: {each}" for each in settings.warnings)
    if found is None:
        return
    yield f"models: {found.repository}, tried out on {found.device} in {found.seconds:.1f} s"
    yield from (f"  problem: {line}" for line in found.problem.splitlines())
    if found.models:
        yield ""
        yield from _table([_HEADINGS, *(_row(each) for each in found.models)])
    for each in found.models:
        yield from _notes(each)
    yield from _rest(found)
    yield ""
    yield _verdict(report, found)


def _row(found: ModelFound) -> tuple[str, ...]:
    info, version = found.info, str(found.version) if found.version else "-"
    seconds = "-" if found.seconds is None else f"{found.seconds:.1f}"
    mebibytes = "-" if found.size_bytes is None else str(found.size_bytes >> 20)
    if info is None:
        return found.name, version, "BROKEN", "-", "-", "-", "-", "-", seconds, mebibytes
    inputs = ", ".join(f"{each.name} {_shape(each.shape)}" for each in info.inputs)
    outputs = ", ".join(f"{each.name} {_shape(each.shape)}" for each in info.outputs)
    methods = f"{len(found.allowed)} of {len(info.capabilities)}"
    digest = info.key.digest[:_DIGEST_CHARACTERS]
    return found.name, version, "good", digest, inputs, outputs, str(len(info.layers)), methods, seconds, mebibytes


def _notes(found: ModelFound) -> Iterator[str]:
    """Give the reason of a broken model, or the warnings and the refused methods of a good one."""
    name = f"{found.name}/{found.version}" if found.version else found.name
    if found.info is None:
        yield ""
        yield f"{name} is broken: {found.reason}"
        return
    by_reason: dict[str, list[str]] = {}
    for method, reason in found.refused.items():
        by_reason.setdefault(reason, []).append(method)
    if not found.warnings and not by_reason:
        return
    yield ""
    yield name
    yield from (f"  warning: {each}" for each in found.warnings)
    yield from (f"  no {', '.join(methods)}: {reason}" for reason, methods in by_reason.items())


def _rest(found: RepositoryFound) -> Iterator[str]:
    if found.datasets:
        yield ""
        rows = [
            (each.name, each.kind or "-", "-" if each.rows is None else str(each.rows), _state(each.reason))
            for each in found.datasets
        ]
        yield from _table([("DATA SET", "KIND", "ROWS", "STATE"), *rows])
        yield from (f"{each.name} is broken: {each.reason}" for each in found.datasets if each.reason)
    if found.passed_over:
        yield ""
        yield f"passed over, as they are no models: {', '.join(found.passed_over)}"


def _verdict(report: Report, found: RepositoryFound) -> str:
    good = sum(each.info is not None for each in found.models)
    total = len(found.models)
    if report.settings.problems:
        return "The server would not start with these settings."
    if found.problem or not good:
        return "The server would not start."
    if found.strict and good < total:
        return "The server would not start: models.on_error is 'stop', and not all models can be served."
    return f"{good} of {total} model versions would be served."


def _state(reason: str) -> str:
    return "BROKEN" if reason else "good"


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join('any' if length < 0 else str(length) for length in shape)})"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _plain(line: str) -> str:
    """Write what a terminal might obey, such as in names that files give, as escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
