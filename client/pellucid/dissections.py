"""What `dissect` returns: findings of all parts, the semantic dictionary, pictures, and a page of all of it."""

import html
import importlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.ablations import drawn_html
from pellucid.accuracy import Accuracy
from pellucid.catalogue import Model
from pellucid.dictionaries import DICTIONARY, Dictionary
from pellucid.dissection_records import DissectionRecord
from pellucid.findings import Axis, Findings, NamedArray, Picture, Table
from pellucid.receipts import ModelKey, ParameterValue, Receipt, json_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class Dissection:
    """What is inside a model. A notebook shows its picture and its tables.

    Attributes
    ----------
    method
        The method's name.
    findings
        Tables, arrays and pictures of all parts. Their names are the method's.
    progress
        Share of the work that was done, in [0, 1]; below 1 for an estimate so far.
    rows
        How many rows, or steps, were done; 0 where the method counts none.
    described
        The model as the client knew it when it asked.
    """

    method: str
    findings: Findings
    progress: float = 1.0
    rows: int = 0
    described: Model | None = None

    @classmethod
    def of(cls, findings: Findings) -> "Dissection":
        """Return findings as a dissection: those that were fetched of a job, for example.

        Raises
        ------
        ValueError
            They are no whole answer: the receipt is missing.
        """
        if findings.receipt is None:
            raise ValueError("The findings have no receipt; those of all parts of an answer have one.")
        return cls(findings.receipt.method, findings)

    @property
    def receipt(self) -> Receipt | None:
        """What the answer is a function of; None of an estimate so far."""
        return self.findings.receipt

    @property
    def record(self) -> DissectionRecord | None:
        """What else the answer is a function of: layers and data set; None of an estimate so far."""
        return self.findings.dissection

    @property
    def model(self) -> ModelKey | None:
        """The model version that the answer holds for; None of an estimate so far."""
        return None if self.receipt is None else self.receipt.model

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        return self.findings.tables

    @property
    def arrays(self) -> Mapping[str, NamedArray]:
        """The arrays by name."""
        return self.findings.arrays

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """The pictures by name."""
        return self.findings.pictures

    @property
    def accuracy(self) -> Accuracy | None:
        """How good the answer is; None if the method does not say."""
        return self.findings.accuracy

    @property
    def partial(self) -> bool:
        """Whether the deadline cut the work short."""
        return self.accuracy is not None and self.accuracy.partial

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know, in sentences."""
        return self.findings.warnings

    @property
    def resolved(self) -> Mapping[str, ParameterValue]:
        """Parameters that the method settled itself."""
        return self.findings.resolved

    @property
    def dictionary(self) -> Dictionary:
        """The semantic dictionary: which unit stands for which concept.

        Raises
        ------
        LookupError
            The method answers with other tables.
        """
        if DICTIONARY not in self.tables:
            others = ", ".join(map(repr, self.tables)) or "none"
            raise LookupError(f"{self.method} has no table {DICTIONARY!r}; its tables are: {others}.")
        return Dictionary.of(self.tables[DICTIONARY])

    def plot(self) -> "Figure":
        """Draw what the method found: bars, curves, maps, points or pictures. Needs `pellucid[plot]`.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            There is nothing to draw.
        """
        from pellucid.plots_dissection import dissection_figure  # noqa: PLC0415 - matplotlib is an extra

        return dissection_figure(self)

    def to_html(
        self, path: str | Path, *, before: Dictionary | None = None, allowed: Collection[str] | None = None
    ) -> int:
        """Write one page with all of it, which needs no network: numbers, tables to search and sort, and pictures.

        Parameters
        ----------
        path
            The file.
        before
            The dictionary of another version: the page lists which units detect something else since.
        allowed
            Concepts that units may detect: the page lists the units that detect others.

        Returns
        -------
        int
            The file's size in bytes.

        Raises
        ------
        LookupError
            It is to be compared or audited, and has no dictionary.
        OSError
            The file cannot be written.
        """
        from pellucid.reports import report_page  # noqa: PLC0415 - few need it

        page = report_page(self, before=before, allowed=allowed).encode()
        Path(path).write_bytes(page)
        return len(page)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; arrays as nested lists, without the pictures' bytes."""
        return {"method": self.method, "progress": self.progress, "rows": self.rows} | self.findings.to_dict()

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json_text(self.to_dict())

    def to_xarray(self) -> Any:
        """Return the arrays as an xarray Dataset. Needs xarray.

        An axis that is not the same in all arrays that have it, such as the units of several layers, is named by
        the array too: "conv1/iou:unit".

        Raises
        ------
        ImportError
            xarray is not installed.
        """
        try:
            xarray: Any = importlib.import_module("xarray")
        except ImportError as error:
            raise ImportError("to_xarray needs xarray: pip install xarray") from error
        several = _differing(self.arrays)
        arrays = {}
        for name, each in self.arrays.items():
            axes = [replace(axis, name=f"{name}:{axis.name}") if axis.name in several else axis for axis in each.axes]
            arrays[name] = replace(each, axes=tuple(axes)).to_xarray()
        attributes = {"method": self.method}
        if self.model is not None:
            attributes |= {
                "model": self.model.name,
                "model_version": str(self.model.version),
                "model_digest": self.model.digest,
            }
        return xarray.Dataset(arrays, attrs=attributes)

    def __repr__(self) -> str:
        shown = repr(self.findings).removeprefix("<Findings: ").removesuffix(">")
        of = "" if self.model is None else f" of {self.model.name}/{self.model.version}"
        state = "partial, " if self.partial else "so far, " if self.model is None else ""
        done = f" ({state}{self.progress:.0%} done)" if state else ""
        return f"<Dissection by {self.method}{of}{done}: {shown}>"

    def _repr_html_(self) -> str:
        """Return the heading, the picture where it can be made, and the findings, for a notebook."""
        return f"<p>{html.escape(repr(self))}</p>" + drawn_html(self) + self.findings._repr_html_()


def _differing(arrays: Mapping[str, NamedArray]) -> set[str]:
    """Return the names of axes that are not the same in all arrays that have them."""
    found: dict[str, list[tuple[Axis, int]]] = defaultdict(list)
    for each in arrays.values():
        for axis, length in zip(each.axes, each.values.shape, strict=True):
            found[axis.name].append((axis, length))
    return {name for name, axes in found.items() if not all(_same(axes[0], each) for each in axes)}


def _same(one: tuple[Axis, int], other: tuple[Axis, int]) -> bool:
    places, others = one[0].places, other[0].places
    if one[1] != other[1] or (places is None) != (others is None):
        return False
    return places is None or bool(np.array_equal(np.asarray(places), np.asarray(others)))
