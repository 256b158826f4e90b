"""`python -m partd`: prints the version, sweeps temporary stores, or runs `partd-inspect`."""

import os
import shutil
import sys

import partd

USAGE = """\
usage: python -m partd inspect PATH…   show, check or salvage a store, with partd-inspect
       python -m partd sweep [DIR]     remove temporary stores that no process uses any more
       python -m partd --version       print the version
"""


def main(arguments):
    """Runs a command line and returns the exit code."""
    match arguments:
        case ["--version"]:
            print(f"partd {partd.__version__}")
            return 0
        case ["sweep", *directory] if len(directory) <= 1:
            for path in partd.file.sweep(*directory):
                print(path)
            return 0
        case ["inspect", *rest]:
            tool = shutil.which("partd-inspect")
            if tool is None:
                print(
                    "partd-inspect is not installed; install it with `cargo install partd-inspect`",
                    file=sys.stderr,
                )
                return 127
            os.execv(tool, ["partd-inspect", *rest])
        case ["-h" | "--help"]:
            print(USAGE, end="")
            return 0
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
