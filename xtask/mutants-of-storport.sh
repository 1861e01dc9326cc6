#!/bin/sh
# What cargo-mutants calls instead of cargo for crates/storport. The crate is built only for
# Windows. cross/models tests its file state.rs, on one thread and by loom, and the whole crate
# by Miri. The quickest comes first.
set -eu

case "$1 $2" in
"test --no-run") run=--no-run ;;
"test "*) run= ;;
*) exec cargo "$@" ;;
esac

models() {
    # shellcheck disable=SC2086 # no argument if it is empty
    "$@" $run --manifest-path cross/Cargo.toml --package ferrostor-models
}

models cargo test --target-dir target/models --test phases
models env RUSTFLAGS="--cfg loom" cargo test --target-dir target/loom --test state
models env MIRIFLAGS=-Zmiri-permissive-provenance rustup run nightly cargo miri test \
    --target-dir target/miri --target x86_64-pc-windows-msvc --test callbacks
