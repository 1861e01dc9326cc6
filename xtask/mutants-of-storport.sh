#!/bin/sh
# Replaces cargo when cargo-mutants tests crates/storport, which is built only for Windows. Runs
# the tests in cross/models, the fastest first: of state.rs on one thread and with loom, and of
# the whole crate with Miri.
set -eu

case "$1 $2" in
"test --no-run") run=--no-run ;;
"test "*) run= ;;
*) exec cargo "$@" ;;
esac

export FERROSTOR_MUTANT=1

models() {
    # shellcheck disable=SC2086 # no argument if it is empty
    "$@" $run --manifest-path cross/Cargo.toml --package ferrostor-models
}

models cargo test --target-dir target/models --test phases
models env RUSTFLAGS="--cfg loom" cargo test --target-dir target/loom --test state holds::
models env MIRIFLAGS=-Zmiri-permissive-provenance rustup run nightly cargo miri test \
    --target-dir target/miri --target x86_64-pc-windows-msvc --test callbacks
