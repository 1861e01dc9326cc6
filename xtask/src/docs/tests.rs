//! Tests of every page. Each check is also tested with a wrong page.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::{
    Use,
    page::{self, Block, Found, Page},
};
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

/// Languages of code blocks that a reader uses. Such a block needs a
/// word that says what runs it.
const USED: [&str; 7] = ["sh", "bash", "console", "shell", "powershell", "bat", "xml"];

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

fn complaints(check: impl Fn(&Page) -> Vec<String>) -> Vec<String> {
    page::all().unwrap().iter().flat_map(check).collect()
}

fn sample(text: &str) -> Page {
    Page::parse(Path::new("docs/sample.md"), text)
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
    let Some(path) = target(&page.path, file) else {
        return Some("leads out of the project".into());
    };
    if !workspace::root().join(&path).exists() {
        return Some(format!("there is no {}", path.display()));
    }
    if let Some(anchor) = anchor
        && !Page::read(&path).is_ok_and(|other| has(&other, anchor))
    {
        return Some(format!("no heading there is #{anchor}"));
    }
    (packaged(&page.path) && !packaged(&path))
        .then(|| "the page is in the driver package, this file is not".into())
}

/// Whether a file is in the driver package, at its path in the repository.
fn packaged(path: &Path) -> bool {
    SHARED
        .iter()
        .any(|(from, to)| from == to && path.starts_with(from))
}

