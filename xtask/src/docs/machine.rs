//! Tests of the virtual machines in the documentation, without Windows and KVM. QEMU starts
//! halted with the documented command, and its virtio disk must have the documented PCI ids.
//! The XML must match libvirt's schema.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use super::page::{self, Block, Page};
use crate::{step::Outcome, workspace};

/// A modern virtio disk in the output of QEMU's monitor.
const MODERN: &str = "PCI device 1af4:1042";

/// A transitional virtio disk in the output of QEMU's monitor.
const TRANSITIONAL: &str = "PCI device 1af4:1001";

/// QEMU's option for a modern disk.
const ONLY_MODERN: &str = ",disable-legacy=on";

/// Why a block was not accepted.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Fails(String),
    /// This host does not have the named program or file.
    Lacks(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Fails(error.to_string())
    }
}

fn fails<T>(why: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Fails(why.into()))
}

/// Tests every virtual machine of the pages.
#[must_use]
pub fn machines() -> Outcome {
    let pages = match page::all() {
        Ok(pages) => pages,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let (mut faults, mut lacks, mut tried) = (Vec::new(), BTreeSet::new(), 0_usize);
    for page in &pages {
        for block in &page.blocks {
            let accepted = match block.word() {
                "qemu" => qemu(&block.text),
                "libvirt" => domain(&block.text),
                "libvirt-disk" => disk(page, block),
                _ => continue,
            };
            let at = page.at(block.line);
            match accepted {
                Ok(()) => {
                    println!("{at}: accepted");
                    tried += 1;
                }
                Err(Trouble::Fails(why)) => faults.push(format!("{at}: {why}")),
                Err(Trouble::Lacks(what)) => drop(lacks.insert(what)),
            }
        }
    }
    if !faults.is_empty() {
        Outcome::Failed(faults.join("; "))
    } else if !lacks.is_empty() {
        let lacks: Vec<_> = lacks.into_iter().collect();
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

/// Runs the block's QEMU command. The disk must be modern, and transitional without
/// [`ONLY_MODERN`].
fn qemu(block: &str) -> Result<(), Trouble> {
    let words = || block.split_whitespace();
    let Some(program) = words().find(|word| word.starts_with("qemu-system-")) else {
        return fails("the block does not call qemu-system-...");
    };
    let mut firmware = words()
        .flat_map(|word| word.split(['=', ',']))
        .filter(|word| word.starts_with("/usr/share/"));
    if let Some(lacking) = firmware.find(|file| !Path::new(file).exists()) {
        return Err(Trouble::Lacks(lacking.to_owned()));
    }
    if !block.contains(ONLY_MODERN) {
        return fails(format!("the command has no {ONLY_MODERN}"));
    }
    for (text, expected, other) in [
        (block.to_owned(), MODERN, TRANSITIONAL),
        (block.replace(ONLY_MODERN, ""), TRANSITIONAL, MODERN),
    ] {
        let buses = pci_buses(program, &text)?;
        if !buses.contains(expected) || buses.contains(other) {
            return fails(format!(
                "expected {expected} and no other virtio disk on the PCI bus: {buses}"
            ));
        }
    }
    Ok(())
}

/// Starts a halted machine in a folder with two ISOs, and returns the output of `info pci`.
fn pci_buses(program: &str, commands: &str) -> Result<String, Trouble> {
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
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        // A shell's exit code for "command not found".
        Some(127) => Err(Trouble::Lacks(program.to_owned())),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            fails(format!("{program}: {}", why.trim()))
        }
    }
}

/// Validates the page's first domain with this disk in it.
fn disk(page: &Page, disk: &Block) -> Result<(), Trouble> {
    match page.blocks.iter().find(|block| block.word() == "libvirt") {
        Some(of) => domain(
            &of.text
                .replace("</devices>", &format!("{}</devices>", disk.text)),
        ),
        None => fails("the page has no code block marked `libvirt` to add this disk to"),
    }
}

/// Validates a domain with libvirt's schema.
fn domain(xml: &str) -> Result<(), Trouble> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(xml.as_bytes())?;
    let mut validate = Command::new("virt-xml-validate");
    let output = match validate.arg(file.path()).arg("domain").output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Trouble::Lacks("virt-xml-validate".into()));
        }
        output => output?,
    };
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if why.contains("xmllint: not found") {
        Err(Trouble::Lacks("xmllint".into()))
    } else {
        fails(why.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_must_be_of_the_documented_kind_if_qemu_and_firmware_are_there() {
        let lacks = |what: &str| Some(Trouble::Lacks(what.into()));
        for (command, trouble) in [
            (
                "case 'disk,disable-legacy=on' in *=on) echo PCI device 1af4:1042;; \
                 *) echo PCI device 1af4:1001;; esac",
                None,
            ),
            (
                "qemu-system-none ,disable-legacy=on",
                lacks("qemu-system-none"),
            ),
            (
                "echo file=/usr/share/no-such.fd,disable-legacy=on",
                lacks("/usr/share/no-such.fd"),
            ),
        ] {
            // The comment swallows the options that halt QEMU.
            let found = qemu(&format!("{command} # qemu-system-none"));
            assert_eq!(found.err(), trouble, "{command}");
        }
        for command in [
            // Always modern, whatever is asked for.
            "echo PCI device 1af4:1042 ,disable-legacy=on",
            "echo nothing ,disable-legacy=on",
            "echo PCI device 1af4:1001",
            "echo ,disable-legacy=on; exit 3",
        ] {
            let found = qemu(&format!("{command} # qemu-system-none"));
            assert!(matches!(found, Err(Trouble::Fails(_))), "{command}");
        }
    }
}
