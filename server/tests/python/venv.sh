#!/bin/sh
# Makes the virtual environment for tests/server/python.rs and prints the path of its interpreter:
#
#     export PARTD_SERVER_PYTHON="$(server/tests/python/venv.sh target/python-server)"
#
# Progress goes to stderr. A finished environment with the same requirements is reused.
set -eu

dir=${1:-target/python-server}
here=$(dirname "$0")
python=${PYTHON:-python3}

if [ -x "$dir/bin/python" ] && cmp -s "$here/requirements.txt" "$dir/requirements.txt"; then
    echo "reusing $dir" >&2
else
    echo "making a virtual environment in $dir with $("$python" --version)" >&2
    rm -rf "$dir"
    "$python" -m venv "$dir" >&2
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        --no-deps -r "$here/requirements.txt" >&2
    "$dir/bin/python" -c "import partd.zmq" >&2
    cp "$here/requirements.txt" "$dir/requirements.txt"
    echo "done" >&2
fi
cd "$dir" && echo "$PWD/bin/python"
