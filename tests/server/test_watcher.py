"""When files that change are taken to be whole, by what looks at a repository see."""

from pathlib import Path

import pytest
from pellucid_server.model_files.listing import ModelError
from pellucid_server.model_files.plain_files import fingerprint
from pellucid_server.model_files.sight import Sight, look
from pellucid_server.reload.watcher import Changes, Watcher

ONE, TWO = ("m", 1), ("m", 2)


def seen(*sights, known):
    """Return what each look shows; what is to be loaded or gone is acted upon at once."""
    watcher, known, found = Watcher(), dict(known), []
    for sight in sights:
        changes = watcher.changes(sight, known)
        found.append(changes)
        known |= {key: sight.versions[key] for key in changes.load}
        for key in changes.gone:
            del known[key]
    return found


def test_nothing_is_done_while_nothing_changes():
    assert seen(*[Sight({ONE: "a"})] * 3, known={ONE: "a"}) == [Changes()] * 3


def test_a_new_version_is_loaded_once_and_only_after_two_looks_that_see_it_alike():
    grown = [Sight({ONE: "a", TWO: text}) for text in ("b", "bb", "bbb", "bbb", "bbb")]

    assert [each.load for each in seen(*grown, known={ONE: "a"})] == [(), (), (), (TWO,), ()]


def test_files_that_are_changed_for_a_moment_and_put_back_are_not_loaded_again():
    sights = [Sight({ONE: text}) for text in ("a", "b", "a", "a")]

    assert seen(*sights, known={ONE: "a"}) == [Changes()] * 4


def test_files_that_could_not_be_loaded_are_loaded_again_when_they_change_and_not_before():
    sights = [Sight({ONE: text}) for text in ("half", "half", "half", "whole", "whole", "whole")]

    assert [each.load for each in seen(*sights, known={ONE: "a"})] == [(), (ONE,), (), (), (ONE,), ()]


def test_a_version_is_gone_once_two_looks_do_not_see_it():
    sights = [Sight({ONE: "a", TWO: "b"}), Sight({ONE: "a"}), Sight({ONE: "a"}), Sight({ONE: "a"})]

    assert [each.gone for each in seen(*sights, known={ONE: "a", TWO: "b"})] == [(), (), (TWO,), ()]


def test_a_version_that_is_away_at_one_look_alone_as_while_it_is_replaced_is_not_gone():
    sights = [Sight({ONE: "a"}), Sight({}), Sight({ONE: "b"}), Sight({ONE: "b"})]

    found = seen(*sights, known={ONE: "a"})

    assert [each.gone for each in found] == [(), (), (), ()]
    assert [each.load for each in found] == [(), (), (), (ONE,)]


def test_a_first_look_that_misses_a_version_proves_nothing():
    assert seen(Sight({}), known={ONE: "a"}) == [Changes()]


def test_a_model_whose_folder_is_unclear_has_lost_no_version():
    away = Sight({}, {"m": "m cannot be listed"})

    found = seen(Sight({ONE: "a"}), away, away, Sight({}), known={ONE: "a"})

    assert [each.gone for each in found] == [(), (), (), ()]
    assert [each.broken for each in found] == [{}, {}, away.broken, {}]


def test_a_look_tells_new_bytes_in_place_a_new_manifest_and_a_file_that_took_anothers_place_apart(tmp_path):
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text("")
    (version / "model.pt2").write_bytes(b"1")
    fingerprints = [look(tmp_path).versions[ONE]]

    def note():
        fingerprints.append(look(tmp_path).versions[ONE])

    with (version / "model.pt2").open("ab") as file:
        file.write(b"2")
    note()
    (tmp_path / "m" / "model.toml").write_text("#")
    note()
    (version / "other").write_bytes(b"12")
    (version / "other").rename(version / "model.pt2")
    note()

    assert len(set(fingerprints)) == 4
    assert look(tmp_path).versions[ONE] == fingerprints[-1]


def test_what_is_being_copied_under_a_hidden_name_is_not_seen(tmp_path):
    for name in ("1", ".2"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "model.toml").write_text("")
    before = look(tmp_path)

    (tmp_path / "m" / ".2" / "model.pt2").write_bytes(b"half")

    assert look(tmp_path) == before
    assert set(before.versions) == {ONE}


def test_an_empty_repository_is_an_error_and_not_one_without_models(tmp_path):
    with pytest.raises(ModelError, match="has no models"):
        look(tmp_path)


def test_a_model_of_many_versions_is_listed_once_for_all_of_them(tmp_path, monkeypatch):
    model = tmp_path / "m"
    for number in range(1, 41):
        (model / str(number)).mkdir(parents=True)
    (model / "model.toml").touch()
    separately = {("m", number): fingerprint(model / str(number)) for number in range(1, 41)}
    listed = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))

    assert look(tmp_path).versions == separately
    assert listed.count(model) <= 3
