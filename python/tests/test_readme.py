"""Runs the examples of README.md and the command line, and checks the version."""

import doctest
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import partd

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_examples_of_the_readme_print_what_they_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The text for doctest: the contents of all fenced Python code.
    code = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    test = doctest.DocTestParser().get_doctest(code, {}, "README.md", str(README), 0)
    assert len(test.examples) > 10
    report = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_the_version_is_the_same_everywhere():
    assert partd.__version__ == importlib.metadata.version("partd") == "2.0.0"


def test_the_command_line():
    def run(*arguments):
        command = [sys.executable, "-m", "partd", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env={"PATH": ""}, check=False
        )

    assert run("--version").stdout == "partd 2.0.0\n"
    assert run("inspect", "x").returncode == 127 and "cargo install" in run("inspect", "x").stderr
    assert run("nonsense").returncode == 2 and run("--help").returncode == 0
