"""What the tests share: a place for stores, and the doctests' and upstream's whereabouts."""

import importlib
import os
import pathlib
import sys

import pytest

UPSTREAM = pathlib.Path(
    os.environ.get("PARTD_UPSTREAM", pathlib.Path(__file__).parent.parent / "target" / "upstream")
)


def skip_or_fail(reason):
    """A test that cannot run is skipped by hand, and fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def partd1():
    """partd 1.4.2 under another name, as `tests/upstream` fetches it."""
    if not (UPSTREAM / "partd1").is_dir():
        skip_or_fail("partd 1.4.2 is not there; python/tests/upstream fetches it")
    sys.path.insert(0, str(UPSTREAM))
    try:
        return importlib.import_module("partd1")
    finally:
        sys.path.remove(str(UPSTREAM))


@pytest.fixture
def path(tmp_path):
    """A path at which no store is yet."""
    return str(tmp_path / "store")
