import hashlib
import re
import textwrap
from pathlib import Path

import pytest
from pellucid_server.access import access_file
from pellucid_server.access.access_file import read_policy
from pellucid_server.access.tokens import bearer, digest, hash_line, new_token
from pellucid_server.access.watched import UnusableFileError
from pellucid_server.config import load

TOKENS = {name: new_token() for name in ("web", "old", "reports")}
FILE = f"""
[identities.web]
tokens = ["{hash_line(TOKENS["web"])}", "{hash_line(TOKENS["old"])}"]
certificates = ["web.example", "spiffe://example/web"]
roles = ["predict", "explain"]
requests_per_second = 2.5

[identities.web.models]
"credit-open" = ["predict", "explain"]
"credit-*" = ["predict"]
"internal-*" = []

[identities.reports]
tokens = ["{hash_line(TOKENS["reports"])}"]
models = {{ "iris" = ["predict", "dissect"] }}
datasets = ["flowers-*"]
rows_per_minute = 1000
"""


def policy(text=FILE):
    return read_policy(text.encode())


def test_a_token_is_its_identitys_and_so_is_each_of_several():
    found = policy()

    assert [found.by_token(digest(TOKENS[name])).name for name in TOKENS] == ["web", "web", "reports"]


def test_any_other_token_is_nobodys():
    found = policy()

    assert found.by_token(digest(new_token())) is None
    assert found.by_token(digest(TOKENS["web"] + "x")) is None
    assert found.by_token(b"") is None


def test_the_hash_is_that_of_sha256_over_the_tokens_bytes():
    assert hash_line("abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()


def test_the_first_pattern_that_matches_a_model_decides():
    web = policy().identities["web"]

    assert web.roles_for("iris") == {"predict", "explain"}
    assert web.roles_for("credit-open") == {"predict", "explain"}
    assert web.roles_for("credit-new") == {"predict"}
    assert web.roles_for("internal-salaries") == set()
    assert [web.sees(name) for name in ("iris", "credit-new", "internal-salaries")] == [True, True, False]


def test_without_roles_only_models_that_match_are_seen():
    reports = policy().identities["reports"]

    assert [reports.sees(name) for name in ("iris", "iris2", "")] == [True, False, False]
    assert [reports.may(role) for role in ("predict", "explain", "dissect", "admin")] == [True, False, True, False]
    assert [reports.sees_dataset(name) for name in ("flowers-1", "patients")] == [True, False]


def test_who_may_not_dissect_sees_no_data_set():
    assert not policy().identities["web"].sees_dataset("flowers-1")


def test_an_admin_sees_no_model_for_that():
    admin = policy('[identities.ops]\nroles = ["admin"]').identities["ops"]

    assert admin.may("admin")
    assert not admin.sees("iris")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no identity"),
        ("[identities.web", "it is not TOML"),
        ("a = " + "[" * 100_000, "it is nested too deep|it is not TOML"),
        ("[anonymous]\nrequests_burst = " + "1" * 5000, "it has a number of too many digits"),
        ("[identities.web]\nrole = []", "identities.web.role: there is no such setting"),
        ('[identities.web]\nroles = ["write"]', r"identities.web.roles.0: .*'predict'"),
        ('[identities.web.models]\n"*" = ["admin"]', r"identities.web.models.\*.0: .*'predict'"),
        ('[identities."a b"]\nroles = []', "a name is 1 to 64"),
        ("[identities.anonymous]\nroles = []", 'not "anonymous"'),
        ("[identities.web]\nrequests_per_second = 0", "identities.web.requests_per_second: .*greater than 0"),
        ("[anonymous]\ntokens = []", "anonymous.tokens: there is no such setting"),
        ('[anonymous]\nroles = ["admin"]', r"anonymous.roles.0: .*'predict'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text, message):
    with pytest.raises(UnusableFileError, match=message):
        policy(text)


def test_a_token_in_place_of_its_hash_is_not_quoted():
    with pytest.raises(UnusableFileError, match=r"identities.web.tokens.0: a token's hash is") as caught:
        policy(f'[identities.web]\ntokens = ["{TOKENS["web"]}"]')

    assert TOKENS["web"] not in str(caught.value)


@pytest.mark.parametrize("what", ["tokens", "certificates"])
def test_what_proves_an_identity_proves_no_other(what):
    proof = hash_line("x" * 40) if what == "tokens" else "web.example"

    with pytest.raises(
        UnusableFileError, match=rf"identities.two.{what}\[0\] is of the identity 'one' as well"
    ) as caught:
        policy(f'[identities.one]\n{what} = ["{proof}"]\n[identities.two]\n{what} = ["{proof}"]')

    assert hash_line("x" * 40) not in str(caught.value)


def test_a_policys_description_has_no_hash():
    assert digest(TOKENS["web"]).hex() not in repr(policy())
    assert repr(digest(TOKENS["web"])) not in repr(policy())


def test_the_examples_of_the_documentation_can_be_used(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text("utf-8")
    settings, identities = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    hashes = iter(hash_line(new_token()) for _ in range(9))
    (tmp_path / "pellucid.toml").write_text(settings)

    found = policy(re.sub(r"sha256:\w+…", lambda _: next(hashes), identities))

    assert load(tmp_path / "pellucid.toml").access.file == Path("/etc/pellucid/access/access.toml")
    assert found.anonymous.roles_for("demo-1") == {"predict"}
    assert set(found.identities) == {"web", "research"}
    example = re.search(r"(?s)    (\[identities.web\].*?)\n\nWhat a message", access_file.__doc__)[1]
    assert policy(re.sub(r"sha256:\w+…", lambda _: next(hashes), textwrap.dedent("    " + example))).anonymous


@pytest.mark.parametrize("value", ["Bearer abc", "bearer  abc", " BEARER abc "])
def test_a_bearer_token_is_found(value):
    assert bearer(value) == "abc"


@pytest.mark.parametrize("value", ["", "abc", "Basic abc", "Bearer", "Bearer a b", "Bearer ä", "Bearer " + "x" * 5000])
def test_anything_else_is_no_token(value):
    assert bearer(value) is None
