#!/bin/sh
# Checks that the library compiles without warnings with no features and with each feature alone, and
# that no dependency of the default features calls a C compiler.
#
#     tests/features.sh
set -eu
cd "$(dirname "$0")/.."

check() {
    echo "checking $*" >&2
    cargo clippy --quiet --package partd --lib --no-default-features "$@" -- --deny warnings
}

check
for feature in zlib snappy lz4 bz2 blosc zstd pickle msgpack numpy arrow bytes tokio tracing; do
    check --features "$feature"
done

if cargo tree --edges normal,build --prefix none | grep -E '^(cc|cmake|bindgen|pkg-config) '; then
    echo "the default features must build without a C compiler, but they include these crates" >&2
    exit 1
fi
