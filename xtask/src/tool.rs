//! Runs other programs: cargo, rustup, the testbed. Each call is printed as a shell command,
//! and its output goes to the terminal.

use std::{
    ffi::OsStr,
    panic,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    thread,
};

use crate::workspace;

/// A program could not be run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("cannot start {tool}: {source}")]
    NotStarted {
        tool: String,
        source: std::io::Error,
    },
    /// It has printed the reason. `call` is the program and its first argument.
    #[error("`{call}` failed: {status}")]
    Failed { call: String, status: ExitStatus },
    #[error("the testbed runs x64 driver code natively: use Linux on x86-64")]
    Host,
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

/// A program that runs in the project's root folder, without standard input.
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

/// Builds the testbed and returns its path.
pub fn build_testbed() -> Result<PathBuf, ToolError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(ToolError::Host);
    }
    run(cargo("build").args(["--profile", "host", "--package", "testbed"]))?;
    Ok(workspace::target().join("host/testbed"))
}

/// The testbed at `path`, with this subcommand. It runs in the user's current folder, so that
/// relative paths work.
pub fn testbed(path: &Path, subcommand: &str) -> Command {
    let mut testbed = Command::new(path);
    let caller = format!("cargo xtask {subcommand}");
    testbed.arg(subcommand).env("TESTBED_CALLER", caller);
    testbed
}

/// The exit code of an ended program as that of this command. A program that a signal ended
/// has none, which is an error.
pub fn exit_code(command: &Command, end: ExitStatus) -> Result<ExitCode, ToolError> {
    let code = end.code().and_then(|code| u8::try_from(code).ok());
    code.map(ExitCode::from)
        .ok_or_else(|| ToolError::failed(command, end))
}

/// Prints the call and runs it. An exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<(), ToolError> {
    let status = status(command)?;
    if status.success() {
        return Ok(());
    }
    Err(ToolError::failed(command, status))
}

/// Prints the call and runs it while `others` runs. Its output is printed when both have ended.
///
/// # Errors
/// The program cannot be started, its exit code is not 0, or `others` failed.
pub fn run_beside(
    command: &mut Command,
    others: impl FnOnce() -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    eprintln!("> {} &", line(command));
    let program = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| not_started(command, source))?;
    let reader = thread::spawn(|| program.wait_with_output());
    let others = others();
    let output = reader
        .join()
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
        .map_err(|source| not_started(command, source))?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(ToolError::failed(command, output.status));
    }
    others
}

/// Prints the call, runs it, and returns its exit status.
pub fn status(command: &mut Command) -> Result<ExitStatus, ToolError> {
    eprintln!("> {}", line(command));
    quiet_status(command)
}

/// Runs the call and returns its exit status.
pub fn quiet_status(command: &mut Command) -> Result<ExitStatus, ToolError> {
    command
        .status()
        .map_err(|source| not_started(command, source))
}

/// Runs the call and returns its standard output. An exit code other than 0 is an error.
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

/// The error of a program that was not started.
pub fn not_started(command: &Command, source: std::io::Error) -> ToolError {
    ToolError::NotStarted {
        tool: command.get_program().display().to_string(),
        source,
    }
}

/// The call as a shell command, with the variables that are set for it.
fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.display(), quoted(value?))));
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// The program's name and its first argument.
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
        assert_eq!(error.to_string(), "`sh -c` failed: exit status: 7");
    }

    #[test]
    fn programs_beside_each_other_must_both_succeed() {
        let beside = |first: &str, second: &'static str| {
            run_beside(tool("sh").args(["-c", first]), || {
                run(tool("sh").args(["-c", second]))
            })
            .map_err(|error| error.to_string())
        };
        assert_eq!(beside("true", "true"), Ok(()));
        let failed = |status| Err(format!("`sh -c` failed: exit status: {status}"));
        assert_eq!(beside("exit 3", "true"), failed(3));
        assert_eq!(beside("true", "exit 4"), failed(4));
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = run(&mut tool("no-such-tool")).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot start no-such-tool: "),
            "{error}"
        );
    }
}
