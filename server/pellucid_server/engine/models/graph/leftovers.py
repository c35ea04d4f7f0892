"""What torch keeps of every model that was ever loaded, though the model is gone: some 60 KB each."""

import linecache

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import graph_module


def clear_leftovers() -> None:
    """Drop the sources of generated code, which tracebacks would quote, and derived shapes; both are made again."""
    FakeTensorMode.cache_clear()
    sources = graph_module._loader.eval_cache
    for name in list(sources):
        sources.pop(name, None)
        linecache.cache.pop(name, None)
