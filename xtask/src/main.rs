//! The project's commands: `cargo xtask --help`.

mod barriers;
mod build;
mod cost;
mod docs;
mod driver;
mod fixtures;
mod guard_cost;
mod life_cycle;
mod lint;
mod package;
mod reproducible;
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
/// Before a command runs, bootstrap/setup.sh installs or lists what the command
/// needs on this machine.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    version,
    after_help = "Examples:\n  cargo xtask run\n  cargo xtask test\n  cargo xtask help run"
)]
enum Command {
    /// Build the driver and run it in the testbed, against a virtio disk
    Run(run::Options),
    /// Run every test of the project
    Test(test::Options),
    /// Build the driver and list what it imports
    Build(build::Options),
    /// Make a signed package to install: a folder, a .zip and an .iso
    Package(package::Options),
    /// Check driver files, setup files and catalogs: what Windows demands, and advice
    Lint(lint::Options),
    /// Count what one I/O costs: instructions, calls, memory, by callback
    Cost(cost::Options),
    /// Count the instructions that a guard costs
    GuardCost(guard_cost::Options),
    /// Draw the picture of the device's life cycle, docs/life-cycle.svg
    Picture(life_cycle::Options),
}

fn main() -> ExitCode {
    let result: Result<ExitCode, Box<dyn std::error::Error>> = match Command::parse() {
        Command::Run(options) => run::command(&options).map_err(Into::into),
        Command::Test(options) => test::command(&options).map_err(Into::into),
        Command::Build(options) => build::command(&options)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Package(options) => package::command(&options)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Lint(options) => lint::command(&options).map_err(Into::into),
        Command::Cost(options) => cost::command(&options).map_err(Into::into),
        Command::GuardCost(options) => guard_cost::command(&options)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Picture(options) => life_cycle::command(&options)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_command_has_examples() {
        let mut all = Command::command();
        for command in all.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  cargo xtask "), "{help}");
        }
        assert!(all.render_long_help().to_string().contains("Examples:\n"));
    }
}
