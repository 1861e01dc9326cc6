//! Runs the cases of all rules. `src/lib.rs` says how they are written.

use std::{path::Path, process::ExitCode};

use ferrostor_rules::{cases, root, write_messages};
use ui_test::{
    Args, default_file_filter, default_per_file_config, run_tests_generic,
    status_emitter::StatusEmitter,
};

fn main() -> ExitCode {
    let args = match Args::test() {
        Ok(args) => args,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::FAILURE;
        }
    };
    let folder = root().join("crates/storport/tests/rules");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let mut config = cases(&folder, &target);
    config.with_args(&args);
    if args.bless {
        config.output_conflict_handling = write_messages;
    }
    let emitter: Box<dyn StatusEmitter> = args.format.into();
    let run = run_tests_generic(
        vec![config],
        default_file_filter,
        default_per_file_config,
        emitter,
    );
    // The emitter has printed the faults of each case.
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
