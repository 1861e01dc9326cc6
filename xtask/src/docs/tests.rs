//! Tests of all pages of the documentation. Each check is also run on a faulty page.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use regex::Regex;

use super::page::{self, Block, Found, Page};
use crate::{Command, package::SHARED, workspace};

/// The sites that links can lead to. Look at a new one before you add it.
const HOSTS: [&str; 6] = [
    "docs.getutm.app",
    "github.com",
    "learn.microsoft.com",
    "mutants.rs",
    "pve.proxmox.com",
    "rustup.rs",
];

/// The folder of the scripts, in the repository and in the package.
const SCRIPTS: &str = "tools/windows";

/// Parameters of every script with a CmdletBinding.
const COMMON_PARAMETERS: [&str; 3] = ["WhatIf", "Confirm", "Verbose"];

/// `pnputil`'s commands and options, and the first build of Windows that has them
/// (Microsoft's page "PnPUtil Command Syntax"). The page names releases: 1607 is
/// build 14393, 1903 is 18362, 2004 is 19041, Windows 11 21H2 is 22000, and Windows 11
/// 22H2 is 22621. A command or an option that is missing here has to be looked up.
const PNPUTIL: [(&str, &str, u32); 21] = [
    ("/add-driver", "", 14393),
    ("/add-driver", "/subdirs", 14393),
    ("/add-driver", "/install", 14393),
    ("/add-driver", "/reboot", 14393),
    ("/delete-driver", "", 14393),
    ("/delete-driver", "/uninstall", 14393),
    ("/delete-driver", "/force", 14393),
    ("/delete-driver", "/reboot", 14393),
    ("/export-driver", "", 14393),
    ("/enum-drivers", "", 14393),
    ("/enum-drivers", "/class", 22000),
    ("/enum-drivers", "/files", 22621),
    ("/enum-devices", "", 18362),
    ("/enum-devices", "/class", 18362),
    ("/enum-devices", "/drivers", 18362),
    ("/enum-devices", "/deviceids", 22000),
    ("/disable-device", "", 19041),
    ("/enable-device", "", 19041),
    ("/restart-device", "", 19041),
    ("/remove-device", "", 19041),
    ("/scan-devices", "", 19041),
];

/// The second words of a block's info string, as `xtask/src/docs.rs` describes them.
const WORDS: [&str; 6] = ["", "run", "qemu", "libvirt", "libvirt-disk", "windows"];

/// Returns the faults of a page, each with its place.
type Check = fn(&Page) -> Vec<String>;

