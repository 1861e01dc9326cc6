//! The cases of the rules that the compiler enforces. Each is compiled for Windows twice: the code
//! that breaks the rule must not compile, and its legal twin must compile without a warning.
//!
//! A case is a function or a module. Its comment states the rule, and its last line cites the
//! source. `#[cfg(wrong)]` marks the code that breaks the rule, and `#[cfg(right)]` the code that a
//! driver uses instead. The rest is common to both. A comment after each wrong line has the code
//! of the expected error, or `-` if the error has none, and words of its message or label:
//!
//! ```text
//! served.with(held, |again| **again += 1);
//! //~ E0277 wrong lock order
//! ```
//!
//! The wrong code of all cases is compiled at once. The test `cross/rules/tests/rules.rs` compares
//! all errors with the comments: a missing error, another error, or one on another line fails.
//!
//! There are no cases of which context offers which routine. The tables of docs/locking.md say
//! that, and the test compiles the call of each entry (`rights`).
//!
//! ```text
//! cargo xtask test --only lock-rules
//! ```
#![cfg(windows)]
#![expect(dead_code, reason = "the cases are compiled, not run")]

#[cfg(any(wrong, right))]
mod adapters;
#[cfg(any(wrong, right))]
mod contexts;
#[cfg(any(wrong, right))]
mod locks;
#[cfg(any(wrong, right))]
mod miniport;
#[cfg(any(wrong, right))]
mod requests;
#[cfg(rights)]
mod rights {
    //! Generated from the tables of docs/locking.md.
    include!(env!("RIGHTS"));
}
#[cfg(any(wrong, right))]
mod routines;
#[cfg(any(wrong, right))]
mod sealed;
