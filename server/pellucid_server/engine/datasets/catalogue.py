"""The data sets of a server: found in a folder, and listed with what is wrong where one cannot be read."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pellucid_server.engine.datasets import records
from pellucid_server.engine.datasets.dataset import DataSet
from pellucid_server.engine.datasets.description import MANIFEST, Description, read_description
from pellucid_server.engine.datasets.files import Digests, size_bytes
from pellucid_server.engine.datasets.masks.readers import open_masks
from pellucid_server.engine.datasets.mirror import mirror
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.datasets.steps import Run, here, in_steps
from pellucid_server.engine.models.files.strict_toml import ManifestError
from pellucid_server.errors import InvalidRequestError, NotFoundError, UnavailableError, UnsupportedError
from pellucid_server.model_files.plain_files import UnfitFileError, shown
from pellucid_server.vocabulary.descriptions import DatasetInfo

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MOST_BYTES_AT_ONCE = 64 << 20
"""Of the files of a data set whose digest is taken while the server starts."""

_MOST_COUNTED_BYTES = 16 << 20
"""Of a file whose rows are counted when the server starts."""


@dataclass(frozen=True, slots=True)
class DataSets:
    """The data sets of a worker."""

    infos: tuple[DatasetInfo, ...] = ()
    """By name, broken ones among them."""
    by_name: Mapping[str, DataSet] = field(default_factory=dict)
    digests: Digests = field(default_factory=Digests)
    copying: bool = False
    """Whether they are not copied from their URL yet."""

    def find(self, name: str, *, place: str = "dataset") -> DataSet:
        """Find a data set; `place` is where the request names it.

        Raises
        ------
        InvalidRequestError
            The name is empty.
        NotFoundError
            There is none of that name; the message has near names.
        UnsupportedError
            It is broken; the message has the reason.
        UnavailableError
            It may be among those that are not copied yet.
        """
        if not name:
            text = f"{place} is empty; ListDatasets names the data sets."
            raise InvalidRequestError(text, field=place)
        found = self.by_name.get(name)
        if found is not None:
            return found
        broken = next((each for each in self.infos if each.name == name), None)
        if broken is not None:
            text = f"The data set {name} cannot be read: {broken.reason}"
            raise UnsupportedError(text, subject=f"datasets/{name}", state="broken")
        if self.copying:
            raise UnavailableError("The data sets are not copied from their URL yet; ask again in a while.")
        names = [each.name for each in self.infos]
        close = difflib.get_close_matches(name, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        listed = ", ".join(names[:20]) or "none"
        raise NotFoundError(
            f"No data set {name!r}; there are: {listed}.{hint}", resource_type="dataset", resource_name=name
        )

    def digest(self, found: DataSet, run: Run = here) -> str:
        """Return the digest of a data set as its files are now; files that did not change are not read again.

        `run` is given the steps of it, each short.

        Raises
        ------
        UnsupportedError
            A file cannot be read.
        UnavailableError
            The files changed meanwhile.
        """
        with found.unchanged(run):
            try:
                return in_steps(self.digests.reading(found.folder), run)
            except (UnfitFileError, DataSetError) as error:
                raise found.unfit(str(error)) from error
            except OSError as error:
                raise found.unfit(f"its files cannot be read: {os.strerror(error.errno or 0)}.") from error

    @property
    def complete(self) -> bool:
        """Whether every data set that can be read has its digest."""
        return all(each.digest or each.reason for each in self.infos)

    def completed(self) -> tuple[DatasetInfo, ...]:
        """Return the infos with the digests that were left out; a set whose files cannot be read stays without."""
        return tuple(each if each.digest or each.reason else self._with_digest(each) for each in self.infos)

    def _with_digest(self, info: DatasetInfo) -> DatasetInfo:
        try:
            return replace(info, digest=self.digest(self.by_name[info.name]))
        except (UnavailableError, UnsupportedError) as error:
            _log.error("the data set %s has no digest: %s", info.name, error.message)
            return info


def scan_copies(url: str, cache: Path, most_bytes: int) -> DataSets:
    """Copy the data sets at a URL, and describe them; see `mirror`.

    Raises
    ------
    DataSetError
        The URL cannot be read, or has no data sets; or the cache cannot be written.
    """
    folder, refused = mirror(url, cache, most_bytes)
    found = scan(folder)
    for name, reason in refused.items():
        _log.error("the data set %s is not copied: %s", shown(Path(name)), reason)
    broken = tuple(DatasetInfo(shown(Path(name)), reason=reason[:_MOST_REASON]) for name, reason in refused.items())
    return replace(found, infos=tuple(sorted((*found.infos, *broken), key=lambda info: info.name)))


def scan(folder: Path, *, most_bytes: int = MOST_BYTES_AT_ONCE) -> DataSets:
    """Describe every data set in a folder; a folder that is not there has none.

    A data set is a folder with a `dataset.toml`. One that cannot be read is listed with the reason, and is in the log.
    Those of files above `most_bytes` have no digest yet; see `DataSets.completed`.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return DataSets()
    except OSError as error:
        _log.warning("the data sets in %s cannot be listed: %s", shown(folder), error.strerror)
        return DataSets()
    digests, infos, found = Digests(), list[DatasetInfo](), dict[str, DataSet]()
    for path in paths:
        if not (path / MANIFEST).exists():
            _log.warning("passed over, as it is no data set: %s", shown(path))
            continue
        try:
            each = _read(path, digests, most_bytes)
        except (ManifestError, DataSetError, UnfitFileError, OSError) as error:
            reason = f"it cannot be read: {error.strerror}." if isinstance(error, OSError) else str(error)
            reason = reason.replace(f"{shown(folder)}/", "")
            _log.error("the data set %s cannot be read: %s", shown(Path(path.name)), reason)
            infos.append(DatasetInfo(shown(Path(path.name)), reason=reason[:_MOST_REASON]))
        else:
            infos.append(each.info)
            found[each.info.name] = each
    return DataSets(tuple(infos), found, digests)


