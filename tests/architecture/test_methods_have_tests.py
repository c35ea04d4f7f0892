"""A method comes with a test file of its own."""

from pathlib import Path

import pellucid_server.engine.methods
import pytest
from pellucid_server.engine.asking import registry

PACKAGE = Path(pellucid_server.engine.methods.__file__).parent
TESTS = Path(__file__).parents[1] / "server" / "engine" / "methods"

registry.discover(pellucid_server.engine.methods)
MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" and "shared" not in path.parts
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_method_module_has_its_test_file(module):
    expected = TESTS / module.parent / f"test_{module.name}"

    assert expected.is_file(), f"{module} has no tests: write {expected}"


@pytest.mark.parametrize("method", registry.methods(), ids=lambda method: method.name)
def test_a_methods_file_is_named_like_the_method(method):
    assert method.function.__module__.rpartition(".")[2] == method.name.replace("-", "_")


@pytest.mark.parametrize("method", registry.methods(), ids=lambda method: method.name)
def test_a_method_says_what_it_does_where_it_is_from_and_what_its_parameters_do(method):
    info = method.info()

    assert info.summary.endswith(".")
    assert info.source
    assert info.needs
    assert all(parameter.text.endswith(".") for parameter in info.parameters)


@pytest.mark.parametrize("method", registry.methods(), ids=lambda method: method.name)
def test_a_method_has_its_section_in_the_documentation(method):
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")

    assert f"## {method.name}\n" in text
    assert all(f"`{parameter.name}`" in text for parameter in method.info().parameters)
