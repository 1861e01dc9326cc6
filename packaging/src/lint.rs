//! Checks the finished files of a driver package.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use clap::ValueEnum as _;
use object::{FileKind, pe::Machine, read::pe::PeFile32};
use time::Date;

use crate::{
    architecture::Architecture,
    authenticode,
    catalog::{self, FileDigests, Listed},
    check::{Check, Report, distinct},
    image::Image,
    inf::{self, Inf},
    package::File,
};

/// The settings of the checks.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The date, for driver dates in the future and expired certificates.
    pub today: Date,
    /// Whether broken house rules are failures.
    pub advice_decides: bool,
}

/// Checks every driver file, INF file and catalog in `files`. Other files, and those in
/// `beside`, are only compared with them.
#[must_use]
pub fn files(files: &[File], beside: &[File], terms: Terms) -> Vec<Report> {
    let all: Vec<&File> = files.iter().chain(beside).collect();
    let mut reports = Vec::new();
    for file in files {
        match ending(&file.path).as_str() {
            "sys" => reports.push(image(file, &all, terms)),
            "inf" => reports.extend(inf_file(file, terms)),
            "cat" => reports.push(catalog(file, &all, terms)),
            _ => {}
        }
    }
    reports
}

/// The names, in lower case, of the files that the INF files and catalogs in `files` name.
#[must_use]
pub fn mentioned(files: &[File]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        if let Some(inf) = read_inf(file) {
            let architectures = Architecture::value_variants().iter();
            names.extend(architectures.flat_map(|architecture| {
                let sources = inf.source_files(*architecture).into_iter();
                sources.map(|path| name(&path).to_lowercase())
            }));
        }
        if ending(&file.path) == "cat"
            && let Ok(listing) = catalog::read(&file.bytes)
        {
            let paths = listing.iter().flat_map(|member| &member.names);
            names.extend(paths.map(|path| name(path).to_lowercase()));
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

/// Checks a driver file. If an INF file beside it installs it, that adds checks.
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
                "a 32-bit driver (machine type {:#06x}): only x64 and ARM64 drivers are checked",
                machine.0
            );
            return terms.not_judged(file, why);
        }
        (Err(error), _) => {
            let fault = Some(error.to_string());
            let claim = "the file is a valid 64-bit PE file";
            return terms.report(
                &file.path,
                vec![Check::requirement(claim, "PE Format", fault)],
            );
        }
    };
    let architecture = match image.architecture() {
        Ok(architecture) => architecture,
        Err(machine) => {
            let why = format!(
                "a driver for machine type {machine:#06x}: only x64 and ARM64 drivers are checked"
            );
            return terms.not_judged(file, why);
        }
    };
    let mut checks = image.checks(architecture);
    let own_name = name(&file.path);
    for inf in beside(file, all).filter_map(read_inf) {
        if !inf.installs(architecture, own_name) {
            continue;
        }
        if inf.starts_at_boot(architecture, own_name) {
            checks.push(Check::requirement(
                "the driver is signed, because its INF file starts it at boot",
                "Embedded Signatures in a Driver File",
                (!image.is_signed).then(|| "it has no signature".into()),
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
    // Two INF files or two signatures can add the same check.
    let mut report = terms.report(&file.path, distinct(checks));
    report.beyond = distinct(beyond);
    report
}

/// The files of the same folder.
fn beside<'a>(file: &'a File, all: &'a [&File]) -> impl Iterator<Item = &'a File> {
    let here = folder(&file.path);
    all.iter()
        .copied()
        .filter(move |other| folder(&other.path) == here)
}

/// Parses the file, if it is a driver's INF file.
fn read_inf(file: &File) -> Option<Inf> {
    if ending(&file.path) != "inf" {
        return None;
    }
    Inf::parse(&file.bytes).ok().filter(Inf::has_version)
}

/// Checks an INF file. Returns a report of the checks with the same outcome for all
/// architectures, and one for each architecture with other outcomes.
fn inf_file(file: &File, terms: Terms) -> Vec<Report> {
    let inf = match Inf::parse(&file.bytes) {
        Ok(inf) if inf.has_version() => inf,
        Err(error) if mentions_version(&file.bytes) => {
            let check = Check::requirement(
                "the file can be parsed as an INF file",
                "General Syntax Rules for INF Files",
                Some(error.to_string()),
            );
            return vec![terms.report(&file.path, vec![check])];
        }
        _ => {
            let why = "not a driver's INF file: it has no [Version] section";
            return vec![terms.not_judged(file, why)];
        }
    };
    let architectures = inf.architectures();
    let named: Vec<_> = architectures.iter().map(|one| one.name()).collect();
    let mut lists: Vec<Vec<Check>> = architectures
        .iter()
        .map(|architecture| inf::lint(&inf, *architecture, terms.today))
        .collect();
    let Some(first) = lists.first() else {
        let why = "it is for neither x64 nor ARM64";
        return vec![terms.not_judged(file, why)];
    };
    let mut common = first.clone();
    common.retain(|check| lists.iter().all(|list| list.contains(check)));
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

/// Whether a file that cannot be parsed as an INF file has a [Version] section.
fn mentions_version(bytes: &[u8]) -> bool {
    // Without its zeros, invalid UTF-16 looks like ASCII.
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let section = b"[version";
    letters
        .windows(section.len())
        .any(|part| part.eq_ignore_ascii_case(section))
}

/// Checks a catalog's signature, and whether the catalog lists the installed files.
fn catalog(file: &File, all: &[&File], terms: Terms) -> Report {
    let judgement = catalog::judge(&file.bytes, terms.today);
    let mut report = terms.report(&file.path, judgement.checks);
    report.beyond = judgement.beyond;
    let Some(listing) = judgement.content else {
        return report;
    };
    let listing = match catalog::listed(&listing) {
        Ok(listing) => listing,
        Err(error) => {
            report.checks.push(Check::requirement(
                "the list of files can be parsed",
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
        // Windows ignores the names in the list.
        let has = |digest| listing.iter().any(|member| member.digests.contains(digest));
        match (has(&digests.sha1), has(&digests.sha256)) {
            (_, true) => {}
            (true, false) => only_sha1.push(wanted),
            (false, false) => absent.push(wanted),
        }
    }
    let unknown: Vec<String> = listing
        .iter()
        .filter(|member| {
            !digests.iter().any(|(other, digests)| {
                is_listed(member, &other.path)
                    || member.digests.contains(&digests.sha1)
                    || member.digests.contains(&digests.sha256)
            })
        })
        .map(|member| match &member.names[..] {
            [] => "a file without a name".into(),
            names => names.join(" = "),
        })
        .collect();
    report.checks.extend([
        Check::requirement(
            "the INF file and each file that it installs are listed with their digests",
            LISTED,
            joined(&absent),
        ),
        Check::advice(
            "the files are listed with SHA-256 digests",
            "SHA-1 is broken, and only Windows 7 and older need it",
            joined(&only_sha1),
        ),
        Check::advice(
            "the catalog lists no other file",
            "a catalog that lists missing files was made for another package",
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

/// The files that a catalog should list: the INF files that name it, and the files that these
/// install. If no INF file names it: every .sys and .inf beside it. Also every file beside it
/// whose name it lists: with another digest, the catalog is outdated.
fn expected<'a>(catalog: &File, listing: &[Listed], all: &[&'a File]) -> Vec<&'a File> {
    let here = folder(&catalog.path);
    let own_name = name(&catalog.path);
    let mut wanted = Vec::new();
    let mut is_named = false;
    for file in all.iter().filter(|file| folder(&file.path) == here) {
        let Some(inf) = read_inf(file) else {
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
            || beside && listing.iter().any(|member| is_listed(member, &file.path))
            || beside && !is_named && (kind == "sys" || kind == "inf")
    };
    all.iter().filter(of).copied().collect()
}

/// Whether a catalog's member has the file's name.
fn is_listed(member: &Listed, path: &str) -> bool {
    let mut names = member.names.iter();
    names.any(|listed| name(listed).eq_ignore_ascii_case(name(path)))
}

/// The prefix of paths in a folder.
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

/// The last part of a path, with / or \ as separators.
fn name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn ending(path: &str) -> String {
    path.rsplit_once('.')
        .map_or("", |(_, ending)| ending)
        .to_ascii_lowercase()
}
