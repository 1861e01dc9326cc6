//! What is checked on the finished files of a package, and what was found.

use std::fmt;

use clap::ValueEnum as _;
use time::Date;

use crate::{
    architecture::Architecture,
    authenticode::AuthenticodeError,
    catalog::{CatalogError, Listing},
    image::{Fact, Image},
    inf::{self, Inf, InfError},
    package::File,
};

/// What was found of one file.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file's path, as it was given.
    pub path: String,
    findings: Findings,
}

#[derive(Clone, Debug)]
enum Findings {
    Facts(Vec<Fact>),
    Inf(Vec<inf::Report>),
}

/// Why a file can't be judged.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It is no sound driver file.
    #[error("{path}: not a sound 64-bit PE file: {source}")]
    Image {
        /// The file.
        path: String,
        /// What is wrong.
        source: object::Error,
    },
    /// It is for a processor that no package is for.
    #[error(
        "{path}: a driver for a processor of the machine number {machine:#06x}, not x64 or arm64"
    )]
    Processor {
        /// The file.
        path: String,
        /// The number in its header.
        machine: u16,
    },
    /// It is no setup file.
    #[error("{path}: {source}")]
    Inf {
        /// The file.
        path: String,
        /// What is wrong.
        source: InfError,
    },
    /// It is no catalog.
    #[error("{path}: {source}")]
    Catalog {
        /// The file.
        path: String,
        /// What is wrong.
        source: CatalogError,
    },
    /// A file that a catalog should list has no hash.
    #[error("{path}: {source}")]
    Hash {
        /// The file.
        path: String,
        /// What is wrong.
        source: AuthenticodeError,
    },
}

/// Judges every driver file, setup file and catalog among `files`; the others are
/// not looked at. `today` tells dates that are still to come.
///
/// # Errors
/// A file is not what its ending says.
pub fn files(files: &[File], today: Date) -> Result<Vec<Report>, LintError> {
    let mut reports = Vec::new();
    for file in files {
        let findings = match ending(&file.path).as_str() {
            "sys" => Findings::Facts(image(file, files)?),
            "inf" => Findings::Inf(setup_file(file, today)?),
            "cat" => Findings::Facts(catalog(file, files)?),
            _ => continue,
        };
        reports.push(Report {
            path: file.path.clone(),
            findings,
        });
    }
    Ok(reports)
}

/// Beside a setup file it is also judged as what that installs.
fn image(file: &File, files: &[File]) -> Result<Vec<Fact>, LintError> {
    let path = || file.path.clone();
    let image = Image::parse(&file.bytes).map_err(|source| LintError::Image {
        path: path(),
        source,
    })?;
    let architecture = image
        .architecture()
        .map_err(|machine| LintError::Processor {
            path: path(),
            machine,
        })?;
    let mut facts = image.facts(architecture);
    for setup in beside(file, files).filter(|other| ending(&other.path) == "inf") {
        facts.push(Fact {
            claim: "it is signed, as what is installed has to be",
            fault: (!image.is_signed()).then(|| "there is no signature".into()),
        });
        if let Some(version) = read_setup_file(setup)?.driver_version() {
            facts.push(image.fact_of_version(version));
        }
    }
    Ok(facts)
}

/// The files of the same folder.
fn beside<'a>(file: &'a File, files: &'a [File]) -> impl Iterator<Item = &'a File> {
    let here = folder(&file.path);
    files
        .iter()
        .filter(move |other| folder(&other.path) == here)
}

fn read_setup_file(file: &File) -> Result<Inf, LintError> {
    Inf::parse(&file.bytes).map_err(|source| LintError::Inf {
        path: file.path.clone(),
        source,
    })
}

/// A report for each processor that the file has devices for; one that has none
/// is judged as one for x64, and hears that.
fn setup_file(file: &File, today: Date) -> Result<Vec<inf::Report>, LintError> {
    let inf = read_setup_file(file)?;
    let mut architectures = Architecture::value_variants().to_vec();
    architectures.retain(|architecture| !inf.hardware_ids(*architecture).is_empty());
    if architectures.is_empty() {
        architectures.push(Architecture::X64);
    }
    Ok(architectures
        .into_iter()
        .map(|architecture| inf::lint(&inf, architecture, today))
        .collect())
}

/// The hashes are looked at, not the signature: that is for an implementation
/// that is not this one.
fn catalog(file: &File, files: &[File]) -> Result<Vec<Fact>, LintError> {
    let listing = Listing::read(&file.bytes).map_err(|source| LintError::Catalog {
        path: file.path.clone(),
        source,
    })?;
    let mut there = Vec::new();
    let mut changed = Vec::new();
    for other in beside(file, files) {
        let name = name(&other.path);
        let listed = match ending(name).as_str() {
            "sys" => listing
                .lists_image(name, &other.bytes)
                .map_err(|source| LintError::Hash {
                    path: other.path.clone(),
                    source,
                })?,
            "inf" => listing.lists_file(name, &other.bytes),
            _ => continue,
        };
        there.push(name);
        if !listed {
            changed.push(name);
        }
    }
    let is_absent = |listed: &&str| !there.iter().any(|name| name.eq_ignore_ascii_case(listed));
    let absent: Vec<_> = listing.names().into_iter().filter(is_absent).collect();
    let fault = |names: Vec<&str>| (!names.is_empty()).then(|| names.join(", "));
    Ok(vec![
        Fact {
            claim: "every .sys and .inf beside it is listed with its hash",
            fault: fault(changed),
        },
        Fact {
            claim: "no other file is listed",
            fault: fault(absent),
        },
    ])
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn ending(path: &str) -> String {
    path.rsplit_once('.')
        .map_or("", |(_, ending)| ending)
        .to_ascii_lowercase()
}

impl Report {
    /// Whether nothing is wrong with the file.
    #[must_use]
    pub fn holds(&self) -> bool {
        match &self.findings {
            Findings::Facts(facts) => facts.iter().all(|fact| fact.fault.is_none()),
            Findings::Inf(reports) => reports.iter().all(inf::Report::holds),
        }
    }

    /// How many things were checked.
    #[must_use]
    pub fn claims(&self) -> usize {
        match &self.findings {
            Findings::Facts(facts) => facts.len(),
            Findings::Inf(reports) => reports.iter().map(|report| report.verdicts().len()).sum(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.path)?;
        match &self.findings {
            Findings::Facts(facts) => facts.iter().try_for_each(|fact| writeln!(f, "{fact}")),
            Findings::Inf(reports) => reports.iter().try_for_each(|report| write!(f, "{report}")),
        }
    }
}
