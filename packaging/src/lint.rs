//! Judges the finished files of a driver package.

use std::collections::BTreeSet;

use clap::ValueEnum as _;
use object::{FileKind, pe::Machine, read::pe::PeFile32};
use time::Date;

use crate::{
    architecture::Architecture,
    authenticode,
    catalog::{self, FileDigests, Listing},
    check::{Check, Report},
    image::Image,
    inf::{self, Inf},
    package::File,
};

/// How files are judged.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Tells dates that are still to come, and certificates that have expired.
    pub today: Date,
    /// Whether this project's advice decides, as Windows' demands do.
    pub advice_decides: bool,
}

/// Judges every driver file, setup file and catalog among `files`. The other files,
/// and those of `beside`, are only compared with them.
#[must_use]
pub fn files(files: &[File], beside: &[File], terms: Terms) -> Vec<Report> {
    let all: Vec<&File> = files.iter().chain(beside).collect();
    let mut reports = Vec::new();
    for file in files {
        match ending(&file.path).as_str() {
            "sys" => reports.push(image(file, &all, terms)),
            "inf" => reports.extend(setup_file(file, terms)),
            "cat" => reports.push(catalog(file, &all, terms)),
            _ => {}
        }
    }
    reports
}

/// The names, in small letters, of the files that setup files and catalogs among
/// `files` mention: what these can be compared with.
#[must_use]
pub fn mentioned(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        if let Some(inf) = read_setup_file(file) {
            let architectures = Architecture::value_variants().iter();
            names.extend(architectures.flat_map(|architecture| {
                let sources = inf.source_files(*architecture).into_iter();
                sources.map(|path| name(&path).to_lowercase())
            }));
        }
        if ending(&file.path) == "cat"
            && let Ok(listing) = Listing::read(&file.bytes)
        {
            names.extend(listing.names().iter().map(|path| name(path).to_lowercase()));
        }
    }
    names
}

impl Terms {
    fn report(self, subject: impl Into<String>, checks: Vec<Check>) -> Report {
        Report {
            subject: subject.into(),
            checks,
            beyond: Vec::new(),
            not_judged: None,
            advice_decides: self.advice_decides,
        }
    }

    fn not_judged(self, file: &File, why: impl Into<String>) -> Report {
        Report {
            not_judged: Some(why.into()),
            ..self.report(&file.path, Vec::new())
        }
    }
}

/// Beside a setup file it is also judged as what that installs.
fn image(file: &File, all: &[&File], terms: Terms) -> Report {
    let image = match (Image::parse(&file.bytes), FileKind::parse(&*file.bytes)) {
        (Ok(image), _) => image,
        (Err(_), Ok(FileKind::Pe32)) => {
            let machine = PeFile32::parse(&*file.bytes).map_or(Machine(0), |file| {
                file.nt_headers()
                    .file_header
                    .machine
                    .get(object::LittleEndian)
            });
            let why = format!(
                "a driver for a processor of 32 bits (machine {:#06x}); x64 and ARM64 are known here",
                machine.0
            );
            return terms.not_judged(file, why);
        }
        (Err(error), _) => {
            let fault = Some(error.to_string());
            let claim = "it is a sound 64-bit PE file";
            return terms.report(&file.path, vec![Check::demand(claim, "PE Format", fault)]);
        }
    };
    let architecture = match image.architecture() {
        Ok(architecture) => architecture,
        Err(machine) => {
            let why = format!(
                "a driver for the machine number {machine:#06x}; x64 and ARM64 are known here"
            );
            return terms.not_judged(file, why);
        }
    };
    let mut checks = image.checks(architecture);
    let own_name = name(&file.path);
    for inf in beside(file, all).filter_map(read_setup_file) {
        if !inf.installs(architecture, own_name) {
            continue;
        }
        if inf.starts_at_boot(architecture, own_name) {
            checks.push(Check::demand(
                "it is signed, as its setup file has it started at boot",
                "Embedded Signatures in a Driver File",
                (!image.is_signed()).then(|| "there is no signature".into()),
            ));
        }
        if let Some(version) = inf.driver_version() {
            checks.push(image.check_of_version(version));
        }
    }
    let mut beyond = Vec::new();
    for judgement in authenticode::judge(&file.bytes, terms.today) {
        checks.extend(judgement.checks);
        beyond.extend(judgement.beyond);
    }
    // Two setup files, or two signatures, may ask for the same.
    let mut report = terms.report(&file.path, distinct(checks));
    report.beyond = distinct(beyond);
    report
}

/// The items without repetitions.
fn distinct<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// The files of the same folder.
fn beside<'a>(file: &'a File, all: &'a [&File]) -> impl Iterator<Item = &'a File> {
    let here = folder(&file.path);
    all.iter()
        .copied()
        .filter(move |other| folder(&other.path) == here)
}

/// The file as a setup file, if it is one of a driver.
fn read_setup_file(file: &File) -> Option<Inf> {
    if ending(&file.path) != "inf" {
        return None;
    }
    Inf::parse(&file.bytes).ok().filter(Inf::has_version)
}

