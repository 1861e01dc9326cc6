//! Makes faulty copies of `crates/storport/src/state.rs`, each with one change. `tests/state.rs`
//! shows that the models fail for them.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const SOURCE: &str = "../../crates/storport/src/state.rs";

/// A fault: its name, the correct code, and the faulty code that replaces it.
struct Fault {
    name: &'static str,
    line: &'static str,
    becomes: &'static str,
}

const FAULTS: [Fault; 38] = [
    Fault {
        name: "found_is_stored_relaxed",
        line: "let phase = if found { FOUND } else { EMPTY };\n        self.phase.store(phase, Ordering::Release)",
        becomes: "let phase = if found { FOUND } else { EMPTY };\n        self.phase.store(phase, Ordering::Relaxed)",
    },
    Fault {
        name: "a_phase_begins_relaxed",
        line: ".compare_exchange(*phase, to, Ordering::AcqRel, Ordering::Relaxed)",
        becomes: ".compare_exchange(*phase, to, Ordering::Release, Ordering::Relaxed)",
    },
    Fault {
        name: "started_is_stored_relaxed",
        line: "(true, true) => READY,\n        };\n        self.phase.store(phase, Ordering::Release)",
        becomes: "(true, true) => READY,\n        };\n        self.phase.store(phase, Ordering::Relaxed)",
    },
    Fault {
        name: "interrupts_are_admitted_relaxed",
        line: "self.phase.load(Ordering::Acquire) >= RESTARTING",
        becomes: "self.phase.load(Ordering::Relaxed) >= RESTARTING",
    },
    Fault {
        name: "requests_are_admitted_relaxed",
        line: "pub fn serves_requests(&self) -> bool {\n        self.phase.load(Ordering::Acquire)",
        becomes: "pub fn serves_requests(&self) -> bool {\n        self.phase.load(Ordering::Relaxed)",
    },
    Fault {
        name: "requests_are_admitted_before_ready",
        line: "pub fn serves_requests(&self) -> bool {\n        self.phase.load(Ordering::Acquire) == READY",
        becomes: "pub fn serves_requests(&self) -> bool {\n        self.phase.load(Ordering::Acquire) >= STARTED",
    },
    Fault {
        name: "a_callback_is_admitted_relaxed",
        line: "let admitted = self.phase.load(Ordering::Acquire)",
        becomes: "let admitted = self.phase.load(Ordering::Relaxed)",
    },
    Fault {
        name: "a_callback_is_admitted_before_ready",
        line: "let admitted = self.phase.load(Ordering::Acquire) == READY",
        becomes: "let admitted = self.phase.load(Ordering::Acquire) >= STARTED",
    },
    Fault {
        name: "a_callback_is_admitted_before_it_is_counted",
        line: "self.callbacks.fetch_add(1, Ordering::AcqRel);\n        let admitted = self.phase.load(Ordering::Acquire) == READY;",
        becomes: "let admitted = self.phase.load(Ordering::Acquire) == READY;\n        self.callbacks.fetch_add(1, Ordering::AcqRel);",
    },
    Fault {
        name: "a_callback_is_counted_relaxed",
        line: "self.callbacks.fetch_add(1, Ordering::AcqRel);\n        let admitted",
        becomes: "self.callbacks.fetch_add(1, Ordering::Relaxed);\n        let admitted",
    },
    Fault {
        name: "a_callback_leaves_relaxed",
        line: "self.callbacks.fetch_sub(1, Ordering::AcqRel)",
        becomes: "self.callbacks.fetch_sub(1, Ordering::Relaxed)",
    },
    Fault {
        name: "is_exclusive_only_reads_the_count",
        line: "self.callbacks.fetch_add(0, Ordering::AcqRel)",
        becomes: "self.callbacks.load(Ordering::Acquire)",
    },
    Fault {
        name: "a_run_is_admitted_relaxed",
        line: "if self.phase.load(Ordering::Acquire) == READY {\n            return Some(run);",
        becomes: "if self.phase.load(Ordering::Relaxed) == READY {\n            return Some(run);",
    },
    Fault {
        name: "a_run_is_marked_relaxed",
        line: "!mark.swap(true, Ordering::AcqRel)",
        becomes: "!mark.swap(true, Ordering::Relaxed)",
    },
    Fault {
        name: "a_run_leaves_relaxed",
        line: "mark.store(false, Ordering::Release)",
        becomes: "mark.store(false, Ordering::Relaxed)",
    },
    Fault {
        name: "is_exclusive_only_reads_the_marks",
        line: "let exchanged =\n                mark.compare_exchange(false, false, Ordering::AcqRel, Ordering::Relaxed);\n            exchanged.is_err()",
        becomes: "mark.load(Ordering::Acquire)",
    },
    Fault {
        name: "a_second_run_shares_the_mark",
        line: "self.callbacks.fetch_add(1, Ordering::AcqRel);\n                DpcRun::Counted",
        becomes: "DpcRun::Marked(number)",
    },
    Fault {
        name: "a_stop_is_not_counted",
        line: "pub fn stop(&self) -> bool {\n        self.callbacks.fetch_add(1, Ordering::AcqRel);",
        becomes: "pub fn stop(&self) -> bool {\n        self.callbacks.fetch_add(0, Ordering::AcqRel);",
    },
    Fault {
        name: "ready_is_stored_relaxed",
        line: "self.phase.store(READY, Ordering::Release)",
        becomes: "self.phase.store(READY, Ordering::Relaxed)",
    },
    Fault {
        name: "dpcs_are_queued_relaxed",
        line: "self.phase.load(Ordering::Acquire) == READY && !self.is_dump()",
        becomes: "self.phase.load(Ordering::Relaxed) == READY && !self.is_dump()",
    },
    Fault {
        name: "dpcs_are_queued_before_ready",
        line: "self.phase.load(Ordering::Acquire) == READY && !self.is_dump()",
        becomes: "self.phase.load(Ordering::Acquire) >= STARTED && !self.is_dump()",
    },
    Fault {
        name: "notes_are_taken_before_ready_is_stored",
        line: "self.phase.store(READY, Ordering::Release);\n        if self.is_dump() {\n            // The interrupt routine runs them.\n            return Noted(0);\n        }\n        self.take_noted()",
        becomes: "let noted = self.take_noted();\n        self.phase.store(READY, Ordering::Release);\n        noted",
    },
    Fault {
        name: "a_note_is_made_relaxed",
        line: "self.noted.fetch_or(bit, Ordering::AcqRel)",
        becomes: "self.noted.fetch_or(bit, Ordering::Relaxed)",
    },
    Fault {
        name: "notes_are_taken_relaxed",
        line: "self.noted.swap(0, Ordering::AcqRel)",
        becomes: "self.noted.swap(0, Ordering::Relaxed)",
    },
    Fault {
        name: "a_note_is_not_checked_again",
        line: "if self.queues_dpcs() && self.noted",
        becomes: "if self.is_dump() && self.noted",
    },
    Fault {
        name: "a_note_is_not_taken_back",
        line: "self.noted.fetch_and(!bit, Ordering::AcqRel) & bit != 0",
        becomes: "self.noted.load(Ordering::Acquire) & bit != 0",
    },
    Fault {
        name: "a_restart_does_not_take_the_notes",
        line: "return Noted(0);\n        }\n        self.become_ready(works)",
        becomes: "return Noted(0);\n        }\n        let _: Noted = self.become_ready(works);\n        Noted(0)",
    },
    Fault {
        name: "a_dpc_object_is_initialised_in_each_life",
        line: "self.initialized.fetch_or(bit, Ordering::Relaxed) & bit == 0",
        becomes: "self.initialized.fetch_or(bit, Ordering::Relaxed) & bit == 0 || true",
    },
    Fault {
        name: "a_dpc_object_changes_its_kind",
        line: "self.initialized_threaded.fetch_or(bit, Ordering::Relaxed);",
        becomes: "let _ = bit;",
    },
    Fault {
        name: "a_stop_does_not_begin_a_life",
        line: "self.life.fetch_add(1, Ordering::Release);\n        } else {",
        becomes: "} else {",
    },
    Fault {
        name: "hw_find_adapter_does_not_begin_a_life",
        line: "self.life.fetch_add(1, Ordering::Release);\n        }\n        begun",
        becomes: "let _: u32 = self.life();\n        }\n        begun",
    },
    Fault {
        name: "a_life_is_read_after_the_phase",
        line: "let life = self.life.load(Ordering::Acquire);\n        self.serves_requests().then_some(life)",
        becomes: "self.serves_requests()\n            .then(|| self.life.load(Ordering::Acquire))",
    },
    Fault {
        name: "a_life_is_read_relaxed",
        line: "let life = self.life.load(Ordering::Acquire);",
        becomes: "let life = self.life.load(Ordering::Relaxed);",
    },
    Fault {
        name: "a_timer_belongs_to_every_life",
        line: "self.timer.swap(0, Ordering::Relaxed) == TIMER_ARMED | u64::from(self.life())",
        becomes: "self.timer.swap(0, Ordering::Relaxed) != 0",
    },
    Fault {
        name: "a_timer_is_delivered_twice",
        line: "self.timer.swap(0, Ordering::Relaxed) ==",
        becomes: "self.timer.load(Ordering::Relaxed) ==",
    },
    Fault {
        name: "two_state_changes_are_reported_at_a_time",
        line: "!self.state_change.swap(true, Ordering::Acquire)",
        becomes: "!self.state_change.load(Ordering::Acquire)",
    },
    Fault {
        name: "a_state_change_begins_relaxed",
        line: "!self.state_change.swap(true, Ordering::Acquire)",
        becomes: "!self.state_change.swap(true, Ordering::Relaxed)",
    },
    Fault {
        name: "a_state_change_ends_relaxed",
        line: "self.state_change.store(false, Ordering::Release)",
        becomes: "self.state_change.store(false, Ordering::Relaxed)",
    },
];

fn main() -> io::Result<()> {
    for file in ["build.rs", SOURCE] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=FERROSTOR_MUTANT");
    let is_mutant = env::var_os("FERROSTOR_MUTANT").is_some();
    let source = fs::read_to_string(SOURCE)?;
    let folder = env::var_os("OUT_DIR").map_or_else(PathBuf::new, PathBuf::from);
    let mut modules = String::new();
    for Fault {
        name,
        line,
        becomes,
    } in FAULTS
    {
        // If cargo-mutants has changed the line, the copy lacks the fault. The tests of a mutant
        // (xtask/mutants-of-storport.sh) do not use the copies.
        if source.matches(line).count() != 1 && !is_mutant {
            return Err(io::Error::other(format!(
                "{SOURCE} must contain this text exactly once; adapt FAULTS in build.rs: {line}"
            )));
        }
        let copy = folder.join(format!("{name}.rs"));
        fs::write(&copy, source.replace(line, becomes))?;
        modules += &module(name, &copy);
    }
    fs::write(folder.join("faulty.rs"), modules)
}

fn module(name: &str, file: &Path) -> String {
    let doc = name.replace('_', " ");
    format!("/// A faulty copy: {doc}.\n#[path = {file:?}]\npub mod {name};\n")
}
