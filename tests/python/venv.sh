#!/bin/sh
# Creates the virtual environment for tests/encodings/python_interop.rs and make_golden.py, and prints
# the path of its interpreter. For use by hand and in CI:
#
#     export PARTD_PYTHON="$(tests/python/venv.sh target/python)"
#
# Progress goes to stderr; only the path goes to stdout. A complete environment with the same
# requirements is reused.
set -eu

dir=${1:-target/python}
here=$(dirname "$0")
python=${PYTHON:-python3}

if [ -x "$dir/bin/python" ] && cmp -s "$here/requirements.txt" "$dir/requirements.txt"; then
    echo "using $dir, which has the same requirements" >&2
else
    echo "creating a virtual environment in $dir with $("$python" --version)" >&2
    rm -rf "$dir"
    "$python" -m venv "$dir" >&2
    echo "installing $(grep -c == "$here/requirements.txt") pinned packages" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --no-deps -r "$here/requirements.txt" >&2
    "$dir/bin/python" -c "import partd, snappy, blosc, msgpack, numpy" >&2
    cp "$here/requirements.txt" "$dir/requirements.txt"
    echo "done" >&2
fi
cd "$dir" && echo "$PWD/bin/python"
