//! The project's commands: `cargo xtask --help`.

mod barriers;
mod build;
mod combinations;
mod conformance;
mod cost;
mod docs;
mod driver;
mod fixtures;
mod guard_cost;
mod linked;
mod lint;
mod mutants;
mod package;
mod qemu;
mod reproducible;
mod rules;
mod run;
mod setup;
mod step;
mod test;
mod tool;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Builds, runs and tests Ferrostor
///
/// Before a command runs, bootstrap/setup.sh checks that this machine has the tools
/// that the command needs. It installs or lists the missing ones.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    verbatim_doc_comment,
    version,
    after_help = "Examples:\n  cargo xtask run\n  cargo xtask test\n  cargo xtask help run"
)]
enum Command {
    /// Build the driver and run it in the testbed, against a virtio disk
    Run(run::Options),
    /// Run the tests, in steps
    Test(test::Options),
    /// Build a driver and list its imports
    Build(build::Options),
    /// Make a signed driver package: a folder, a .zip and an .iso
    Package(package::Options),
    /// Check driver files, INF files and catalogs against the requirements of Windows
    Lint(lint::Options),
    /// Count instructions, calls and memory accesses of one I/O, by callback
    Cost(cost::Options),
    /// Count the instructions that a lock guard adds
    GuardCost(guard_cost::Options),
    /// Change the code in one place at a time, and check that a test fails
    Mutants(mutants::Options),
    /// Write in docs/locking.md which tests show each rule of Storport
    Rules(rules::Options),
    /// Write docs/conformance.md: what shows each requirement of VIRTIO
    Conformance(conformance::Options),
}

fn main() -> ExitCode {
    run(Command::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Run(options) => return Ok(run::command(&options)?),
        Command::Test(options) => return Ok(test::command(&options)?),
        Command::Lint(options) => return Ok(lint::command(&options)?),
        Command::Cost(options) => return Ok(cost::command(&options)?),
        Command::Build(options) => build::command(&options)?,
        Command::Package(options) => package::command(&options)?,
        Command::GuardCost(options) => guard_cost::command(&options)?,
        Command::Mutants(options) => mutants::command(&options)?,
        Command::Rules(options) => rules::command(&options)?,
        Command::Conformance(options) => conformance::command(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
