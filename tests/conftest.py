"""What holds for all tests."""

import os
from pathlib import Path

import pytest

# Tests of the guard fork this process. A worker, which does so in earnest, has no gRPC; its handlers of forks would
# reach for descriptors that the guard closes.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

LONGEST = [
    "test_image",
    "test_supervision",
    "test_operators",
    "test_faults",
    "test_lifecycle",
    "test_worker",
    "test_overload",
    "test_demo",
    "test_broken_models",
    "test_concurrency",
    "test_export",
    "test_transformers",
    "test_fuzz",
    "test_soak",
    "test_graph",
    "test_operator_safety",
    "test_losses",
    "test_functional",
    "test_onnx_sweep",
    "test_pool",
    "test_app",
    "test_guard",
    "test_streams",
    "test_archive",
    "test_operations",
    "test_model_handle",
    "test_helper",
    "test_worker_supervisor",
    "test_command",
    "test_attributions",
    "test_imports",
]
"""Files that take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, so that no process of several is left with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(Path(item.path).stem, len(LONGEST)))
