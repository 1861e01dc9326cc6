//! Storport with miniports that are Rust functions. Each does one thing right or wrong, and the
//! test checks the report or the behaviour.

mod bench;
mod dump;
mod fatal;
mod injections;
mod interrupts_and_dpcs;
mod late_accesses;
mod life_cycle;
mod locks;
mod miniport;
mod queues;
mod recovery;
mod requests;
mod restart;
mod routines;
mod rules;
mod schedules;
mod tracing;
mod wrong_callbacks;