_MOST_REASON = 1000


def _read(path: Path, digests: Digests, most_bytes: int) -> DataSet:
    if not _NAME.fullmatch(path.name):
        raise DataSetError("A data set's name must be letters, digits, '.', '_' and '-', a letter or digit first.")
    description = read_description(path / MANIFEST)
    _check_columns(path, description)
    rows = records.count(path, description, most_bytes=_MOST_COUNTED_BYTES)
    # Columns of concepts are read as long as rows are counted.
    masks = None if rows is None and description.concepts else open_masks(path, description)
    info = DatasetInfo(
        name=path.name,
        description=description.description,
        kind=description.kind,
        input=description.input,
        label=description.label,
        groups=description.groups,
        classes=_classes(path, description),
        rows=rows,
        digest=digests.of_folder(path) if size_bytes(path) <= most_bytes else "",
        concepts=None if masks is None else len(masks.concepts),
        categories=() if masks is None else tuple(dict.fromkeys(each.category for each in masks.concepts)),
    )
    return DataSet(info, path, description)


def _check_columns(path: Path, description: Description) -> None:
    names = records.columns(path, description)
    if names is None:
        if description.groups and (path / description.data).is_dir():
            raise DataSetError(
                "groups are columns of a CSV file, and data is a folder; list the pictures in a CSV file."
            )
        wrong = next((name for name in description.concepts if name != description.label), None)
        if wrong is not None:
            raise DataSetError(
                f"concepts has {wrong!r}, and data is a folder; its only column is {description.label!r}, the class."
            )
        return
    label = (description.label,) if description.label else ()
    needed = (*label, *description.groups, *description.ignored, *description.concepts)
    content = (description.content,) if description.content else ()
    missing = next((name for name in (*content, *needed) if name not in names), None)
    if missing is not None:
        # Not all of the names: a file without a header line has a row of data there.
        near = ", ".join(difflib.get_close_matches(missing, names))
        hint = f"it has: {near}" if near else "its first line must name the columns"
        if description.kind == "tensor":
            hint = f"its arrays: {', '.join(names[:20])}"
        raise DataSetError(f"{description.data} has no column {missing!r}; {hint}.")


def _classes(path: Path, description: Description) -> tuple[str, ...]:
    if (path / description.data).is_dir():
        return records.picture_classes(path, description)
    return () if description.classes is None else tuple(description.classes)
