//! Interprets an INF file: finds the sections that are reachable from `[Manufacturer]`, with
//! their purposes, and expands strings.

use std::collections::HashMap;

use clap::ValueEnum as _;

use super::{Entry, Inf, Section, Version};
use crate::architecture::Architecture;

/// An interpreted INF file.
pub(super) struct Installation<'a> {
    pub inf: &'a Inf,
    pub architecture: Architecture,
    /// Strings by name, in lower case.
    strings: HashMap<String, String>,
    /// Each reference from a directive to a section.
    pub references: Vec<Reference>,
    pub models: Vec<Models<'a>>,
    /// Each reachable section, once for each purpose.
    pub reached: Vec<(Place, &'a Section)>,
    pub services: Vec<Service<'a>>,
    pub values: Vec<RegistryValue<'a>>,
    pub copies: Vec<Copied>,
}

/// The purpose of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `[Disks.NTamd64...]`, a list of devices.
    Models,
    /// `[Install.NT]`
    Install,
    /// `[Install.NT.HW]`
    Hardware,
    /// `[Install.NT.Services]`
    Services,
    /// `[DefaultUninstall.NTamd64]`
    Uninstall,
    /// `[DefaultUninstall.NTamd64.Services]`
    UninstallServices,
    /// The install section of `AddService`.
    Service,
    /// The event log section of `AddService`.
    Events,
    /// A section that `CopyFiles` names.
    Files,
    /// A section that `AddReg` names.
    Registry,
    /// A section of a directive that is obsolete.
    Legacy,
    /// Any other section, which is not checked.
    Other,
}

/// A reference from a directive to a section.
pub(super) struct Reference {
    pub place: Place,
    pub directive: String,
    pub section: String,
    pub line: usize,
}

/// A models section, as `[Manufacturer]` names it.
pub(super) struct Models<'a> {
    /// The decoration, such as `NTamd64.10.0...17134`, or empty.
    pub decoration: String,
    pub line: usize,
    sections: Vec<&'a Section>,
}

/// An `AddService` directive.
pub(super) struct Service<'a> {
    pub line: usize,
    pub name: String,
    /// The flags as written, or empty.
    pub flags: String,
    /// The name of the service-install section.
    pub section: String,
    pub installs: Vec<&'a Section>,
    pub event_section: String,
    pub event_log: String,
}

/// A line of an `AddReg` section.
pub(super) struct RegistryValue<'a> {
    /// The purpose of the owner, which determines the key that `HKR` means.
    pub place: Place,
    /// The section whose `AddReg` names the section of this line.
    pub owner: &'a str,
    pub line: usize,
    pub root: String,
    pub subkey: String,
    pub name: String,
    /// The flags as written, or empty.
    pub flags: String,
    pub data: &'a [String],
}

/// A file that is copied.
pub(super) struct Copied {
    pub line: usize,
    /// The section that lists it; `None` for `CopyFiles = @file`.
    pub list: Option<String>,
    pub source: String,
    pub destination: String,
    pub flags: String,
}

/// A destination of files: a line of `[DestinationDirs]`.
pub(super) struct Directory {
    /// The directory number as written.
    pub number: String,
    pub subdirectory: String,
}

/// The decorations of an install section, in the order in which Windows looks for them.
const DECORATIONS: [&str; 7] = [
    ".NTamd64", ".NTarm64", ".NTx86", ".NTarm", ".NTia64", ".NT", "",
];

/// The sections that belong to an install section, by suffix.
const COMPANIONS: [(&str, Place); 16] = [
    (".HW", Place::Hardware),
    (".Services", Place::Services),
    (".CoInstallers", Place::Other),
    (".COM", Place::Other),
    (".Components", Place::Other),
    (".Events", Place::Other),
    (".FactDef", Place::Other),
    (".Filters", Place::Other),
    (".Interfaces", Place::Other),
    (".LogConfigOverride", Place::Other),
    (".NetworkInterfaces", Place::Other),
    (".NetDrivers", Place::Other),
    (".PosDup", Place::Other),
    (".Software", Place::Other),
    (".Wdf", Place::Other),
    (".WMI", Place::Other),
];

