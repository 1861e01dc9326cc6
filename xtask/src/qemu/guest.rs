//! A guest, from power-on to power-off: QEMU emulates the processors, an IOMMU, and a disk on a
//! root port of its own for each run. The first process of the guest, init.sh, performs the runs.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use fs_err as fs;
use tempfile::TempDir;

use super::{
    initramfs::Archive,
    software::{self, Software, SoftwareError},
};
use crate::tool::{self, ToolError, tool};

const INIT: &str = include_str!("init.sh");

const QEMU: &str = "qemu-system-x86_64";

/// The guest's processors and memory.
const CPUS: &str = "2";
const MEMORY: &str = "1G";

/// The size of each disk.
const DISK_BYTES: u64 = 256 << 20;

/// The PCI slot of the first root port. The others follow, as many as a bus has.
const FIRST_SLOT: usize = 4;
const MOST_RUNS: usize = 32 - 1 - FIRST_SLOT;

/// The lines that are shown of what QEMU reports.
const MOST_COMPLAINTS: usize = 10;

/// What is behind a disk: an image, which is blank at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    Usual,
    ReadOnly,
    /// The first operation of this kind fails: `write` or `flush`, as QEMU's blkdebug names them.
    /// All of `read` fail, because QEMU itself reads first.
    Fails(&'static str),
}

impl Drive {
    /// The options of `-drive`.
    fn options(self, image: &Path) -> String {
        let image = image.display();
        match self {
            Self::Usual => format!("file={image}"),
            Self::ReadOnly => format!("file={image},readonly=on"),
            Self::Fails(kind) => format!(
                "rerror=report,werror=report,file.driver=blkdebug,file.image.driver=file,file.image.filename={image},\
                 file.inject-error.0.event=none,file.inject-error.0.iotype={kind},\
                 file.inject-error.0.errno=5,file.inject-error.0.once={}",
                if kind == "read" { "off" } else { "on" }
            ),
        }
    }
}

/// A run of the testbed on a disk of QEMU.
#[derive(Clone, Debug)]
pub struct Run {
    /// QEMU's device, with its properties, such as `virtio-blk-pci,packed=on`.
    pub device: String,
    pub drive: Drive,
    /// Arguments of the testbed, without driver and function.
    pub testbed: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// The testbed's exit code; `None` if the guest stopped before.
    pub code: Option<u8>,
    /// What the testbed printed.
    pub output: String,
    /// Faults that the guest's kernel reported, such as DMA to an address without memory.
    pub faults: Vec<String>,
}

impl Ended {
    /// Whether the testbed said PASS, and the kernel reported no fault.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.code == Some(0) && self.faults.is_empty()
    }
}

/// The guest did not perform its runs.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error(transparent)]
    Software(#[from] SoftwareError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] io::Error),
    /// An argument cannot be passed to the guest.
    #[error("{0:?}: an argument for the guest has no spaces, and is not empty")]
    Argument(String),
    /// There is no free slot for another root port.
    #[error("a guest has room for {MOST_RUNS} disks")]
    TooMany,
    /// QEMU or the guest's kernel stopped.
    #[error("the guest stopped ({end}) before its runs had ended; it printed:\n{output}")]
    Stopped { end: ExitStatus, output: String },
    /// The guest hangs.
    #[error("the guest printed nothing for {} s, and was stopped; before:\n{output}", patience.as_secs())]
    Silent { patience: Duration, output: String },
    /// QEMU complained: the driver did what a guest must not do, or QEMU cannot start.
    #[error("QEMU reported errors, in {lines} lines; the first ones:\n{first}")]
    Complaints { lines: usize, first: String },
}

