"""Methods are looked up by name in the registry; discovery fills it once."""

import pellucid_server.engine.methods
import pytest
from pellucid_server.engine.asking import registry

registry.discover(pellucid_server.engine.methods)


@pytest.fixture(scope="session")
def explain():
    """Explain by a method's name: `explain(name, handle, question, **parameters)`."""

    def run(name, handle, question, **parameters):
        method = registry.lookup(name)
        return method.function(handle, question, method.resolve(parameters))

    return run
