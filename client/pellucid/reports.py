"""A dissection as one page of HTML that needs nothing else: no network, no server, no files beside it.

Texts come from models, data sets and callers. Those in the page's markup are escaped; the rest is data, which the
page's script only ever writes as text. A policy in the page forbids every other script, and every request.
"""

import base64
import hashlib
import html
import json
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import Any

from pellucid.dictionaries import Dictionary
from pellucid.dissections import Dissection
from pellucid.report_data import report_data

_SCRIPTS = ("base.js", "tables.js", "charts.js", "plots.js", "checks.js", "dictionary.js", "browser.js", "main.js")


def report_page(
    dissection: Dissection, *, before: Dictionary | None = None, allowed: Collection[str] | None = None
) -> str:
    """Return the page.

    Parameters
    ----------
    dissection
        An answer, or an estimate so far. What it lacks, the page leaves out.
    before, allowed
        As for `Dissection.to_html`.

    Raises
    ------
    LookupError
        It is to be compared or audited, and has no dictionary.
    """
    style, script = _resource("page.css"), "".join(_resource(name) for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    template = _resource("page.html")
    values = {
        "policy": _policy(style, script),
        "title": html.escape(_title(dissection)),
        "style": style,
        "header": _header(dissection),
        "warnings": "".join(f'<p class="warning">{html.escape(text)}</p>\n' for text in _warnings(dissection)),
        "receipt": _receipt(dissection),
        "data": _embedded(report_data(dissection, before, allowed)),
        "script": script,
        "size": "",
    }
    size = len(_filled(template, values).encode())
    return _filled(template, values | {"size": f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"})


def _resource(name: str) -> str:
    return (resources.files("pellucid") / "report" / name).read_text(encoding="utf-8")


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each `{{name}}` replaced, in one go: what is filled in is not searched again."""
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [values[name], rest]
    return "".join(filled)


def _policy(style: str, script: str) -> str:
    """Return the page's content security policy: this style, this script, pictures within the page, nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(data: Any) -> str:
    """Write data as JSON that cannot end the element it is in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _title(dissection: Dissection) -> str:
    model = dissection.model
    return dissection.method if model is None else f"{model.name} version {model.version}: {dissection.method}"


def _header(dissection: Dissection) -> str:
    model, described = dissection.model, dissection.described
    name = model.name if model is not None else described.name if described is not None else "A model"
    version = "" if model is None else f' <span class="version">version {model.version}</span>'
    kicker = f'<p class="kicker">{html.escape(dissection.method)}</p>'
    parameters = _parameters(dissection)
    asked = f"<details><summary>Parameters</summary>\n{_listed(parameters)}</details>" if parameters else ""
    return f"{kicker}\n<h1>{html.escape(name)}{version}</h1>\n{_listed(_facts(dissection))}\n{asked}"


def _listed(facts: Sequence[tuple[str, str, str]]) -> str:
    """Write labels, texts, and what more there is to know of them."""
    entries = "".join(
        f"<div><dt>{html.escape(label)}</dt><dd{_tip(tip)}>{html.escape(text)}</dd></div>\n"
        for label, text, tip in facts
        if text
    )
    return f'<dl class="facts">\n{entries}</dl>'


def _tip(text: str) -> str:
    return f' title="{html.escape(text)}"' if text else ""


def _facts(dissection: Dissection) -> list[tuple[str, str, str]]:
    """Return what the answer is of: a label, a text, and what more there is to know of it."""
    receipt, record = dissection.receipt, dissection.record
    found: list[tuple[str, str, str]] = []
    if receipt is not None:
        found.append(("digest", receipt.model.digest[:12], receipt.model.digest))
    if record is not None:
        found.append(("layers", ", ".join(record.layers) or "none", ""))
        if record.dataset:
            found.append(("data set", record.dataset, record.dataset_digest))
        if record.rows:
            found.append(("rows", f"the first {record.rows:,}", ""))
    if receipt is not None:
        found.append(("device", receipt.runtime.device, ""))
    return found


def _parameters(dissection: Dissection) -> list[tuple[str, str, str]]:
    """Return what the method was asked with."""
    receipt = dissection.receipt
    if receipt is None:
        return []
    found = [(name, _value(value), "") for name, value in receipt.parameters.items()]
    return [*found, ("seed", str(receipt.seed), ""), ("exact", "yes" if receipt.exact else "no", "")]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"array {list(value.shape)}" if hasattr(value, "shape") else str(value)


def _warnings(dissection: Dissection) -> list[str]:
    partial = [f"The deadline cut the work short: {dissection.progress:.0%} is done."] if dissection.partial else []
    if dissection.receipt is None:
        partial = [f"An estimate so far: {dissection.progress:.0%} of the work is done."]
    return [*partial, *dissection.warnings]


def _receipt(dissection: Dissection) -> str:
    """Write the receipt and the record, with which the same answer can be had again."""
    if dissection.receipt is None:
        return ""
    record = None if dissection.record is None else dissection.record.to_dict()
    text = json.dumps({"receipt": dissection.receipt.to_dict(), "record": record}, indent=2, ensure_ascii=False)
    return f"<details><summary>Receipt</summary><pre>{html.escape(text)}</pre></details>"