/// Directives that name sections: the index of the value that does (`None`: all values), and
/// the purpose.
const DIRECTIVES: [(&str, Option<usize>, Place); 31] = [
    ("AddComClass", Some(2), Place::Other),
    ("AddComServer", Some(2), Place::Other),
    ("AddComponent", Some(2), Place::Other),
    ("AddAutoLogger", Some(2), Place::Other),
    ("AddAutoLoggerProvider", Some(1), Place::Other),
    ("AddChannel", Some(2), Place::Other),
    ("AddEventProvider", Some(1), Place::Other),
    ("AddFilter", Some(2), Place::Other),
    ("AddInterface", Some(2), Place::Other),
    ("AddPowerSetting", None, Place::Other),
    ("AddProperty", None, Place::Other),
    ("AddReg", None, Place::Registry),
    ("AddSoftware", Some(2), Place::Other),
    ("AddTrigger", None, Place::Other),
    ("BitReg", None, Place::Legacy),
    ("CopyFiles", None, Place::Files),
    ("DelFiles", None, Place::Legacy),
    ("DelProperty", None, Place::Legacy),
    ("DelReg", None, Place::Legacy),
    ("FailureActions", None, Place::Other),
    ("Ini2Reg", None, Place::Legacy),
    ("KmdfService", Some(1), Place::Other),
    ("LogConfig", None, Place::Legacy),
    ("ProfileItems", None, Place::Legacy),
    ("RegisterDlls", None, Place::Legacy),
    ("RenFiles", None, Place::Legacy),
    ("UmdfService", Some(1), Place::Other),
    ("UnregisterDlls", None, Place::Legacy),
    ("UpdateIniFields", None, Place::Legacy),
    ("UpdateInis", None, Place::Legacy),
    ("WMIInterface", Some(2), Place::Other),
];

/// Whether Windows starts at this section: its name is `root`, with or without a decoration,
/// and it does not belong to an install section.
pub(super) fn is_root(section: &Section, root: &str) -> bool {
    let name = section.name.to_ascii_lowercase();
    let Some(decoration) = name.strip_prefix(&root.to_ascii_lowercase()) else {
        return false;
    };
    let is_companion = |(suffix, _): &(&str, Place)| name.ends_with(&suffix.to_ascii_lowercase());
    decoration.is_empty() || decoration.starts_with(".nt") && !COMPANIONS.iter().any(is_companion)
}

impl<'a> Service<'a> {
    /// The entries of that name in the service's install sections.
    pub(super) fn entries(&self, name: &str) -> impl Iterator<Item = &'a Entry> {
        let sections = self.installs.iter();
        sections
            .flat_map(|section| &section.entries)
            .filter(move |entry| entry.key.is_some() && entry.is(name))
    }

    /// Whether the service is the one that drives a device.
    pub(super) fn drives_device(&self) -> bool {
        number(&self.flags).is_some_and(|flags| flags & 2 != 0)
    }
}

impl RegistryValue<'_> {
    /// Whether the key is relative to that of the device, service or event source.
    pub(super) fn is_relative(&self) -> bool {
        self.root.eq_ignore_ascii_case("HKR")
    }

    /// The first part of the subkey.
    pub(super) fn first_subkey(&self) -> &str {
        self.subkey.split('\\').next().unwrap_or_default()
    }

    /// Key and name, without empty parts.
    pub(super) fn path(&self) -> String {
        joined(&[&self.root, &self.subkey, &self.name])
    }

    /// The first field of the data, or empty.
    pub(super) fn first(&self) -> &str {
        self.data.first().map_or("", |field| field)
    }
}

impl Entry {
    /// Whether this is the directive `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        self.word().eq_ignore_ascii_case(name)
    }

    /// The directive, or the first value.
    pub(super) fn word(&self) -> &str {
        self.fields().next().unwrap_or_default()
    }

    /// The key, if there is one, and the values.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        let fields = self.key.iter().chain(&self.values);
        fields.map(String::as_str)
    }
}

impl Inf {
    /// The driver version in DriverVer, if it can be parsed.
    #[must_use]
    pub fn driver_version(&self) -> Option<Version> {
        let installation = Installation::of(self, Architecture::X64);
        let entry = installation.version("DriverVer")?;
        installation.value(entry, 1).parse().ok()
    }

    /// Whether there is a `[Version]` section. Windows requires one.
    #[must_use]
    pub fn has_version(&self) -> bool {
        let mut sections = self.sections.iter();
        sections.any(|section| section.name.eq_ignore_ascii_case("Version"))
    }

