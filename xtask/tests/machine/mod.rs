//! A simulated machine: a folder of commands, most of which only record their calls.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Output};

use tempfile::TempDir;

pub struct Machine(TempDir);

impl Machine {
    pub fn new() -> Self {
        let machine = Self(TempDir::new().expect("a temporary folder"));
        fs::create_dir(machine.path("bin")).expect("a folder");
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Adds a command, such as `bin/rustc`, that records its call and then runs `script`.
    pub fn command(&self, name: &str, script: &str) {
        let (file, log) = (self.path(name), self.path("log"));
        let text = format!(
            "#!/bin/sh\necho \"${{0##*/}} $*\" >>'{}'\n{script}\n",
            log.display()
        );
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    /// The recorded calls.
    pub fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

/// What a command wrote to its standard error.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
