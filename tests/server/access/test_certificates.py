import time

import pytest
from pellucid_server.access.certificates import certificates_reader
from pellucid_server.access.watched import UnusableFileError, Watched
from pki import LOCAL, Authority


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def read(pair, client_ca=None):
    paths = [pair.certificate, pair.key, *([client_ca] if client_ca else [])]
    return certificates_reader(pair.certificate, pair.key, client_ca)({path: path.read_bytes() for path in paths})


def test_expiry_is_read_off_the_certificate(authority):
    # Two digits of the year up to 2049, four from 2050 on.
    for days in (0.5, 200.0, 20_000.0):
        pair = authority.sign("server", "server", LOCAL, days=days)

        assert read(pair).chain_expires == int(pair.expires)


def test_of_a_chain_the_first_to_expire_counts_and_of_authorities_the_last(authority, tmp_path):
    short, long = Authority(tmp_path, "short", days=0.5), Authority(tmp_path, "long", days=9)
    pair = authority.sign("server", "server", LOCAL)
    pair.certificate.write_bytes(pair.certificate.read_bytes() + short.certificate.read_bytes())
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(short.certificate.read_bytes() + b"# a comment\n" + long.certificate.read_bytes())

    found = read(pair, bundle)

    assert found.chain_expires == int(short.expires)
    assert found.client_ca_expires == int(long.expires)


def test_every_half_written_file_is_refused(authority):
    pair = authority.sign("server", "server", LOCAL)
    for path in (pair.certificate, pair.key, authority.certificate):
        whole = path.read_bytes()
        for share in range(8):
            path.write_bytes(whole[: len(whole) * share // 8])
            with pytest.raises(UnusableFileError, match=path.name):
                read(pair, authority.certificate)
        path.write_bytes(whole)

    assert read(pair, authority.certificate).key == pair.key.read_bytes()


def test_a_key_of_another_certificate_is_refused(authority):
    one, other = (authority.sign(name, "server", LOCAL) for name in ("one", "other"))

    one.key.write_bytes(other.key.read_bytes())

    with pytest.raises(UnusableFileError, match=r"one\.key cannot be read, is encrypted, or is not that of"):
        read(one)


def test_an_expired_certificate_is_refused(authority):
    with pytest.raises(UnusableFileError, match="expired on 20"):
        read(authority.sign("server", "server", LOCAL, days=-0.5))


def test_the_key_is_not_in_its_description(authority):
    pair = authority.sign("server", "server", LOCAL)
    secret = pair.key.read_text().splitlines()[1]

    assert secret not in repr(read(pair))


async def test_a_mismatched_renewal_leaves_the_old_one_until_both_files_are_there(authority, caplog):
    pair = authority.sign("server", "server", LOCAL)
    watched = Watched(
        "the server's certificate", (pair.certificate, pair.key), certificates_reader(pair.certificate, pair.key, None)
    )
    first, old_certificate = watched.value, pair.certificate.read_bytes()
    authority.sign("server", "server", LOCAL, days=2)
    new_certificate = pair.certificate.read_bytes()
    pair.certificate.write_bytes(old_certificate)

    await watched.look()
    await watched.look()

    assert watched.stale
    assert watched.value is first
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "stays in force" in caplog.text

    pair.certificate.write_bytes(new_certificate)
    await watched.look()

    assert not watched.stale
    assert watched.value.chain == new_certificate
    assert watched.value.chain_expires > time.time() + 86400


async def test_files_that_are_gone_leave_what_was_read_in_force(authority, caplog):
    pair = authority.sign("server", "server", LOCAL)
    watched = Watched(
        "the server's certificate", (pair.certificate, pair.key), certificates_reader(pair.certificate, pair.key, None)
    )
    kept = pair.key.read_bytes()
    pair.key.unlink()

    await watched.look()
    await watched.look()

    assert watched.stale
    assert caplog.text.count("server.key cannot be read") == 1

    pair.key.write_bytes(kept)
    await watched.look()

    assert not watched.stale