    /// The processors that the file supports, by the decorations of its models and of
    /// `[DefaultInstall]`; x64 if there are no decorations.
    #[must_use]
    pub fn architectures(&self) -> Vec<Architecture> {
        let installation = Installation::of(self, Architecture::X64);
        let mut named = Vec::new();
        for section in &self.sections {
            if is_root(section, "DefaultInstall") {
                named.push(section.name.split('.').nth(1).unwrap_or_default());
            }
        }
        let models = installation.models.iter();
        named.extend(models.filter_map(|models| models.decoration.split('.').next()));
        let named: Vec<String> = named.into_iter().map(str::to_ascii_lowercase).collect();
        let is_named = |one: &Architecture| named.contains(&format!("nt{}", one.decoration()));
        let all = Architecture::value_variants().iter().copied();
        let found: Vec<_> = all.filter(is_named).collect();
        let others = ["ntx86", "ntia64", "ntarm"];
        let is_other = |name: &String| others.contains(&&**name);
        if found.is_empty() && (named.is_empty() || !named.iter().all(is_other)) {
            return vec![Architecture::X64];
        }
        found
    }

    /// The name of the catalog for `architecture`.
    #[must_use]
    pub fn catalog_file(&self, architecture: Architecture) -> Option<String> {
        let installation = Installation::of(self, architecture);
        let entry = installation.catalog()?;
        Some(installation.value(entry, 0)).filter(|name| !name.is_empty())
    }

    /// The paths of the files that are installed on `architecture`, relative to the INF file.
    #[must_use]
    pub fn source_files(&self, architecture: Architecture) -> Vec<String> {
        let installation = Installation::of(self, architecture);
        let disks = installation.decorated("SourceDisksNames");
        let files = installation.decorated("SourceDisksFiles").into_iter();
        files
            .map(|file| {
                let number = installation.value(file, 0);
                let disk = disks.iter().find(|disk| disk.is(&number));
                let disk = disk.map_or_else(String::new, |disk| installation.value(disk, 3));
                let folder = installation.value(file, 1);
                let name = installation.expand(file.word());
                joined(&[&disk, &folder, &name].map(|part| part.trim_matches('\\')))
            })
            .collect()
    }

    /// The earliest build of Windows 10 that the models for `architecture` require, if they
    /// require one.
    #[must_use]
    pub fn earliest_build(&self, architecture: Architecture) -> Option<u64> {
        super::rules::earliest_build(&Installation::of(self, architecture))
    }

    /// Whether a file named `name` is installed on `architecture`.
    #[must_use]
    pub fn installs(&self, architecture: Architecture, name: &str) -> bool {
        let sources = self.source_files(architecture);
        sources
            .iter()
            .any(|path| file_name(path).eq_ignore_ascii_case(name))
    }

    /// Whether the file named `name` is a service that Windows starts at boot.
    #[must_use]
    pub fn starts_at_boot(&self, architecture: Architecture, name: &str) -> bool {
        let installation = Installation::of(self, architecture);
        installation.services.iter().any(|service| {
            let value = |directive| installation.service_value(service, directive);
            number(&value("StartType")) == Some(0)
                && file_name(&value("ServiceBinary")).eq_ignore_ascii_case(name)
        })
    }

    /// The ids of the devices that the file is for on `architecture`: hardware
    /// and compatible ids alike, in the file's order, each once.
    #[must_use]
    pub fn hardware_ids(&self, architecture: Architecture) -> Vec<String> {
        let installation = Installation::of(self, architecture);
        let decoration = format!("NT{}", architecture.decoration());
        let models = installation.models.iter().filter(|models| {
            let own = models.decoration.split('.').next();
            own.is_some_and(|own| own.eq_ignore_ascii_case(&decoration))
        });
        let sections = models.flat_map(|models| &models.sections);
        let mut ids = Vec::<String>::new();
        for entry in sections.flat_map(|section| &section.entries) {
            for id in installation.after_first(entry) {
                if !ids.iter().any(|other| other.eq_ignore_ascii_case(&id)) {
                    ids.push(id);
                }
            }
        }
        ids
    }
}

impl<'a> Installation<'a> {
    /// Interprets `inf` for `architecture`.
    pub(super) fn of(inf: &'a Inf, architecture: Architecture) -> Self {
        let mut this = Self {
            inf,
            architecture,
            strings: HashMap::new(),
            references: Vec::new(),
            models: Vec::new(),
            reached: Vec::new(),
            services: Vec::new(),
            values: Vec::new(),
            copies: Vec::new(),
        };
        for entry in this.entries("Strings") {
            if let (Some(key), [value, ..]) = (&entry.key, &entry.values[..]) {
                this.strings.insert(key.to_ascii_lowercase(), value.clone());
            }
        }
        this.follow();
        this
    }