/// Performs the runs one after another in a guest. `show` gets the number of a run, and each line
/// of its output as it comes. `folder` gets the images: see [`image`]. QEMU is stopped if its guest
/// prints nothing for as long as `patience`.
///
/// # Errors
/// See [`GuestError`]. A run that ended with FAIL is not an error.
pub fn perform(
    testbed: &Path,
    driver: &Path,
    runs: &[Run],
    folder: &TempDir,
    patience: Duration,
    show: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Ended>, GuestError> {
    if runs.len() > MOST_RUNS {
        return Err(GuestError::TooMany);
    }
    let software = Software::get()?;
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, archive(&software, testbed, driver, runs)?)?;
    let mut qemu = command(&software, &initrd, folder, runs)?;
    let child = qemu
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(
            fs::File::create(folder.path().join("errors"))?
                .into_parts()
                .0,
        )
        .spawn()
        .map_err(|source| tool::not_started(&qemu, source))?;
    let ended = follow(Started(child), runs.len(), patience, show);
    // What QEMU prints itself, and what `-d guest_errors` finds.
    let mut complaints = fs::read_to_string(folder.path().join("errors"))?;
    complaints += &fs::read_to_string(folder.path().join("guest-errors")).unwrap_or_default();
    if !complaints.is_empty() {
        let first: Vec<_> = complaints.lines().take(MOST_COMPLAINTS).collect();
        return Err(GuestError::Complaints {
            lines: complaints.lines().count(),
            first: first.join("\n"),
        });
    }
    ended
}

/// The image of run `number`, in `folder`.
#[must_use]
pub fn image(folder: &TempDir, number: usize) -> PathBuf {
    folder.path().join(format!("disk-{number}.img"))
}

/// The guest's file system.
fn archive(
    software: &Software,
    testbed: &Path,
    driver: &Path,
    runs: &[Run],
) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "sys", "tmp"] {
        archive.folder(folder);
    }
    archive.file("init", INIT.as_bytes());
    archive.copy("bin/busybox", &software.busybox)?;
    archive.copy("bin/testbed", testbed)?;
    archive.copy("driver.sys", driver)?;
    let mut folders = Vec::new();
    for library in software::libraries(testbed)? {
        let mut ancestors: Vec<PathBuf> = library.ancestors().skip(1).map(Path::to_owned).collect();
        ancestors.reverse();
        for folder in ancestors.into_iter().skip(1) {
            if !folders.contains(&folder) {
                archive.folder(in_archive(&folder));
                folders.push(folder);
            }
        }
        archive.copy(in_archive(&library), &library)?;
    }
    let mut order = String::new();
    for module in &software.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(&format!("modules/{name}"), module)?;
        let _ = writeln!(order, "{name}");
    }
    archive.file("modules/order", order.as_bytes());
    archive.file("runs", list(runs)?.as_bytes());
    Ok(archive.finish())
}

