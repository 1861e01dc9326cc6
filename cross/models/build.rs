//! Makes faulty copies of `crates/storport/src/state.rs` for `tests/state.rs`:
//! each with one line changed, which the models must not let pass.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

const SOURCE: &str = "../../crates/storport/src/state.rs";

/// A fault: its name, the line as it is, and what it becomes.
struct Fault {
    name: &'static str,
    line: &'static str,
    becomes: &'static str,
}

const FAULTS: [Fault; 15] = [
    Fault {
        name: "found_is_stored_relaxed",
        line: "self.found.store(true, Ordering::Release)",
        becomes: "self.found.store(true, Ordering::Relaxed)",
    },
    Fault {
        name: "found_is_loaded_relaxed",
        line: "self.found.load(Ordering::Acquire)",
        becomes: "self.found.load(Ordering::Relaxed)",
    },
    Fault {
        name: "dpcs_are_announced_relaxed",
        line: "self.phase.store(RUNNING_WITH_DPCS, Ordering::Release)",
        becomes: "self.phase.store(RUNNING_WITH_DPCS, Ordering::Relaxed)",
    },
    Fault {
        name: "dpcs_are_looked_for_relaxed",
        line: "self.phase.load(Ordering::Acquire) == RUNNING_WITH_DPCS",
        becomes: "self.phase.load(Ordering::Relaxed) == RUNNING_WITH_DPCS",
    },
    Fault {
        name: "notes_are_taken_before_dpcs_are_announced",
        line: "self.phase.store(RUNNING_WITH_DPCS, Ordering::Release);\n        self.take_noted()",
        becomes: "let noted = self.take_noted();\n        \
                  self.phase.store(RUNNING_WITH_DPCS, Ordering::Release);\n        noted",
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
        name: "a_note_is_not_looked_after",
        line: "if self.queues_dpcs() && self.noted",
        becomes: "if self.is_dump() && self.noted",
    },
    Fault {
        name: "a_note_is_not_taken_back",
        line: "self.noted.fetch_and(!bit, Ordering::AcqRel) & bit != 0",
        becomes: "self.noted.load(Ordering::Acquire) & bit != 0",
    },
    Fault {
        name: "entering_is_relaxed",
        line: "self.inside.fetch_add(1, Ordering::AcqRel)",
        becomes: "self.inside.fetch_add(1, Ordering::Relaxed)",
    },
    Fault {
        name: "leaving_is_relaxed",
        line: "self.inside.fetch_sub(1, Ordering::AcqRel)",
        becomes: "self.inside.fetch_sub(1, Ordering::Relaxed)",
    },
    Fault {
        name: "a_restart_only_reads_who_is_inside",
        line: "self.inside.fetch_add(0, Ordering::AcqRel)",
        becomes: "self.inside.load(Ordering::Acquire)",
    },
    Fault {
        name: "a_dpc_runs_without_entering",
        line: "if self.enter() {\n            return Begin::Now;",
        becomes: "if self.queues_dpcs() {\n            return Begin::Now;",
    },
    Fault {
        name: "a_dpc_is_dropped_while_stopped",
        line: "match self.issue(number) {\n            Issue::Now",
        becomes: "let _: u8 = number;\n        match Issue::Later {\n            Issue::Now",
    },
    Fault {
        name: "the_place_for_a_change_is_given_back_relaxed",
        line: "self.state_change.store(false, Ordering::Release)",
        becomes: "self.state_change.store(false, Ordering::Relaxed)",
    },
];

fn main() -> io::Result<()> {
    for file in ["build.rs", SOURCE] {
        println!("cargo::rerun-if-changed={file}");
    }
    let source = fs::read_to_string(SOURCE)?;
    let folder = env::var_os("OUT_DIR").map_or_else(PathBuf::new, PathBuf::from);
    let mut modules = String::new();
    for Fault {
        name,
        line,
        becomes,
    } in FAULTS
    {
        if source.matches(line).count() != 1 {
            return Err(io::Error::other(format!(
                "{SOURCE}: not there once: {line}"
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
    format!("/// A fault: {doc}.\n#[path = {file:?}]\npub mod {name};\n")
}
