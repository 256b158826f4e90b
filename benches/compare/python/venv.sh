#!/bin/sh
# Creates a virtual environment in the folder $1 with the pinned packages of the file $2, unless it is
# there, and prints the path of its interpreter. Progress goes to stderr.
set -eu

dir=$1
requirements=$(dirname "$0")/$2
if ! { [ -x "$dir/bin/python" ] && cmp -s "$requirements" "$dir/requirements.txt"; }; then
    echo "creating a virtual environment in $dir" >&2
    rm -rf "$dir"
    "${PYTHON:-python3}" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements" >&2
    cp "$requirements" "$dir/requirements.txt"
fi
cd "$dir" && echo "$PWD/bin/python"