fn in_archive(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

/// The lines that init.sh reads.
fn list(runs: &[Run]) -> Result<String, GuestError> {
    let mut lines = String::new();
    for (slot, run) in (FIRST_SLOT..).zip(runs) {
        let _ = write!(
            lines,
            "0000:00:{slot:02x}.0 --driver /driver.sys --overwrite"
        );
        for argument in &run.testbed {
            if argument.is_empty() || argument.contains(char::is_whitespace) {
                return Err(GuestError::Argument(argument.clone()));
            }
            let _ = write!(lines, " {argument}");
        }
        lines.push('\n');
    }
    Ok(lines)
}

fn command(
    software: &Software,
    initrd: &Path,
    folder: &TempDir,
    runs: &[Run],
) -> Result<Command, GuestError> {
    let mut qemu = tool(QEMU);
    qemu.args([
        "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", CPUS, "-m", MEMORY,
    ]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.args(["-serial", "stdio", "-device", "intel-iommu,intremap=on"]);
    qemu.args(["-d", "guest_errors", "-D"])
        .arg(folder.path().join("guest-errors"));
    qemu.arg("-kernel")
        .arg(&software.kernel)
        .arg("-initrd")
        .arg(initrd);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 intel_iommu=on"]);
    for (number, run) in runs.iter().enumerate() {
        let image = image(folder, number);
        fs::File::create(&image)?.set_len(DISK_BYTES)?;
        let slot = FIRST_SLOT + number;
        qemu.arg("-device").arg(format!(
            "pcie-root-port,id=port{number},chassis={slot},addr={slot:x}.0"
        ));
        let drive = run.drive.options(&image);
        qemu.arg("-drive").arg(format!(
            "if=none,id=drive{number},format=raw,cache=writeback,{drive}"
        ));
        let (device, properties) = run.device.split_once(',').unwrap_or((&run.device, ""));
        let more = if properties.is_empty() { "" } else { "," };
        // The device reaches memory through the IOMMU. A later property replaces an earlier one.
        qemu.arg("-device").arg(format!(
            "{device},bus=port{number},drive=drive{number},iommu_platform=on,disable-legacy=on{more}{properties}"
        ));
    }
    Ok(qemu)
}

/// QEMU, which does not outlive this value.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Neither fails for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what the guest prints, until it has switched itself off.
fn follow(
    mut qemu: Started,
    runs: usize,
    patience: Duration,
    show: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Ended>, GuestError> {
    let mut stdin = qemu.0.stdin.take();
    let stdout = qemu.0.stdout.take().expect("it is piped");
    let (send, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut all = String::new();
    let mut ended: Vec<Ended> = Vec::new();
    let mut is_ready = false;
    loop {
        let line = match lines.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Err(GuestError::Silent {
                    patience,
                    output: all,
                });
            }
        };
        let _ = writeln!(all, "{line}");
        let command = line.strip_prefix('@').unwrap_or_default();
        let (command, rest) = command.split_once(' ').unwrap_or((command, ""));
        let number = ended.len().wrapping_sub(1);
        let run = ended.last_mut();
        match (command, run) {
            ("begin", _) => ended.push(Ended::default()),
            ("kernel", Some(run)) => {
                show(number, &line);
                run.faults.push(rest.to_owned());
            }
            ("end", Some(run)) => run.code = rest.rsplit(' ').next().and_then(|it| it.parse().ok()),
            ("ready", _) => {
                is_ready = true;
                // The guest switches itself off. If it is gone already, the output ends too.
                if let Some(mut stdin) = stdin.take() {
                    let _ = stdin.write_all(b"\n");
                }
            }
            (_, Some(run)) if run.code.is_none() => {
                show(number, &line);
                let _ = writeln!(run.output, "{line}");
            }
            _ => {}
        }
    }
    reader.join().expect("the reader does not panic");
    let end = qemu.0.wait()?;
    if !end.success() || !is_ready || ended.len() != runs {
        return Err(GuestError::Stopped { end, output: all });
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a shell script in place of QEMU. Returns what was shown, too.
    fn followed(script: &str) -> (Result<Vec<Ended>, GuestError>, Vec<String>) {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = shell.spawn().unwrap();
        let mut shown = Vec::new();
        let ended = follow(
            Started(child),
            2,
            Duration::from_millis(500),
            &mut |number, line| shown.push(format!("{number} {line}")),
        );
        (ended, shown)
    }

    #[test]
    fn each_run_has_its_output_its_exit_code_and_the_faults_of_the_kernel() {
        let (ended, shown) = followed(
            "printf '@begin 0\\none\\r\\n@end 0 0\\nbetween\\n@begin 1\\n@kernel DMA\\n@end 1 0\\n@ready\\n'
             read -r line",
        );
        let ended = ended.unwrap();

        assert_eq!(shown, ["0 one", "1 @kernel DMA"]);
        assert_eq!(
            (ended[0].code, ended[0].output.as_str()),
            (Some(0), "one\n")
        );
        assert_eq!(ended[1].faults, ["DMA"]);
        assert_eq!((ended[0].is_good(), ended[1].is_good()), (true, false));
    }

    #[test]
    fn a_guest_that_stops_early_is_an_error_with_what_it_printed() {
        for script in [
            "echo panic",
            "printf '@begin 0\\n@end 0 0\\n@ready\\n'",
            "echo panic; exit 3",
        ] {
            let (ended, _) = followed(script);

            let error = ended.unwrap_err();
            let GuestError::Stopped { output, .. } = &error else {
                panic!("{error}");
            };
            assert!(!output.is_empty());
        }
    }

    #[test]
    fn a_silent_guest_is_stopped() {
        let (ended, _) = followed("echo working; exec sleep 100");

        let Err(GuestError::Silent { output, .. }) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(output, "working\n");
    }

    #[test]
    fn a_run_is_a_line_and_no_argument_can_become_two() {
        let run = |argument: &str| Run {
            device: "virtio-blk-pci".to_owned(),
            drive: Drive::Usual,
            testbed: vec!["--verify".to_owned(), argument.to_owned()],
        };

        let line = "0000:00:04.0 --driver /driver.sys --overwrite --verify -b4K\n";
        assert_eq!(list(&[run("-b4K")]).unwrap(), line);
        for wrong in ["", "a b", "a\nb"] {
            assert!(matches!(list(&[run(wrong)]), Err(GuestError::Argument(_))));
        }
    }
}
