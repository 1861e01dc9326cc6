//! The virtual machines of the documentation, tried without Windows and without
//! KVM: QEMU starts with the command, halted, and has a virtio disk with the ids
//! that the text says; libvirt's schema holds for the XML.

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

/// What a modern virtio disk is on the PCI bus, as QEMU's monitor writes it.
const MODERN: &str = "PCI device 1af4:1042";

/// The same of a transitional one.
const TRANSITIONAL: &str = "PCI device 1af4:1001";

/// What makes a disk in the commands a modern one.
const ONLY_MODERN: &str = ",disable-legacy=on";

/// What the trial of one block says.
enum Trial {
    Holds,
    Fails(String),
    /// The machine lacks this.
    Lacks(String),
}

/// Tries every virtual machine of the pages.
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
                    println!("{at}: holds");
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
            "{tried} tried, the others lack {}",
            lacks.join(", ")
        ))
    } else if tried == 0 {
        Outcome::Failed("the pages have no virtual machine".into())
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
                "no domain on this page to put the disk in".into(),
            )),
        };
        (block, trial)
    });
    commands.chain(domains).chain(disks)
}

/// Starts QEMU by the block's commands: the disk is a modern one, and a
/// transitional one without the option that says so.
fn qemu(block: &Block) -> io::Result<Trial> {
    let words = || block.text.split_whitespace();
    let program = words().find(|word| word.starts_with("qemu-system-"));
    let Some(program) = program else {
        return Ok(Trial::Fails("no call of QEMU".into()));
    };
    let firmware = words()
        .flat_map(|word| word.split(['=', ',']))
        .filter(|word| word.starts_with("/usr/share/"));
    if let Some(lacking) = firmware.into_iter().find(|file| !Path::new(file).exists()) {
        return Ok(Trial::Lacks(lacking.to_owned()));
    }
    if !block.text.contains(ONLY_MODERN) {
        return Ok(Trial::Fails(format!("{ONLY_MODERN} is not in the command")));
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
                "no {expected} on the PCI bus: {buses}"
            )));
        }
    }
    Ok(Trial::Holds)
}

/// What QEMU's monitor says of the PCI bus of a halted machine by these
/// commands, in an empty folder with two ISOs.
fn pci_buses(program: &str, commands: &str) -> io::Result<Result<String, Trial>> {
    let folder = tempfile::tempdir_in(workspace::root())?;
    for iso in ["windows.iso", "ferrostor.iso"] {
        fs::write(folder.path().join(iso), [0; 2048])?;
    }
    // Without KVM there is no processor of the host's to have.
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
        // A QEMU that did not start does not read: its status tells.
        let _: io::Result<()> = input.write_all(b"info pci\nquit\n");
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    // What a shell says of a program that is not there.
    if output.status.code() == Some(127) {
        return Ok(Err(Trial::Lacks(program.to_owned())));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Ok(Err(Trial::Fails(format!("{program}: {}", why.trim()))))
}

/// Holds a domain against libvirt's schema.
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

    /// The trial of a block that is `text`, in which the options that halt QEMU
    /// are a comment.
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
    fn a_machine_that_is_not_as_the_text_says_fails() {
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
    fn a_machine_whose_program_or_firmware_is_not_there_is_not_tried() {
        for text in [
            "qemu-system-none ,disable-legacy=on",
            "echo file=/usr/share/no-such.fd,disable-legacy=on",
        ] {
            assert!(matches!(trial(text), Trial::Lacks(_)), "{text}");
        }
    }
}
