"""One real server for the tests here, on the demo models: one in each test process."""

import fcntl
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from e2e.serving import Server, serve
from PIL import Image
from sklearn.datasets import load_breast_cancer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def models() -> Path:
    """The demo model repository, written first if it is not there."""
    folder = ROOT / "models"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".written").exists():
            subprocess.run([sys.executable, "-m", "demo.models", str(folder)], cwd=ROOT, check=True)
            (folder / ".written").touch()
    return folder


@pytest.fixture(scope="session")
def table_models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the table model alone, which a server loads faster."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "breast-cancer").symlink_to(models / "breast-cancer", target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that all tests share; a test that hurts it starts its own."""
    with serve(models, tmp_path_factory.mktemp("server"), as_users_do=True) as running:
        yield running


@pytest.fixture(scope="session")
def cat() -> bytes:
    """A photograph of a tiger cat, 451 by 300 pixels, as a PNG file."""
    picture = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture
def cat_file(cat: bytes, tmp_path: Path) -> Path:
    """The same photograph, as a file."""
    path = tmp_path / "cat.png"
    path.write_bytes(cat)
    return path


@pytest.fixture(scope="session")
def table() -> npt.NDArray[np.float64]:
    """The breast-cancer set, (569, 30), in the columns' own units."""
    rows: npt.NDArray[np.float64] = load_breast_cancer().data
    return rows


@pytest.fixture(scope="session")
def columns() -> tuple[str, ...]:
    """The breast-cancer set's columns."""
    return tuple(str(name) for name in load_breast_cancer().feature_names)
