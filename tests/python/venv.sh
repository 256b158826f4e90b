#!/bin/sh
# Creates a virtual environment for tests that talk to Python, and prints the path of its
# interpreter. For use by hand and in CI:
#
#     export PARTD_PYTHON="$(tests/python/venv.sh target/python)"
#     export PARTD_SERVER_PYTHON="$(tests/python/venv.sh target/python-server \
#         server/tests/python/requirements.txt partd.zmq)"
#
#     tests/python/venv.sh [DIR [REQUIREMENTS MODULES]]
#
# The defaults are for tests/encodings/python_interop.rs and make_golden.py. MODULES must be
# importable at the end, separated by commas. Progress goes to stderr; only the path goes to stdout.
# A complete environment with the same requirements is reused.
set -eu

dir=${1:-target/python}
requirements=${2:-$(dirname "$0")/requirements.txt}
modules=${3:-partd,snappy,blosc,msgpack,numpy}
python=${PYTHON:-python3}

if [ -x "$dir/bin/python" ] && cmp -s "$requirements" "$dir/requirements.txt"; then
    echo "using $dir, which has the same requirements" >&2
else
    echo "creating a virtual environment in $dir with $("$python" --version)" >&2
    rm -rf "$dir"
    "$python" -m venv "$dir" >&2
    echo "installing $(grep -c == "$requirements") pinned packages" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --no-deps -r "$requirements" >&2
    "$dir/bin/python" -c "import $modules" >&2
    cp "$requirements" "$dir/requirements.txt"
    echo "done" >&2
fi
cd "$dir" && echo "$PWD/bin/python"
