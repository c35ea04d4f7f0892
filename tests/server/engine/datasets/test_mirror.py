"""Data sets at URLs: copied once, read as local ones, and bounded."""

import os
import sys
import zipfile

import fsspec
import pytest
from pellucid_server.engine.datasets import mirror as module
from pellucid_server.engine.datasets.catalogue import DataSets, scan, scan_copies
from pellucid_server.engine.datasets.mirror import mirror
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.errors import UnavailableError
from pellucid_server.scenes.command import write_scenes

MIB = 1 << 20


@pytest.fixture
def local(tmp_path):
    """A folder with two generated sets, one of two rows and one of three."""
    folder = tmp_path / "local"
    write_scenes(folder / "few", 2, seed=1, size=32)
    write_scenes(folder / "more", 3, seed=1, size=32)
    return folder


@pytest.fixture
def memory(local):
    """The same in memory, at memory://sets."""
    system = fsspec.filesystem("memory")
    for path in local.rglob("*"):
        if path.is_file():
            system.pipe(f"/sets/{path.relative_to(local)}", path.read_bytes())
    yield system
    system.rm("/sets", recursive=True)


class Counted:
    """A file system that notes which files are fetched."""

    def __init__(self, system):
        self.system = system
        self.fetched = []

    def find(self, *arguments, **options):
        return self.system.find(*arguments, **options)

    def get(self, paths, places):
        self.fetched += [path.removeprefix("/sets/") for path in paths]
        return self.system.get(paths, places)


@pytest.fixture
def counted(memory, monkeypatch):
    system = Counted(memory)
    monkeypatch.setattr(module, "_opened", lambda url: (system, "/sets"))
    return system


def digests(datasets):
    return {each.name: (each.rows, each.concepts, each.digest) for each in datasets.infos}


def zipped(local, path):
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(local.rglob("*")):
            file.write(each, each.relative_to(local))
    return path


def test_sets_in_memory_on_disk_and_in_an_archive_are_those_of_the_folder(local, memory, tmp_path):
    archive = zipped(local, tmp_path / "sets.zip")
    wanted = digests(scan(local))

    for url in ("memory://sets", f"file://{local}", f"zip://::file://{archive}"):
        assert digests(scan_copies(url, tmp_path / "cache", MIB)) == wanted
    assert set(wanted) == {"few", "more"}


def test_files_that_did_not_change_are_not_copied_again(counted, memory, tmp_path):
    mirror("memory://sets", tmp_path, MIB)
    first, counted.fetched = counted.fetched, []
    mirror("memory://sets", tmp_path, MIB)
    assert counted.fetched == []

    memory.pipe("/sets/few/pictures/000000.png", memory.cat("/sets/few/pictures/000001.png"))
    folder, _ = mirror("memory://sets", tmp_path, MIB)

    assert len(first) == len(set(first)) > 20
    # What makes it a data set comes last.
    assert counted.fetched == ["few/pictures/000000.png", "few/dataset.toml"]
    assert (folder / "few/pictures/000000.png").read_bytes() == (folder / "few/pictures/000001.png").read_bytes()


def test_files_and_sets_that_are_gone_go_from_the_copies(memory, tmp_path):
    mirror("memory://sets", tmp_path, MIB)
    memory.rm("/sets/few", recursive=True)
    memory.rm("/sets/more/pictures/000002.png")

    folder, _ = mirror("memory://sets", tmp_path, MIB)

    assert sorted(each.name for each in folder.iterdir() if not each.name.startswith(".")) == ["more"]
    assert sorted(os.listdir(folder / "more" / "pictures")) == ["000000.png", "000001.png"]


def test_a_folder_becomes_a_file_and_a_file_a_folder(memory, tmp_path):
    memory.pipe("/sets/few/notes/first", b"1")
    memory.pipe("/sets/few/extra", b"2")
    mirror("memory://sets", tmp_path, MIB)
    memory.rm("/sets/few/notes", recursive=True)
    memory.rm("/sets/few/extra")
    memory.pipe("/sets/few/notes", b"3")
    memory.pipe("/sets/few/extra/first", b"4")

    folder, refused = mirror("memory://sets", tmp_path, MIB)

    assert refused == {}
    assert (folder / "few/notes").read_bytes() + (folder / "few/extra/first").read_bytes() == b"34"


def test_a_copy_that_is_cut_off_is_no_data_set_and_goes_on_where_it_was(counted, memory, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", 4)
    whole = counted.get
    monkeypatch.setattr(
        counted, "get", lambda paths, places: whole(paths, places) if len(counted.fetched) < 8 else 1 / 0
    )
    found = scan_copies("memory://sets", tmp_path, MIB)
    assert {each.name: each.reason for each in found.infos} == dict.fromkeys(
        ("few", "more"), "models.datasets cannot be read: ZeroDivisionError."
    )
    assert found.by_name == {}
    before = list(counted.fetched)

    monkeypatch.setattr(counted, "get", whole)
    found = scan_copies("memory://sets", tmp_path, MIB)

    assert set(found.by_name) == {"few", "more"}
    assert not set(before) & set(counted.fetched[len(before) :])


def test_a_set_that_exceeds_the_bytes_is_broken_and_others_are_there(memory, tmp_path):
    few = sum(memory.size(path) for path in memory.find("/sets/few"))

    found = scan_copies("memory://sets", tmp_path, few + 10)

    assert set(found.by_name) == {"few"}
    (_, more) = found.infos
    assert more.name == "more"
    assert "and 10 of models.datasets_cache_bytes are left" in more.reason


def test_a_file_that_changes_meanwhile_makes_its_set_broken(counted, memory, tmp_path, monkeypatch):
    whole = counted.get

    def cut(paths, places):
        whole(paths, places)
        with open(places[0], "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(counted, "get", cut)
    found = scan_copies("memory://sets", tmp_path, MIB)

    assert all("changed while it was copied" in each.reason for each in found.infos)


def test_hidden_files_and_folders_that_are_no_data_sets_are_left_out(memory, tmp_path):
    memory.pipe("/sets/.hidden/dataset.toml", b"")
    memory.pipe("/sets/notes/readme.txt", b"")
    memory.pipe("/sets/few/.cache/file", b"")

    folder, refused = mirror("memory://sets", tmp_path, MIB)

    assert refused == {}
    assert sorted(each.name for each in folder.iterdir() if each.is_dir()) == ["few", "more"]
    assert not (folder / "few" / ".cache").exists()


def test_links_at_a_url_of_files_are_not_followed(local, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (local / "few" / "link.csv").symlink_to(tmp_path / "secret")

    with pytest.raises(DataSetError, match=r"few/link\.csv is a link"):
        scan_copies(f"file://{local}", tmp_path / "cache", MIB)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nothing://user:password@host/sets", "no URL that can be opened"),
        ("zip://::file:///no/such/user:password.zip", "no URL that can be opened"),
        ("file:///no/such/user:password", "has no data set"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(tmp_path, caplog, url, words):
    with pytest.raises(DataSetError, match=words) as caught:
        scan_copies(url, tmp_path, MIB)

    assert "password" not in str(caught.value) + caplog.text


def test_without_fsspec_the_log_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)

    with pytest.raises(DataSetError, match=r"install pellucid\[remote\]"):
        mirror("memory://sets", tmp_path, MIB)


def test_while_sets_are_copied_requests_for_them_are_to_be_made_again():
    with pytest.raises(UnavailableError, match="are not copied from their URL yet"):
        DataSets(copying=True).find("few")
