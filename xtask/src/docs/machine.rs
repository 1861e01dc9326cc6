//! Tests of the virtual machines in the documentation, without Windows and KVM. QEMU starts
//! halted with the documented command, and its virtio disk must have the documented PCI ids.
//! The XML must match libvirt's schema.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use super::{
    Use,
    page::{self, Block, Page},
};
use crate::{step::Outcome, workspace};

/// A modern virtio disk in the output of QEMU's monitor.
const MODERN: &str = "PCI device 1af4:1042";

/// A transitional virtio disk in the output of QEMU's monitor.
const TRANSITIONAL: &str = "PCI device 1af4:1001";

/// QEMU's option for a modern disk.
const ONLY_MODERN: &str = ",disable-legacy=on";

/// The result for one block.
enum Trial {
    Holds,
    Fails(String),
    /// This host does not have the named program or file.
    Lacks(String),
}

/// Tests every virtual machine of the pages.
#[must_use]
pub fn machines() -> Outcome {
    let pages = match page::all() {
        Ok(pages) => pages,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let (mut faults, mut lacks, mut tried) = (Vec::new(), Vec::new(), 0_usize);
    for page in &pages {
        for (block, trial) in trials(page) {
            let at = page.at(block.line);
            match trial {
                Ok(Trial::Holds) => {
                    println!("{at}: accepted");
                    tried = tried.saturating_add(1);
                }
                Ok(Trial::Fails(why)) => faults.push(format!("{at}: {why}")),
                Ok(Trial::Lacks(what)) => lacks.push(what),
                Err(error) => faults.push(format!("{at}: {error}")),
            }
        }
    }
    lacks.sort();
    lacks.dedup();
    if !faults.is_empty() {
        Outcome::Failed(faults.join("; "))
    } else if !lacks.is_empty() {
        Outcome::Skipped(format!(
            "{tried} accepted, the others need {}",
            lacks.join(", ")
        ))
    } else if tried == 0 {
        Outcome::Failed("no page has a code block marked `qemu` or `libvirt`".into())
    } else {
        Outcome::Passed
    }
}

fn trials(page: &Page) -> impl Iterator<Item = (&Block, io::Result<Trial>)> {
    let commands = page.used_for(Use::Qemu).map(|block| (block, qemu(block)));
    let domains = page
        .used_for(Use::Libvirt)
        .map(|block| (block, domain(&block.text)));
    let disks = page.used_for(Use::LibvirtDisk).map(|block| {
        let trial = match page.used_for(Use::Libvirt).next() {
            Some(of) => domain(
                &of.text
                    .replace("</devices>", &format!("{}</devices>", block.text)),
            ),
            None => Ok(Trial::Fails(
                "the page has no code block marked `libvirt` to add this disk to".into(),
            )),
        };
        (block, trial)
    });
    commands.chain(domains).chain(disks)
}

/// Runs the block's QEMU command. The disk must be modern, and transitional without
/// [`ONLY_MODERN`].
fn qemu(block: &Block) -> io::Result<Trial> {
    let words = || block.text.split_whitespace();
    let program = words().find(|word| word.starts_with("qemu-system-"));
    let Some(program) = program else {
        return Ok(Trial::Fails(
            "the block does not call qemu-system-...".into(),
        ));
    };
    let firmware = words()
        .flat_map(|word| word.split(['=', ',']))
        .filter(|word| word.starts_with("/usr/share/"));
    if let Some(lacking) = firmware.into_iter().find(|file| !Path::new(file).exists()) {
        return Ok(Trial::Lacks(lacking.to_owned()));
    }
    if !block.text.contains(ONLY_MODERN) {
        return Ok(Trial::Fails(format!("the command has no {ONLY_MODERN}")));
    }
    for (text, expected, other) in [
        (block.text.clone(), MODERN, TRANSITIONAL),
        (block.text.replace(ONLY_MODERN, ""), TRANSITIONAL, MODERN),
    ] {
        let buses = match pci_buses(program, &text)? {
            Ok(buses) => buses,
            Err(trial) => return Ok(trial),
        };
        if !buses.contains(expected) || buses.contains(other) {
            return Ok(Trial::Fails(format!(
                "expected {expected} and no other virtio disk on the PCI bus: {buses}"
            )));
        }
    }
    Ok(Trial::Holds)
}

/// Starts a halted machine in a folder with two ISOs, and returns the output of `info pci`.
fn pci_buses(program: &str, commands: &str) -> io::Result<Result<String, Trial>> {
    let folder = tempfile::tempdir_in(workspace::root())?;
    for iso in ["windows.iso", "ferrostor.iso"] {
        fs::write(folder.path().join(iso), [0; 2048])?;
    }
    // `-cpu host` needs KVM.
    let commands = commands
        .replace("accel=kvm", "accel=tcg")
        .replace("-cpu host", "-cpu max");
    let halted = format!("{} -S -display none -monitor stdio", commands.trim_end());
    let mut child = Command::new("sh")
        .args(["-e", "-c", &halted])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // Writing fails if QEMU did not start. Its exit status is checked below.
        let _: io::Result<()> = input.write_all(b"info pci\nquit\n");
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    // A shell's exit code for "command not found".
    if output.status.code() == Some(127) {
        return Ok(Err(Trial::Lacks(program.to_owned())));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Ok(Err(Trial::Fails(format!("{program}: {}", why.trim()))))
}

/// Validates a domain with libvirt's schema.
fn domain(xml: &str) -> io::Result<Trial> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(xml.as_bytes())?;
    let checked = Command::new("virt-xml-validate")
        .arg(file.path())
        .arg("domain")
        .output();
    match checked {
        Ok(output) if output.status.success() => Ok(Trial::Holds),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            if why.contains("xmllint: not found") {
                return Ok(Trial::Lacks("xmllint".into()));
            }
            Ok(Trial::Fails(why.trim().to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Trial::Lacks("virt-xml-validate".into()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests a block with this `text`. The comment swallows the options that halt QEMU.
    fn trial(text: &str) -> Trial {
        let block = Block {
            line: 1,
            info: "sh qemu".into(),
            text: format!("{text} # qemu-system-none"),
        };
        qemu(&block).unwrap()
    }

    #[test]
    fn a_machine_with_a_disk_of_each_kind_holds() {
        let trial = trial(
            "case 'disk,disable-legacy=on' in *=on) echo PCI device 1af4:1042;; \
             *) echo PCI device 1af4:1001;; esac",
        );

        assert!(matches!(trial, Trial::Holds));
    }

    #[test]
    fn a_machine_that_differs_from_the_text_fails() {
        for text in [
            // Always modern, whatever is asked for.
            "echo PCI device 1af4:1042 ,disable-legacy=on",
            "echo nothing ,disable-legacy=on",
            "echo PCI device 1af4:1001",
            "echo ,disable-legacy=on; exit 3",
        ] {
            assert!(matches!(trial(text), Trial::Fails(_)), "{text}");
        }
    }

    #[test]
    fn a_machine_whose_program_or_firmware_is_missing_is_not_tried() {
        for text in [
            "qemu-system-none ,disable-legacy=on",
            "echo file=/usr/share/no-such.fd,disable-legacy=on",
        ] {
            assert!(matches!(trial(text), Trial::Lacks(_)), "{text}");
        }
    }
}
