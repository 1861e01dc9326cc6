//! Calls of other programs: cargo, rustup, the testbed. Each call is shown as it
//! could be typed, and its output goes straight to the terminal.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use crate::workspace;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It can't be started.
    #[error("{tool} can't be started: {source}")]
    NotStarted {
        /// Its name or path.
        tool: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It ran and reported failure; why is in what it printed.
    #[error("`{call}` ended with {status}")]
    Failed {
        /// The call, in short.
        call: String,
        /// Its end.
        status: ExitStatus,
    },
}

impl ToolError {
    /// The failure of a call that ended with `status`.
    #[must_use]
    pub fn failed(command: &Command, status: ExitStatus) -> Self {
        Self::Failed {
            call: call(command),
            status,
        }
    }
}

/// A tool that works in the project's root folder and reads no input.
#[must_use]
pub fn tool(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(workspace::root()).stdin(Stdio::null());
    command
}

/// Cargo, of the toolchain that built xtask.
#[must_use]
pub fn cargo(subcommand: &str) -> Command {
    let mut command = tool("cargo");
    command.arg(subcommand);
    command
}

/// Runs a tool to its end.
///
/// # Errors
/// It can't be started, or its exit code is not 0.
pub fn run(command: &mut Command) -> Result<(), ToolError> {
    let status = status(command)?;
    if status.success() {
        return Ok(());
    }
    Err(ToolError::failed(command, status))
}

/// Runs a tool to its end and says how it ended.
///
/// # Errors
/// It can't be started.
pub fn status(command: &mut Command) -> Result<ExitStatus, ToolError> {
    eprintln!("> {}", line(command));
    quiet_status(command)
}

/// Runs a tool to its end without showing the call, and says how it ended.
///
/// # Errors
/// It can't be started.
pub fn quiet_status(command: &mut Command) -> Result<ExitStatus, ToolError> {
    command
        .status()
        .map_err(|source| not_started(command, source))
}

/// Runs a tool to its end, unseen, and gives what it printed.
///
/// # Errors
/// It can't be started, or its exit code is not 0.
pub fn output(command: &mut Command) -> Result<String, ToolError> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| not_started(command, source))?;
    if !output.status.success() {
        return Err(ToolError::failed(command, output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// The error of a tool that was not started.
pub fn not_started(command: &Command, source: std::io::Error) -> ToolError {
    ToolError::NotStarted {
        tool: command.get_program().display().to_string(),
        source,
    }
}

/// The call as a shell takes it, with the variables set for it in front.
fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// The tool's name and the first word it was given.
fn call(command: &Command) -> String {
    let tool = Path::new(command.get_program()).file_name();
    tool.into_iter()
        .chain(command.get_args().take(1))
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_shown_as_a_shell_takes_it() {
        let mut command = Command::new("cargo");
        command
            .args(["test", "--test", "driver_*", "it's", ""])
            .env("FERROSTOR_DRIVER", "/a b.sys");
        assert_eq!(
            line(&command),
            r"FERROSTOR_DRIVER='/a b.sys' cargo test --test 'driver_*' 'it'\''s' ''"
        );
    }

    #[test]
    fn a_tool_that_fails_is_named_in_short_with_its_exit_code() {
        let error = run(tool("/bin/sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c` ended with exit status: 7");
    }

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let error = run(&mut tool("no-such-tool")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no-such-tool can't be started: "),
            "{error}"
        );
    }
}