#[test]
fn links_lead_somewhere_named_files_exist_and_calls_and_words_are_understood() {
    let pages = page::all().unwrap();
    let checks: [Check; 4] = [links, files, calls, words];
    let faults: Vec<_> = checks
        .iter()
        .flat_map(|check| pages.iter().flat_map(check))
        .collect();

    assert!(pages.len() > 10, "{}", pages.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The faults of a page's links.
fn links(page: &Page) -> Vec<String> {
    let of = |found: &Found| {
        let wrong = match found.text.split_once("://") {
            Some((scheme, rest)) => external(scheme, rest),
            None => internal(page, &found.text),
        };
        wrong.map(|why| format!("{}: {}: {why}", page.at(found.line), found.text))
    };
    page.links
        .iter()
        .filter_map(of)
        .chain(page.html.iter().filter_map(|html| {
            let links = html.text.contains("href=") || html.text.contains("src=");
            links.then(|| {
                format!(
                    "{}: a link in HTML, which is not checked",
                    page.at(html.line)
                )
            })
        }))
        .collect()
}

fn external(scheme: &str, rest: &str) -> Option<String> {
    let host = rest.split(['/', '#', '?']).next().unwrap_or_default();
    if scheme != "https" {
        Some("not https".into())
    } else if rest.contains(char::is_whitespace) {
        Some("a space in it".into())
    } else if !HOSTS.contains(&host) {
        Some(format!("{host} is not among the hosts that were looked at"))
    } else {
        None
    }
}

fn internal(page: &Page, link: &str) -> Option<String> {
    let (file, anchor) = match link.split_once('#') {
        Some((file, anchor)) => (file, Some(anchor)),
        None => (link, None),
    };
    let has = |page: &Page, anchor| page.anchors.iter().any(|known| known == anchor);
    if let (true, Some(anchor)) = (file.is_empty(), anchor) {
        return (!has(page, anchor)).then(|| format!("no heading here is #{anchor}"));
    }
    let Ok(path) = beside(page, file).canonicalize() else {
        return Some(format!("there is no {file}"));
    };
    let root = workspace::root().canonicalize().unwrap();
    let Ok(path) = path.strip_prefix(root) else {
        return Some("leads out of the project".into());
    };
    if let Some(anchor) = anchor
        && !Page::read(path).is_ok_and(|other| has(&other, anchor))
    {
        return Some(format!("no heading there is #{anchor}"));
    }
    (packaged(&page.path) && !packaged(path))
        .then(|| "the page is in the driver package, this file is not".into())
}

/// Whether a file is in the driver package, at its path in the repository.
fn packaged(path: &Path) -> bool {
    SHARED
        .iter()
        .any(|(from, to)| from == to && path.starts_with(from))
}

/// A file with a path from the page's folder.
fn beside(page: &Page, file: impl AsRef<Path>) -> PathBuf {
    let page = workspace::root().join(&page.path);
    page.with_file_name("").join(file)
}

/// The faults of the files that a page names in its sentences, and of the
/// functions in them.
fn files(page: &Page) -> Vec<String> {
    page.codes
        .iter()
        .filter_map(|code| {
            let named = named_file(&code.text)?;
            let at = page.at(code.line);
            let paths = [workspace::root().join(&named), beside(page, &named)];
            let Some(path) = paths.into_iter().find(|path| path.exists()) else {
                return Some(format!("{at}: there is no {}", named.display()));
            };
            let (_, function) = code.text.rsplit_once("::")?;
            let text = fs::read_to_string(path).unwrap_or_default();
            let has = ["(", "<"]
                .iter()
                .any(|after| text.contains(&format!("fn {function}{after}")));
            (!has).then(|| format!("{at}: {} has no {function}", named.display()))
        })
        .collect()
}

/// The file that a piece of code names, from the project's root or beside the
/// page; nothing if it names something else. `a/b.rs::name` names a test in a file.
fn named_file(code: &str) -> Option<PathBuf> {
    let file = code.split("::").next()?;
    if file.contains([' ', '*', '<', '{', '\\', '$', '~']) || file.starts_with('/') {
        return None;
    }
    if file.ends_with(".ps1") && !file.contains('/') {
        return Some(Path::new(SCRIPTS).join(file));
    }
    let (first, rest) = file.split_once('/')?;
    let ours = !first.is_empty() && workspace::root().join(first).is_dir();
    // Build outputs, and folders of the package.
    let made = ["dist", "target", "x64", "arm64"].contains(&first);
    let source = Path::new(rest).extension().is_some_and(|extension| {
        ["rs", "ps1", "md", "inx", "svg"]
            .iter()
            .any(|e| extension == *e)
    });
    (!made && (ours || source)).then(|| file.into())
}

/// The faults of the calls of `cargo xtask` and of scripts on a page.
fn calls(page: &Page) -> Vec<String> {
    let in_blocks = page
        .blocks
        .iter()
        .filter(|block| block.info != "text")
        .flat_map(commands)
        .filter_map(|(line, call)| Some((line, fault(&call, false)?)));
    let in_sentences = page
        .codes
        .iter()
        .filter_map(|code| Some((code.line, fault(&code.text, true)?)));
    in_blocks
        .chain(in_sentences)
        .map(|(line, why)| format!("{}: {why}", page.at(line)))
        .collect()
}

/// The code blocks of a page whose second word is unknown, so that no step would run them.
fn words(page: &Page) -> Vec<String> {
    let unknown = |block: &&Block| !WORDS.contains(&block.word());
    page.blocks
        .iter()
        .filter(unknown)
        .map(|block| {
            let (at, word) = (page.at(block.line), block.word());
            format!("{at}: no step runs blocks marked `{word}`: see xtask/src/docs.rs")
        })
        .collect()
}

/// The fault of a call, if it is one of `cargo xtask` or of a script. A sentence can name a
/// command without its arguments.
fn fault(call: &str, is_in_sentence: bool) -> Option<String> {
    match understood(call) {
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument && is_in_sentence => None,
        Err(error) => Some(error.to_string()),
        Ok(()) => script_call(call).map(|why| format!("`{call}`: {why}")),
    }
}

/// Whether `cargo xtask` accepts a call, if it is one of `cargo xtask`.
fn understood(call: &str) -> Result<(), clap::Error> {
    let mut words = call.split_whitespace();
    if words.next() != Some("cargo") || words.clone().next() != Some("xtask") {
        return Ok(());
    }
    match Command::try_parse_from(words) {
        Err(error) if error.use_stderr() => Err(error),
        _ => Ok(()),
    }
}

/// The commands of a block with their lines; a backslash at a line's end, or a
/// backtick in PowerShell, makes one of two.
fn commands(block: &Block) -> impl Iterator<Item = (usize, String)> {
    let mut commands: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (block.line.saturating_add(1)..).zip(block.text.lines()) {
        let text = line.trim().trim_end_matches(['\\', '`']);
        match commands.last_mut() {
            Some((_, command)) if goes_on => command.push_str(text),
            _ => commands.push((number, text.to_owned())),
        }
        goes_on = line.ends_with(['\\', '`']);
    }
    commands.into_iter()
}

/// The fault of a call, if it is a call of a script.
fn script_call(call: &str) -> Option<String> {
    let mut words = call.split_whitespace();
    let script = words.next()?;
    let name = script.rsplit(['\\', '/']).next()?;
    if !name.ends_with(".ps1") {
        return None;
    }
    let folder = script.strip_suffix(name).unwrap_or_default();
    if !(folder.is_empty() || folder.replace('\\', "/").ends_with(&format!("{SCRIPTS}/"))) {
        return Some(format!("scripts are in {SCRIPTS}"));
    }
    let Ok(text) = fs::read_to_string(workspace::root().join(SCRIPTS).join(name)) else {
        return Some(format!("there is no {SCRIPTS}/{name}"));
    };
    words
        .filter_map(|word| word.strip_prefix('-'))
        .filter(|word| word.starts_with(char::is_alphabetic))
        .find(|parameter| {
            !COMMON_PARAMETERS.contains(parameter) && !parameters(&text).any(|p| p == *parameter)
        })
        .map(|parameter| format!("the script has no parameter {parameter}"))
}

/// The parameters that a script's help describes.
fn parameters(script: &str) -> impl Iterator<Item = &str> {
    script
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".PARAMETER "))
        .map(str::trim)
}

