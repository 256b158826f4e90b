#!/bin/sh
# Checks that each cargo feature compiles alone and without a warning, and the library with none;
# and that the default features need no C compiler.
#
#     tests/features.sh
#
# What is checked once stays in target/features, so that the next time is quick.
set -eu
cd "$(dirname "$0")/.."
export RUSTFLAGS="--deny warnings" CARGO_TERM_COLOR=never

check() {
    echo "checking: $*" >&2
    CARGO_TARGET_DIR=target/features cargo check --quiet --lib "$@"
}

CC=/bin/false check
check --no-default-features
for feature in zlib snappy lz4 bz2 blosc zstd pickle msgpack numpy arrow; do
    check --no-default-features --features "$feature"
done
