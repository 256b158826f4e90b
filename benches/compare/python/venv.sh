#!/bin/sh
# Creates the virtual environment for engine.py in the folder $1, unless it is there, and prints the
# path of its interpreter. Progress goes to stderr.
set -eu

dir=$1
here=$(dirname "$0")
if ! { [ -x "$dir/bin/python" ] && cmp -s "$here/requirements.txt" "$dir/requirements.txt"; }; then
    echo "creating a virtual environment in $dir" >&2
    rm -rf "$dir"
    "${PYTHON:-python3}" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        -r "$here/requirements.txt" >&2
    "$dir/bin/python" -c "import partd" >&2
    cp "$here/requirements.txt" "$dir/requirements.txt"
fi
cd "$dir" && echo "$PWD/bin/python"