/// Check, page (a ⏎ is a line break), and part of the fault; nothing if there is none.
const FAULTS: &str = r#"
links | [a](http://github.com/a) | not https
links | [a](<https://github.com/a b>) | a space in it
links | [a](https://example.com/a) | example.com is not among
links | [a][b] | there is no [b]
links | [a](no-such.md) | there is no no-such.md
links | ![a](no-such.svg) | there is no no-such.svg
links | [a](../..) | leads out of the project
links | [a](#b) | no heading here is #b
links | [a](locking.md#no-such) | no heading there is #no-such
links | <a href="b">a</a> | a link in HTML
links | # B⏎[a](https://github.com/a) [a](#b) [a](locking.md#taking-a-lock) ![a](locking.svg) |
files | `src/no-such.rs` | there is no src/no-such.rs
files | `scr/device.rs` | there is no scr/device.rs
files | `docs/no` | there is no docs/no
files | `No-Such.ps1` | there is no tools/windows/No-Such.ps1
files | `src/device.rs::no_such` | src/device.rs has no no_such
files | `src/device.rs` `src/device.rs::start_device` `and/or` `dist/a.rs` `src/*.rs` |
calls | `cargo xtask no-such` | no-such
calls | `cargo xtask build --no-such` | --no-such
calls | ```sh⏎cargo xtask test \⏎  --only no-such⏎``` | no-such
calls | ```sh⏎cargo xtask lint⏎``` | <FILE>
calls | `cargo xtask test --only fmt` `cargo xtask run --help` `cargo xtask lint` `cargo test` |
calls | `No-Such.ps1` | there is no tools/windows/No-Such.ps1
calls | `D:\no\Enable-TestSigning.ps1` | scripts are in tools/windows
calls | ```powershell⏎D:\tools\windows\Enable-TestSigning.ps1 -NoSuch a⏎``` | no parameter NoSuch
calls | ```powershell⏎Enable-TestSigning.ps1 `⏎  -NoSuch⏎``` | no parameter NoSuch
calls | `D:\tools\windows\Enable-TestSigning.ps1 -WhatIf -CertificatePath a.cer` |
words | ```sh runn⏎true⏎``` | marked `runn`
words | ```xml libvrt⏎<a/>⏎``` | marked `libvrt`
words | ```sh⏎true⏎```⏎```sh run⏎true⏎```⏎```powershell windows⏎a⏎``` |
"#;

#[test]
fn each_fault_of_a_page_is_found() {
    for row in FAULTS.trim().lines() {
        let [check, text, why] = *row.split('|').map(str::trim).collect::<Vec<_>>() else {
            panic!("{row}");
        };
        let page = Page::parse(Path::new("docs/sample.md"), &text.replace('⏎', "\n"));
        let found = match check {
            "links" => links(&page),
            "files" => files(&page),
            "words" => words(&page),
            _ => calls(&page),
        };
        let is_right = match &*found {
            [] => why.is_empty(),
            [fault] => !why.is_empty() && fault.contains(why),
            _ => false,
        };
        assert!(is_right, "{row}: {found:?}");
    }
    let packaged = Page::parse(
        Path::new("docs/windows.md"),
        "[a](locking.md) [b](windows.svg)",
    );
    let found = links(&packaged);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("locking.md: the page is in the driver package"));
}

#[test]
fn commands_are_consistent_and_have_examples_which_are_understood() {
    let mut all = Command::command();
    all.clone().debug_assert();
    for command in all.get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Examples:\n  cargo xtask "), "{help}");
        for line in help.lines() {
            // Variables can precede a call.
            let call = line.find("cargo xtask ").map_or("", |start| &line[start..]);
            if let Err(error) = understood(call) {
                panic!("{line}: {error}");
            }
        }
    }
    assert!(all.render_long_help().to_string().contains("Examples:\n"));
}

#[test]
fn every_status_on_the_troubleshooting_page_is_one_of_the_drivers() {
    let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap();
    let sources =
        ["srb.rs", "callbacks.rs"].map(|file| read(&format!("crates/storport/src/{file}")));
    let page = read("docs/troubleshooting.md");
    let statuses: Vec<_> = page
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("SRB_STATUS_") || word.starts_with("SP_RETURN_"))
        .collect();

    assert!(!statuses.is_empty());
    for status in statuses {
        let given = format!("wdk_sys::{status}");
        assert!(
            sources.iter().any(|source| source.contains(&given)),
            "{status}"
        );
    }
}

/// The oldest build of Windows that the INF file accepts.
fn oldest_build() -> u32 {
    let setup = fs::read_to_string(workspace::root().join("inf/ferrostor.inx")).unwrap();
    let (_, version) = setup.split_once("[Disks.NT$ARCH$.10.0...").unwrap();
    version.split(']').next().unwrap().parse().unwrap()
}

/// The faults of the calls of `pnputil` in a text: options that the oldest Windows does not
/// have, or that are not in the table.
fn pnputil(text: &str) -> Vec<String> {
    // The arguments end with the code, the string or the parenthesis. A backtick before a line
    // break continues the line.
    let call = Regex::new(r#"pnputil(?:[^`")\n]|`\n)*"#).unwrap();
    let option = Regex::new(r"[ ',](/[\w-]+)").unwrap();
    let mut faults = Vec::new();
    for call in call.find_iter(text) {
        let mut words = option
            .captures_iter(call.as_str())
            .map(|word| word.extract::<1>().1[0]);
        let Some(command) = words.next() else {
            continue;
        };
        for option in [""].into_iter().chain(words) {
            let known = |row: &&(&str, &str, u32)| (row.0, row.1) == (command, option);
            let why = match PNPUTIL.iter().find(known) {
                None => "is not in the table of PnPUtil's options".to_owned(),
                Some((_, _, first)) if *first > oldest_build() => format!("needs build {first}"),
                Some(_) => continue,
            };
            faults.push(format!("pnputil {command} {option}: {why}"));
        }
    }
    faults
}

#[test]
fn the_oldest_windows_has_every_option_of_pnputil_that_a_page_or_a_script_names() {
    let mut calls = 0;
    for path in page::files(&["md", "ps1", "psm1"]).unwrap() {
        let text = fs::read_to_string(workspace::root().join(&path)).unwrap();
        calls += text.matches("pnputil").count();
        assert_eq!(pnputil(&text), [""; 0], "{}", path.display());
    }
    assert!(calls > 10, "{calls}");
}

#[test]
fn each_option_of_pnputil_that_is_too_new_or_unknown_is_found() {
    for (text, faults) in [
        ("`pnputil /enum-devices`", 1),
        ("pnputil /enum-drivers /class SCSIAdapter\n", 1),
        ("pnputil /enum-drivers `\n  /class SCSIAdapter\n", 1),
        ("`pnputil.exe /restart-device ID`", 1),
        ("`pnputil /add-driver a.inf /no-such`", 1),
        ("`pnputil /no-such`", 1),
        // Both the command and its option.
        (
            "-Name pnputil.exe -Arguments '/enum-devices', '/deviceids'",
            2,
        ),
        (
            "'(pnputil /delete-driver a.inf /uninstall)' or bcdedit /enum",
            0,
        ),
    ] {
        assert_eq!(pnputil(text).len(), faults, "{text}");
    }
}

#[test]
fn the_installation_script_requires_the_build_of_the_inf_file() {
    let script = workspace::root()
        .join(SCRIPTS)
        .join("Install-Ferrostor.ps1");
    let wanted = format!("$OldestBuild = {}\n", oldest_build());

    assert!(fs::read_to_string(script).unwrap().contains(&wanted));
}