/// One report of what is the same for all processors, and one for each processor
/// that something differs for.
fn setup_file(file: &File, terms: Terms) -> Vec<Report> {
    let inf = match Inf::parse(&file.bytes) {
        Ok(inf) => inf,
        Err(_) if !mentions_version(&file.bytes) => {
            return vec![terms.not_judged(file, NO_DRIVERS)];
        }
        Err(error) => {
            let check = Check::demand(
                "it can be read as a setup file",
                "General Syntax Rules for INF Files",
                Some(error.to_string()),
            );
            return vec![terms.report(&file.path, vec![check])];
        }
    };
    if !inf.has_version() {
        return vec![terms.not_judged(file, NO_DRIVERS)];
    }
    let architectures = inf.architectures();
    let named: Vec<_> = architectures.iter().map(|one| one.name()).collect();
    let mut lists: Vec<Vec<Check>> = architectures
        .iter()
        .map(|architecture| inf::lint(&inf, *architecture, terms.today))
        .collect();
    let Some(first) = lists.first() else {
        let why = "it is for other processors than x64 and ARM64";
        return vec![terms.not_judged(file, why)];
    };
    let is_common = |check: &Check| lists.iter().all(|list| list.contains(check));
    let common: Vec<Check> = first
        .iter()
        .filter(|check| is_common(check))
        .cloned()
        .collect();
    for list in &mut lists {
        list.retain(|check| !common.contains(check));
    }
    let subject = |processors: &str| format!("{} ({processors})", file.path);
    let mut reports = vec![terms.report(subject(&named.join(", ")), common)];
    for (own, checks) in named.iter().zip(lists) {
        if !checks.is_empty() {
            reports.push(terms.report(subject(own), checks));
        }
    }
    reports
}

const NO_DRIVERS: &str = "not a driver's setup file: it has no [Version] section";

/// Whether a file that can't be read as a setup file has the section of one.
fn mentions_version(bytes: &[u8]) -> bool {
    // UTF-16 that can't be decoded is taken for ASCII with zeros between.
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let section = b"[version";
    letters
        .windows(section.len())
        .any(|part| part.eq_ignore_ascii_case(section))
}

/// Its signature, and whether it lists what is installed with it.
fn catalog(file: &File, all: &[&File], terms: Terms) -> Report {
    let judgement = catalog::judge(&file.bytes, terms.today);
    let mut report = terms.report(&file.path, judgement.checks);
    report.beyond = judgement.beyond;
    let Some(listing) = judgement.content else {
        return report;
    };
    let listing = match Listing::of(&listing) {
        Ok(listing) => listing,
        Err(error) => {
            report.checks.push(Check::demand(
                "its list can be read",
                LISTED,
                Some(error.to_string()),
            ));
            return report;
        }
    };

    let digests: Vec<(&File, FileDigests)> = all
        .iter()
        .filter(|other| other.path.starts_with(&prefix(folder(&file.path))))
        .map(|other| (*other, FileDigests::of(&other.bytes)))
        .collect();
    let mut absent = Vec::new();
    let mut only_sha1 = Vec::new();
    for wanted in expected(file, &listing, all) {
        let found = digests.iter().find(|(other, _)| other.path == wanted.path);
        let Some((_, digests)) = found else { continue };
        let wanted = name(&wanted.path);
        if !listing.has_sha1(digests) && !listing.has_sha256(digests) {
            absent.push(wanted);
        } else if !listing.has_sha256(digests) {
            only_sha1.push(wanted);
        }
    }
    let unknown: Vec<String> = listing
        .members()
        .filter(|member| {
            !digests.iter().any(|(other, digests)| {
                let same = |path: &str| name(path).eq_ignore_ascii_case(name(&other.path));
                member.names.iter().any(|path| same(path)) || member.is(digests)
            })
        })
        .map(|member| match &member.names[..] {
            [] => "one without a name".into(),
            names => names.join(" = "),
        })
        .collect();
    report.checks.extend([
        Check::demand(
            "the setup file and each file that it installs are listed with their digests",
            LISTED,
            joined(&absent),
        ),
        Check::advice(
            "they are listed by SHA-256",
            "SHA-1 is broken, and lists by it alone are of Windows 7's time",
            joined(&only_sha1),
        ),
        Check::advice(
            "no other file is listed",
            "a catalog without the files that it lists was made for another package",
            joined(&distinct(unknown)),
        ),
    ]);
    report
}

const LISTED: &str = "Catalog Files and Digital Signatures";

fn joined(names: &[impl AsRef<str>]) -> Option<String> {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// The files that a catalog should list: the setup files that name it and what these
/// install. If none names it: every .sys and .inf beside it. And every file beside
/// it whose name it has: with another digest, the catalog is an old one.
fn expected<'a>(catalog: &File, listing: &Listing, all: &[&'a File]) -> Vec<&'a File> {
    let here = folder(&catalog.path);
    let own_name = name(&catalog.path);
    let is_listed = |path: &str| {
        let mut names = listing.names().into_iter();
        names.any(|listed| name(listed).eq_ignore_ascii_case(name(path)))
    };
    let mut wanted = Vec::new();
    let mut is_named = false;
    for file in all.iter().filter(|file| folder(&file.path) == here) {
        let Some(inf) = read_setup_file(file) else {
            continue;
        };
        for architecture in inf.architectures() {
            let catalog = inf.catalog_file(architecture);
            if catalog.is_some_and(|catalog| catalog.eq_ignore_ascii_case(own_name)) {
                is_named = true;
                wanted.push(file.path.to_lowercase());
                wanted.extend(inf.source_files(architecture).into_iter().map(|path| {
                    let path = path.replace('\\', "/").to_lowercase();
                    format!("{}{path}", prefix(&here.to_lowercase()))
                }));
            }
        }
    }
    let of = |file: &&&File| {
        let beside = folder(&file.path) == here;
        let kind = ending(&file.path);
        wanted.contains(&file.path.to_lowercase())
            || beside && is_listed(&file.path)
            || beside && !is_named && (kind == "sys" || kind == "inf")
    };
    all.iter().filter(of).copied().collect()
}

/// A folder as paths in it begin.
fn prefix(folder: &str) -> String {
    if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The last part of a path of any system.
fn name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn ending(path: &str) -> String {
    path.rsplit_once('.')
        .map_or("", |(_, ending)| ending)
        .to_ascii_lowercase()
}
