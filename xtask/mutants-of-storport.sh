#!/bin/sh
# What cargo-mutants calls instead of cargo for crates/storport. The crate is built only for
# Windows, and has no tests for the host. The models in cross/models test it: loom its file
# state.rs, and Miri the whole crate.
set -eu

models="--manifest-path cross/Cargo.toml --package ferrostor-models"
case "$1 $2" in
"test --no-run") run=--no-run ;;
"test "*) run= ;;
*) exec cargo "$@" ;;
esac

# shellcheck disable=SC2086 # the words of $models are arguments
RUSTFLAGS="--cfg loom" cargo test $run $models --target-dir target/loom --test state -- holds
# shellcheck disable=SC2086
MIRIFLAGS=-Zmiri-permissive-provenance exec rustup run nightly cargo miri test $run $models \
    --target-dir target/miri --target x86_64-pc-windows-msvc --test callbacks
