"""Fixtures of the tests: a path for a store, and partd 1.4.2."""

import importlib
import os
import pathlib
import sys

import pytest

UPSTREAM = pathlib.Path(
    os.environ.get("PARTD_UPSTREAM", pathlib.Path(__file__).parent.parent / "target" / "upstream")
)


def skip_or_fail(reason):
    """Skips a test that cannot run; in CI, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def partd1():
    """partd 1.4.2, which `tests/upstream` downloads, under another name."""
    if not (UPSTREAM / "partd1").is_dir():
        skip_or_fail("partd 1.4.2 is missing; python/tests/upstream downloads it")
    sys.path.insert(0, str(UPSTREAM))
    try:
        return importlib.import_module("partd1")
    finally:
        sys.path.remove(str(UPSTREAM))


@pytest.fixture
def path(tmp_path):
    """A path at which no store exists yet."""
    return str(tmp_path / "store")