/// The target of a link of the page at `from`, relative to the project's root.
fn target(from: &Path, file: &str) -> Option<PathBuf> {
    let mut path = from.parent()?.to_owned();
    for component in Path::new(file).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The faults of the files that a page names in its sentences, and of the
/// functions in them.
fn files(page: &Page) -> Vec<String> {
    page.codes
        .iter()
        .filter_map(|code| {
            let named = named_file(&code.text)?;
            let beside = target(&page.path, named.to_str()?);
            let at = page.at(code.line);
            let Some(path) = [Some(named.clone()), beside]
                .into_iter()
                .flatten()
                .map(|path| workspace::root().join(path))
                .find(|path| path.exists())
            else {
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

/// The faults of a page's code blocks: commands without a word that says what
/// runs them.
fn blocks(page: &Page) -> Vec<String> {
    page.blocks
        .iter()
        .filter_map(|block| {
            let language = block.info.split_whitespace().next().unwrap_or_default();
            let why = if USED.contains(&language) {
                Use::of(block).is_none().then_some(
                    "commands without a word behind the language that says who tries them (xtask/src/docs.rs)",
                )
            } else {
                let command = |line: &str| line.starts_with("cargo ") || line.starts_with("$ ");
                (["", "text"].contains(&language) && block.text.lines().any(command))
                    .then_some("a command in a block of plain text: make it `sh`")
            }?;
            Some(format!("{}: {why}", page.at(block.line)))
        })
        .collect()
}

/// The faults of the calls of `cargo xtask` on a page. A sentence can name a
/// command without its arguments.
fn calls(page: &Page) -> Vec<String> {
    let in_blocks = page
        .blocks
        .iter()
        .filter(|block| block.info != "text")
        .flat_map(commands)
        .filter_map(|(line, call)| Some((line, understood(&call).err()?)));
    let in_sentences = page.codes.iter().filter_map(|code| {
        let error = understood(&code.text).err()?;
        let named = error.kind() == ErrorKind::MissingRequiredArgument;
        (!named).then_some((code.line, error))
    });
    in_blocks
        .chain(in_sentences)
        .map(|(line, error)| format!("{}: {error}", page.at(line)))
        .collect()
}

/// Whether `cargo xtask` accepts a call, if it is one of `cargo xtask`.
fn understood(call: &str) -> Result<(), clap::Error> {
    let Some(words) = call.strip_prefix("cargo ") else {
        return Ok(());
    };
    if words.split_whitespace().next() != Some("xtask") {
        return Ok(());
    }
    match Command::try_parse_from(words.split_whitespace()) {
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

/// The faults of the calls of scripts on a page.
fn scripts(page: &Page) -> Vec<String> {
    let in_blocks = page.blocks.iter().flat_map(commands);
    let in_sentences = page.codes.iter().map(|code| (code.line, code.text.clone()));
    in_blocks
        .chain(in_sentences)
        .filter_map(|(line, call)| {
            let why = script_call(&call)?;
            Some(format!("{}: `{call}`: {why}", page.at(line)))
        })
        .collect()
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

/// The oldest build of Windows that the INF file accepts.
fn oldest_build() -> u32 {
    let setup = fs::read_to_string(workspace::root().join("inf/ferrostor.inx")).unwrap();
    let (_, version) = setup.split_once("[Disks.NT$ARCH$.10.0...").unwrap();
    version.split(']').next().unwrap().parse().unwrap()
}

/// The faults of the calls of `pnputil` in a line: options that the oldest
/// Windows does not have, or that are not in the table.
fn pnputil(line: &str) -> Vec<String> {
    let calls = line
        .match_indices("pnputil")
        .map(|(start, _)| &line[start..]);
    calls
        .flat_map(|call| {
            // The arguments end with the code, the string or the parenthesis.
            let call = call.split(['`', '"', ')']).next().unwrap_or_default();
            let mut words = call
                .split([' ', '\'', ','])
                .filter(|word| word.starts_with('/'));
            let command = words.next().unwrap_or_default();
            [""].into_iter()
                .chain(words)
                .filter(|_| !command.is_empty())
                .filter_map(|option| {
                    let known = PNPUTIL
                        .iter()
                        .find(|known| (known.0, known.1) == (command, option));
                    let why = match known {
                        None => "is not in the table of PnPUtil's options".to_owned(),
                        Some((_, _, first)) if *first > oldest_build() => {
                            format!("needs build {first}")
                        }
                        Some(_) => return None,
                    };
                    Some(format!("pnputil {command} {option}: {why}"))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The calls of `pnputil` on a page, in its blocks and its sentences.
fn pnputil_of_page(page: &Page) -> Vec<String> {
    let in_blocks = page.blocks.iter().flat_map(commands);
    let in_sentences = page.codes.iter().map(|code| (code.line, code.text.clone()));
    in_blocks
        .chain(in_sentences)
        .flat_map(|(line, text)| {
            let at = page.at(line);
            pnputil(&text)
                .into_iter()
                .map(move |why| format!("{at}: {why}"))
        })
        .collect()
}

#[test]
fn the_oldest_windows_has_every_option_of_pnputil_that_a_page_names() {
    assert_eq!(complaints(pnputil_of_page), [""; 0]);
}

#[test]
fn the_oldest_windows_has_every_option_of_pnputil_that_a_script_names() {
    let mut calls = 0;
    for entry in fs::read_dir(workspace::root().join(SCRIPTS)).unwrap() {
        let path = entry.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            calls += line.matches("pnputil").count();
            assert_eq!(pnputil(line), [""; 0], "{}", path.display());
        }
    }
    assert!(calls > 0);
}

#[test]
fn the_installation_script_requires_the_build_of_the_inf_file() {
    let script = workspace::root()
        .join(SCRIPTS)
        .join("Install-Ferrostor.ps1");
    let wanted = format!("$OldestBuild = {}\n", oldest_build());

    assert!(fs::read_to_string(script).unwrap().contains(&wanted));
}

#[test]
fn each_option_of_pnputil_that_is_too_new_or_unknown_is_found() {
    for text in [
        "`pnputil /enum-devices`",
        "```powershell windows\npnputil /enum-drivers /class SCSIAdapter\n```",
        "`pnputil.exe /restart-device ID`",
        "`pnputil /add-driver a.inf /no-such`",
        "`pnputil /no-such`",
    ] {
        assert_eq!(pnputil_of_page(&sample(text)).len(), 1, "{text}");
    }
    // Both the command and its option.
    let both = "-Name pnputil.exe -Arguments '/enum-devices', '/deviceids'";
    assert_eq!(pnputil(both).len(), 2);
    assert_eq!(
        pnputil("'(pnputil /delete-driver a.inf /uninstall)' or bcdedit /enum"),
        [""; 0]
    );
}

#[test]
fn every_link_leads_somewhere() {
    assert_eq!(complaints(links), [""; 0]);
}

#[test]
fn every_named_file_exists() {
    assert_eq!(complaints(files), [""; 0]);
}

#[test]
fn every_block_of_commands_says_who_tries_it() {
    assert_eq!(complaints(blocks), [""; 0]);
}

#[test]
fn every_call_of_cargo_xtask_is_understood() {
    assert_eq!(complaints(calls), [""; 0]);
}

#[test]
fn every_example_of_the_help_is_understood() {
    let mut all = Command::command();
    for command in all.get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        for line in help.lines() {
            // Variables can precede a call.
            let call = line.trim_start();
            let call = call
                .find("cargo xtask ")
                .map_or(call, |start| &call[start..]);
            if let Err(error) = understood(call) {
                panic!("{line}: {error}");
            }
        }
    }
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

#[test]
fn every_call_of_a_script_names_an_existing_script_and_its_parameters() {
    assert_eq!(complaints(scripts), [""; 0]);
}

#[test]
fn the_hosts_are_sorted_and_each_is_linked_to() {
    let pages = page::all().unwrap();

    assert!(HOSTS.is_sorted());
    for host in HOSTS {
        let start = format!("https://{host}");
        assert!(
            pages
                .iter()
                .flat_map(|page| &page.links)
                .any(|link| link.text.starts_with(&start)),
            "no page links to {host}"
        );
    }
}

#[test]
fn each_fault_of_a_link_is_found() {
    let faulty = [
        ("[a](http://github.com/a)", "not https"),
        ("[a](<https://github.com/a b>)", "a space in it"),
        ("[a](https://example.com/a)", "example.com is not among"),
        ("[a][b]", "there is no docs/[b]"),
        ("[a](no-such.md)", "there is no docs/no-such.md"),
        ("![a](no-such.svg)", "there is no docs/no-such.svg"),
        ("[a](../../a.md)", "leads out of the project"),
        ("[a](#b)", "no heading here is #b"),
        ("[a](locking.md#no-such)", "no heading there is #no-such"),
        ("<a href=\"b\">a</a>", "a link in HTML"),
    ];
    for (text, why) in faulty {
        let found = links(&sample(text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains(why), "{text}: {found:?}");
    }
    let good =
        "# B\n[a](https://github.com/a) [a](#b) [a](locking.md#taking-a-lock) ![a](locking.svg)";
    assert_eq!(links(&sample(good)), [""; 0]);
}

#[test]
fn a_page_of_the_package_links_to_nothing_that_is_not_in_it() {
    let page = Page::parse(
        Path::new("docs/windows.md"),
        "[a](locking.md) [b](windows.svg)",
    );

    let found = links(&page);

    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("locking.md: the page is in the driver package"));
}

#[test]
fn each_missing_file_is_found() {
    for text in [
        "`src/no-such.rs`",
        "`scr/device.rs`",
        "`docs/no`",
        "`No-Such.ps1`",
        "`src/device.rs::no_such_function`",
    ] {
        assert_eq!(files(&sample(text)).len(), 1, "{text}");
    }
    for text in [
        "`src/device.rs`",
        "`and/or`",
        "`dist/a.rs`",
        "`src/device.rs::start_device`",
        "`src/*.rs`",
    ] {
        assert_eq!(files(&sample(text)), [""; 0], "{text}");
    }
}

#[test]
fn each_block_without_a_word_is_found() {
    for text in [
        "```sh\na\n```",
        "```xml no-such-word\n<a/>\n```",
        "```\ncargo xtask run\n```",
        "```text\n$ a\n```",
    ] {
        assert_eq!(blocks(&sample(text)).len(), 1, "{text}");
    }
    for text in [
        "```sh run\na\n```",
        "```text\nPASS\n```",
        "```rust\ncargo (a)\n```",
    ] {
        assert_eq!(blocks(&sample(text)), [""; 0], "{text}");
    }
}

#[test]
fn each_call_that_is_not_understood_is_found() {
    for text in [
        "`cargo xtask no-such`",
        "`cargo xtask build --no-such`",
        "```sh run\ncargo xtask test \\\n  --only no-such\n```",
        "```sh run\ncargo xtask lint\n```",
    ] {
        assert_eq!(calls(&sample(text)).len(), 1, "{text}");
    }
    for text in [
        "`cargo xtask test --only fmt`",
        "`cargo xtask run --help`",
        "`cargo xtask lint`",
        "`cargo test`",
    ] {
        assert_eq!(calls(&sample(text)), [""; 0], "{text}");
    }
}

#[test]
fn each_fault_of_a_scripts_call_is_found() {
    for text in [
        "`No-Such.ps1`",
        "`D:\\no\\Enable-TestSigning.ps1`",
        "```powershell windows\nD:\\tools\\windows\\Enable-TestSigning.ps1 -NoSuch a\n```",
        "```powershell windows\nD:\\tools\\windows\\Enable-TestSigning.ps1 `\n  -NoSuch\n```",
    ] {
        assert_eq!(scripts(&sample(text)).len(), 1, "{text}");
    }
    let good = "`D:\\tools\\windows\\Enable-TestSigning.ps1 -WhatIf -CertificatePath a.cer`";
    assert_eq!(scripts(&sample(good)), [""; 0]);
}