    /// The sections named `name`.
    pub(super) fn named(&self, name: &str) -> Vec<&'a Section> {
        let sections = self.inf.sections.iter();
        sections
            .filter(|section| section.name.eq_ignore_ascii_case(name))
            .collect()
    }

    /// The entries of all sections named `name`, which Windows treats as one section.
    pub(super) fn entries(&self, name: &str) -> Vec<&'a Entry> {
        let sections = self.named(name).into_iter();
        sections.flat_map(|section| &section.entries).collect()
    }

    /// The entry of `[Version]` with that key.
    pub(super) fn version(&self, key: &str) -> Option<&'a Entry> {
        let mut entries = self.entries("Version").into_iter();
        entries.find(|entry| entry.key.is_some() && entry.is(key))
    }

    /// The value at `index` with its strings expanded, or empty.
    pub(super) fn value(&self, entry: &Entry, index: usize) -> String {
        let field = entry.values.get(index);
        field.map_or_else(String::new, |field| self.expand(field))
    }

    /// The values after the first that are not empty, with their strings expanded.
    pub(super) fn after_first(&self, entry: &Entry) -> Vec<String> {
        let values = (1..entry.values.len()).map(|index| self.value(entry, index));
        values.filter(|value| !value.is_empty()).collect()
    }

    /// Expands the strings in `text`. Keeps a `%token%` that does not name a string, such as a directory
    /// number.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            expanded.push_str(before);
            let Some((token, after)) = after.split_once('%') else {
                expanded.push('%');
                rest = after;
                continue;
            };
            match self.strings.get(&token.to_ascii_lowercase()) {
                _ if token.is_empty() => expanded.push('%'),
                Some(string) => expanded.push_str(string),
                None => expanded.extend(["%", token, "%"]),
            }
            rest = after;
        }
        expanded.push_str(rest);
        expanded
    }

    /// Whether the string is defined.
    pub(super) fn has_string(&self, name: &str) -> bool {
        self.strings.contains_key(&name.to_ascii_lowercase())
    }

    /// The destination of the files in a list. `None` is the default for files in no list.
    pub(super) fn destination(&self, list: Option<&str>) -> Option<Directory> {
        let entries = self.entries("DestinationDirs");
        let of = |name: &str| entries.iter().find(|entry| entry.is(name));
        let entry = list.and_then(of).or_else(|| of("DefaultDestDir"))?;
        Some(Directory {
            number: self.value(entry, 0),
            subdirectory: self.value(entry, 1),
        })
    }

    /// The sections that are reached for a purpose.
    pub(super) fn sections_for(&self, place: Place) -> impl Iterator<Item = &'a Section> {
        let reached = self.reached.iter();
        reached
            .filter(move |(at, _)| *at == place)
            .map(|(_, section)| *section)
    }

    /// The entries of these sections.
    pub(super) fn entries_for(&self, place: Place) -> impl Iterator<Item = &'a Entry> {
        self.sections_for(place)
            .flat_map(|section| &section.entries)
    }

    /// The registry values of sections for a purpose.
    pub(super) fn values_of(&self, place: Place) -> impl Iterator<Item = &RegistryValue<'a>> {
        self.values.iter().filter(move |value| value.place == place)
    }

    /// The entry of `[Version]` that names the catalog for the architecture.
    pub(super) fn catalog(&self) -> Option<&'a Entry> {
        let own = format!("CatalogFile.NT{}", self.architecture.decoration());
        [own.as_str(), "CatalogFile.NT", "CatalogFile"]
            .into_iter()
            .find_map(|key| self.version(key))
    }

    /// The entries of the section decorated for the architecture, then those of the undecorated
    /// section.
    pub(super) fn decorated(&self, name: &str) -> Vec<&'a Entry> {
        let own = self.entries(&format!("{name}.{}", self.architecture.decoration()));
        let entries = own.into_iter().chain(self.entries(name));
        entries.filter(|entry| entry.key.is_some()).collect()
    }

    /// The value of a directive in the service's install sections, or empty.
    pub(super) fn service_value(&self, service: &Service<'_>, directive: &str) -> String {
        let entry = service.entries(directive).next();
        entry.map_or_else(String::new, |entry| self.value(entry, 0))
    }

    /// The ids of the devices for which a service is installed.
    fn devices(&self, service: &Service<'_>) -> Vec<String> {
        let mut ids = Vec::new();
        for entry in self.entries_for(Place::Models) {
            let install = self.value(entry, 0);
            let gets_it = DECORATIONS.iter().any(|decoration| {
                let services = self.entries(&format!("{install}{decoration}.Services"));
                services.iter().any(|entry| entry.line == service.line)
            });
            if gets_it {
                ids.extend(self.after_first(entry));
            }
        }
        ids
    }

    /// The device setup class, or empty.
    pub(super) fn class(&self) -> String {
        let entry = self.version("Class");
        entry.map_or_else(String::new, |entry| self.value(entry, 0))
    }

    /// Whether it is a class of storage controllers.
    pub(super) fn is_storage(&self) -> bool {
        ["scsiadapter", "hdc"].contains(&&*self.class().to_ascii_lowercase())
    }

    /// Whether Windows on the architecture uses this install section. It uses the most
    /// decorated form of a name.
    pub(super) fn is_preferred(&self, section: &Section) -> bool {
        let name = section.name.to_ascii_lowercase();
        let own = format!(".nt{}", self.architecture.decoration());
        let is_there = |name: &str| !self.named(name).is_empty();
        match name.strip_suffix(".nt") {
            _ if name.ends_with(&own) => true,
            Some(base) => !is_there(&format!("{base}{own}")),
            None => !is_there(&format!("{name}{own}")) && !is_there(&format!("{name}.nt")),
        }
    }

    /// The services of storage controllers on PCI, which may have the boot disk. Excludes
    /// virtual miniports, which are root enumerated, and services that do not drive the device.
    pub(super) fn boot_disk_services(&self) -> Vec<&Service<'a>> {
        let services = self.services.iter().filter(|service| {
            let group = self.service_value(service, "LoadOrderGroup");
            let is_storage = self.is_storage() || group.eq_ignore_ascii_case("SCSI Miniport");
            let on_pci = |id: &String| id.to_ascii_uppercase().starts_with("PCI\\");
            is_storage && service.drives_device() && self.devices(service).iter().any(on_pci)
        });
        services.collect()
    }

    fn follow(&mut self) {
        for entry in self.entries("Manufacturer") {
            // In an entry without a key, the only value is the manufacturer and its models section.
            let name = self.value(entry, 0);
            let mut decorations = self.after_first(entry);
            if name.is_empty() {
                continue;
            }
            if decorations.is_empty() {
                decorations.push(String::new());
            }
            for decoration in decorations {
                let section = match &*decoration {
                    "" => name.clone(),
                    decoration => format!("{name}.{decoration}"),
                };
                let sections = self.refer(Place::Models, "Manufacturer", &section, entry.line);
                for section in &sections {
                    self.follow_models(section);
                }
                self.models.push(Models {
                    decoration,
                    line: entry.line,
                    sections,
                });
            }
        }
        for section in &self.inf.sections {
            if is_root(section, "DefaultInstall") || is_root(section, "ClassInstall32") {
                self.follow_install(section);
            } else if is_root(section, "DefaultUninstall") {
                self.enter(Place::Uninstall, section);
                for services in self.named(&format!("{}.Services", section.name)) {
                    self.enter(Place::UninstallServices, services);
                }
            }
        }
    }

    fn follow_models(&mut self, models: &'a Section) {
        for entry in &models.entries {
            let install = self.value(entry, 0);
            if entry.key.is_none() || install.is_empty() {
                continue;
            }
            let variants: Vec<_> = DECORATIONS
                .iter()
                .flat_map(|decoration| self.named(&format!("{install}{decoration}")))
                .collect();
            if variants.is_empty() {
                self.refer(Place::Install, "Models", &install, entry.line);
            }
            for variant in variants {
                self.follow_install(variant);
            }
        }
    }

    /// Follows an install section and the sections that belong to it.
    fn follow_install(&mut self, install: &'a Section) {
        self.enter(Place::Install, install);
        for (suffix, place) in COMPANIONS {
            for section in self.named(&format!("{}{suffix}", install.name)) {
                self.enter(place, section);
            }
        }
    }

    /// Records a reference to `section`, and follows the section.
    fn refer(
        &mut self,
        place: Place,
        directive: &str,
        section: &str,
        line: usize,
    ) -> Vec<&'a Section> {
        self.references.push(Reference {
            place,
            directive: directive.to_owned(),
            section: section.to_owned(),
            line,
        });
        let sections = self.named(section);
        for section in &sections {
            self.enter(place, section);
        }
        sections
    }

    /// Follows a section, once for each purpose.
    fn enter(&mut self, place: Place, section: &'a Section) {
        let known = |(at, other): &(Place, &Section)| *at == place && std::ptr::eq(*other, section);
        if self.reached.iter().any(known) {
            return;
        }
        self.reached.push((place, section));
        if matches!(place, Place::Models | Place::Files | Place::Registry) {
            return;
        }
        for entry in &section.entries {
            if entry.key.is_none() {
                continue;
            }
            if entry.is("AddService") {
                self.follow_service(entry);
            }
            // `Needs` usually names sections of another file, but it may name some of this one.
            if entry.is("Needs") {
                for index in 0..entry.values.len() {
                    for section in self.named(&self.value(entry, index)) {
                        self.enter(place, section);
                    }
                }
            }
            for (directive, index, purpose) in DIRECTIVES {
                if entry.is(directive) {
                    let owner = (place, &*section.name);
                    self.follow_directive(directive, index, purpose, owner, entry);
                }
            }
        }
    }

    fn follow_directive(
        &mut self,
        directive: &str,
        index: Option<usize>,
        place: Place,
        owner: (Place, &'a str),
        entry: &'a Entry,
    ) {
        let all = 0..entry.values.len();
        let indices = index.map_or(all, |index| index..index.saturating_add(1));
        let names: Vec<String> = indices.map(|index| self.value(entry, index)).collect();
        for name in names {
            if let Some(file) = name.strip_prefix('@') {
                self.copies.push(Copied {
                    line: entry.line,
                    list: None,
                    source: file.to_owned(),
                    destination: file.to_owned(),
                    flags: String::new(),
                });
            } else if !name.is_empty() {
                for section in self.refer(place, directive, &name, entry.line) {
                    match place {
                        Place::Files => self.follow_files(section),
                        Place::Registry => self.follow_registry(owner, section),
                        _ => {}
                    }
                }
            }
        }
    }

    fn follow_service(&mut self, entry: &'a Entry) {
        let section = self.value(entry, 2);
        let event_section = self.value(entry, 3);
        let installs = match &*section {
            "" => Vec::new(),
            name => self.refer(Place::Service, "AddService", name, entry.line),
        };
        if !event_section.is_empty() {
            self.refer(Place::Events, "AddService", &event_section, entry.line);
        }
        self.services.push(Service {
            line: entry.line,
            name: self.value(entry, 0),
            flags: self.value(entry, 1),
            section,
            installs,
            event_section,
            event_log: self.value(entry, 4),
        });
    }

    fn follow_files(&mut self, list: &'a Section) {
        for entry in &list.entries {
            let destination = self.value(entry, 0);
            let source = match self.value(entry, 1) {
                source if source.is_empty() => destination.clone(),
                source => source,
            };
            self.copies.push(Copied {
                line: entry.line,
                list: Some(list.name.clone()),
                source,
                destination,
                flags: self.value(entry, 3),
            });
        }
    }

    fn follow_registry(&mut self, (place, owner): (Place, &'a str), section: &'a Section) {
        let known = |value: &RegistryValue<'_>, line| value.owner == owner && value.line == line;
        for entry in &section.entries {
            if self.values.iter().any(|value| known(value, entry.line)) {
                continue;
            }
            self.values.push(RegistryValue {
                place,
                owner,
                line: entry.line,
                root: self.value(entry, 0),
                subkey: self.value(entry, 1),
                name: self.value(entry, 2),
                flags: self.value(entry, 3),
                data: entry.values.get(4..).unwrap_or_default(),
            });
        }
    }
}

/// The parts that are not empty, with backslashes between them.
fn joined(parts: &[&str]) -> String {
    let parts = parts.iter().copied().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("\\")
}

/// The text after the last backslash.
fn file_name(path: &str) -> &str {
    path.rsplit('\\').next().unwrap_or(path)
}

/// Whether the entry's directive names sections.
pub(super) fn names_sections(entry: &Entry) -> bool {
    DIRECTIVES.iter().any(|(name, ..)| entry.is(name))
}

/// Whether the entry is a directive that undoes, renames or registers something.
pub(super) fn is_legacy(entry: &Entry) -> bool {
    let mut legacy = DIRECTIVES
        .iter()
        .filter(|(.., place)| *place == Place::Legacy);
    entry.is("DelService") || legacy.any(|(name, ..)| entry.is(name))
}

/// The `%tokens%` in `text`, except `%%`.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let Some((token, after)) = after.split_once('%') else {
            break;
        };
        if !token.is_empty() {
            found.push(token);
        }
        rest = after;
    }
    found
}

/// Parses a number in decimal, or in hexadecimal after 0x.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match digits {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
    .filter(|_| !text.starts_with('+'))
}
