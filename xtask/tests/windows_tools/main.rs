//! Checks that the PowerShell scripts in `tools/windows` parse, and that they keep rules for
//! scripts that an administrator can trust.
//!
//! The tests need no PowerShell: a grammar for tree-sitter reads the scripts. Some
//! rules are PSScriptAnalyzer's. Others it does not have: a script asks before it
//! changes the system, and calls fit their targets. The tests cannot show what the
//! scripts do on Windows.

mod asking;
mod calls;
mod form;
mod script;
mod tools;
mod variables;

use std::{collections::BTreeSet, fs, path::Path};

use tools::Tools;

fn findings(files: &[(&str, &str)]) -> Vec<String> {
    Tools::new(files)
        .check()
        .into_iter()
        .map(|finding| format!("{} {}", finding.rule, finding.place))
        .collect()
}

#[test]
fn scripts_for_windows_obey_the_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/windows");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("an entry can be read").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        files.push((name, fs::read_to_string(&path).expect("a file can be read")));
    }
    let scripts = files.iter().filter(|(name, _)| name.ends_with(".ps1"));
    assert!(scripts.count() >= 9, "the scripts are there");
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();

    assert_eq!(findings(&files), Vec::<String>::new());
}

/// Programs of Windows that the pages call by their bare names.
const PROGRAMS: &[&str] = &["bcdedit", "pnputil", "shutdown"];

/// The options of pnputil that Windows 10 1803 has. Later versions have more, such as
/// `/enum-devices`.
const OPTIONS_OF_PNPUTIL: &[&str] = &[
    "/add-driver",
    "/delete-driver",
    "/enum-drivers",
    "/install",
    "/uninstall",
];

/// The PowerShell of a page: its blocks for Windows, and the cmdlets in its sentences.
fn powershell_of(page: &str) -> Vec<String> {
    let blocks = page.split("```powershell windows\n").skip(1);
    let blocks = blocks.filter_map(|after| Some(after.split_once("```")?.0.to_owned()));
    let in_sentences = page
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_cmdlet = |code: &&str| {
        let verb = code.split('-').next().unwrap_or_default();
        let first = code.split(' ').next().unwrap_or_default();
        code.contains('-')
            && !first.contains('.')
            && verb.starts_with(|letter: char| letter.is_ascii_uppercase())
            && verb.chars().all(|letter| letter.is_ascii_alphabetic())
    };
    blocks
        .chain(in_sentences.filter(is_cmdlet).map(str::to_owned))
        .collect()
}

/// The options of pnputil in a line that are not in [`OPTIONS_OF_PNPUTIL`].
fn newer_options(line: &str) -> impl Iterator<Item = &str> {
    let call = line.split_once("pnputil").map_or("", |(_, call)| call);
    let words = call.split(|c: char| !c.is_ascii_alphanumeric() && !"-/".contains(c));
    words.filter(|word| word.starts_with('/') && !OPTIONS_OF_PNPUTIL.contains(word))
}

/// Calls in a page's PowerShell that do not fit Windows PowerShell 5.1. The tests of
/// the documentation check the calls of scripts.
fn misfits(name: &str, page: &str) -> Vec<String> {
    let code = powershell_of(page);
    let files: Vec<_> = code.iter().map(|code| (name, code.as_str())).collect();
    let tools = Tools::new(&files);
    let mut findings = BTreeSet::new();
    for script in &tools.scripts {
        form::parses(script, &mut findings);
        calls::calls_fit(&tools, script, &mut findings);
    }
    let is_program = |place: &str| {
        let call = place.split(": ").nth(1).unwrap_or_default();
        let command = call.split(' ').next().unwrap_or_default();
        PROGRAMS.contains(&command) || command.ends_with(".ps1") || command.ends_with(".exe")
    };
    findings
        .into_iter()
        .map(|finding| finding.place)
        .filter(|place| !is_program(place))
        .collect()
}

#[test]
fn the_pages_use_cmdlets_that_the_oldest_windows_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["README.md", "docs/windows.md", "docs/troubleshooting.md"] {
        let page = fs::read_to_string(root.join(name)).expect("a page can be read");

        assert_eq!(misfits(name, &page), Vec::<String>::new());
    }
    let sample = "```powershell windows\nGet-Disk -Nothing\npnputil /x\n```\n`Get-Nothing -A`\n";
    assert_eq!(
        misfits("a.md", sample),
        [
            "a.md:1: get-disk has no parameter -nothing",
            "a.md:1: get-nothing is not a cmdlet or function known here",
        ]
    );
}

#[test]
fn pages_and_scripts_use_options_of_pnputil_that_the_oldest_windows_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let scripts = fs::read_dir(root.join("tools/windows")).expect("the folder is there");
    let scripts = scripts.map(|entry| entry.expect("an entry can be read").path());
    let pages = ["docs/windows.md", "docs/troubleshooting.md"].map(|page| root.join(page));
    for file in scripts.chain(pages) {
        let text = fs::read_to_string(&file).expect("a file can be read");
        let newer: Vec<_> = text.lines().flat_map(newer_options).collect();
        assert_eq!(newer, [""; 0], "{}", file.display());
    }
    let sample = "run `pnputil /enum-devices /class x` or pnputil.exe -Arguments '/scan-devices'";
    let newer: Vec<_> = newer_options(sample).collect();
    assert_eq!(newer, ["/enum-devices", "/class", "/scan-devices"]);
}

/// The beginning of a correct script, 12 lines.
const HEAD: &str = r"<#
.SYNOPSIS
Tests a rule.
.DESCRIPTION
Breaks no rule by itself.
.EXAMPLE
.\Test-Rule.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param()
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
";

/// A correct module, with a function that asks and one that leaves that to its caller.
const MODULE: &str = r"Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
function Remove-Thing {
    <#
    .SYNOPSIS
    Removes.
    .PARAMETER Path
    What.
    .EXAMPLE
    Remove-Thing -Path x
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([Parameter(Mandatory = $true)] [string] $Path)
    if ($PSCmdlet.ShouldProcess($Path, 'Remove')) { Remove-Item -LiteralPath $Path }
}
function Invoke-Thing {
    <#
    .SYNOPSIS
    Runs.
    .PARAMETER Path
    What.
    .EXAMPLE
    Invoke-Thing -Path x
    #>
    param([Parameter(Mandatory = $true)] [string] $Path)
    & $Path
}
Export-ModuleMember -Function Remove-Thing, Invoke-Thing
";

const IMPORT: &str = "Import-Module -Name (Join-Path $PSScriptRoot 'Thing.psm1')\n";

/// The findings for a script with this body, which may import the module.
fn findings_in(body: &str) -> Vec<String> {
    let text = format!("{HEAD}{body}");
    findings(&[("Test-Rule.ps1", &text), ("Thing.psm1", MODULE)])
}

const ASKING: &str = "if ($PSCmdlet.ShouldProcess('x', 'y')) { Remove-Item -LiteralPath x }\n";

/// Checks that each breach, in an otherwise correct script, has the finding beside it.
fn each_is_found(breaches: &[(&str, &str)]) {
    for (breach, expected) in breaches {
        let found = findings_in(&format!("{ASKING}{breach}\n"));

        assert!(
            found.iter().any(|finding| finding.starts_with(expected)),
            "{breach}: {found:?}"
        );
    }
}

#[test]
fn a_sound_script_has_no_findings() {
    assert_eq!(findings_in(ASKING), Vec::<String>::new());
    assert_eq!(
        findings_in(
            "if (-not $PSCmdlet.ShouldProcess('x', 'y')) { return }\nRemove-Item -LiteralPath x\n"
        ),
        Vec::<String>::new()
    );
    let calls = format!(
        "{IMPORT}Remove-Thing -Path x -WhatIf:$WhatIfPreference\n\
         if ($PSCmdlet.ShouldProcess('x', 'y')) {{ Invoke-Thing -Path x }}\n"
    );
    assert_eq!(findings_in(&calls), Vec::<String>::new());
}

#[test]
fn each_rule_finds_its_breach() {
    let breaches = [
        ("if ($true) {", "parses Test-Rule.ps1:"),
        ("Write-Verbose \"a\u{2013}b\"", "is_ascii Test-Rule.ps1:14:"),
        ("function Do-It { }", "names Test-Rule.ps1:14: Do-It"),
        (
            "function Get-Disks { }",
            "names Test-Rule.ps1:14: Get-Disks",
        ),
        (
            "Remove-Item -LiteralPath x",
            "asks_before_it_changes Test-Rule.ps1:14: Remove-Item",
        ),
        (
            "& C:\\x.exe",
            "asks_before_it_changes Test-Rule.ps1:14: & C:",
        ),
        (
            "if ($PSCmdlet.ShouldProcess('x', 'y')) { } else { Remove-Item -LiteralPath x }",
            "asks_before_it_changes Test-Rule.ps1:14: Remove-Item",
        ),
        (
            "if ($PSCmdlet.ShouldProcess('x', 'y') -or $true) { Remove-Item -LiteralPath x }",
            "asks_before_it_changes Test-Rule.ps1:14: Remove-Item",
        ),
        (
            "if (-not $PSCmdlet.ShouldProcess('x', 'y')) { Write-Verbose 'no' }\nRemove-Item -LiteralPath x",
            "asks_before_it_changes Test-Rule.ps1:15: Remove-Item",
        ),
        (
            "[System.IO.File]::Delete('x')",
            "asks_before_it_changes Test-Rule.ps1:14: [System.IO.File]::Delete",
        ),
        (
            "function Remove-It { 1 }",
            "can_ask Test-Rule.ps1:14: Remove-It changes the system and cannot ask",
        ),
        ("gci", "calls_fit Test-Rule.ps1:14: gci is not a cmdlet"),
        (
            "bcdedit.exe /set testsigning on",
            "calls_fit Test-Rule.ps1:14: bcdedit.exe is not a cmdlet",
        ),
        (
            "Invoke-Expression 'x'",
            "calls_fit Test-Rule.ps1:14: invoke-expression is not a cmdlet",
        ),
        (
            "Write-Host 'x'",
            "calls_fit Test-Rule.ps1:14: write-host is not a cmdlet",
        ),
        (
            "Invoke-WebRequest 'x'",
            "calls_fit Test-Rule.ps1:14: invoke-webrequest is not a cmdlet",
        ),
        (
            "Get-ChildItem -Pth x",
            "calls_fit Test-Rule.ps1:14: get-childitem has no parameter -pth",
        ),
        (
            "Get-SystemCommandOutput -Name pnputil.exe -Arguments '/scan-devices'",
            "reads_by_reading_commands Test-Rule.ps1:14: pnputil.exe /scan-devices",
        ),
        (
            "Write-Verbose \"$('/install')\"",
            "installs_on_one_device Test-Rule.ps1:14: '/install'",
        ),
        (
            "throw 'Run No-Such.ps1 first.'",
            "names_scripts Test-Rule.ps1:14: there is no No-Such.ps1",
        ),
        (
            "throw 'Run: Test-Rule.ps1 -WhatIf -NoSuch'",
            "names_scripts Test-Rule.ps1:14: Test-Rule.ps1 has no parameter -nosuch",
        ),
        (
            "[Ferrostor.DeviceDriver]::Install('x', 'y')",
            "asks_before_it_changes Test-Rule.ps1:14: [Ferrostor.DeviceDriver]::Install",
        ),
        (
            "Write-Verbose $nothing",
            "variables Test-Rule.ps1:14: $nothing is read and never set",
        ),
        (
            "Write-Verbose \"has $nothing\"",
            "variables Test-Rule.ps1:14: $nothing is read and never set",
        ),
        (
            "$unused = 1",
            "variables Test-Rule.ps1:14: $unused is set and never read",
        ),
        (
            "$input = 1",
            "variables Test-Rule.ps1:14: $input is PowerShell's own",
        ),
        (
            "if ($true -eq $null) { }",
            "null_on_the_left Test-Rule.ps1:14:",
        ),
        (
            "$items = Get-ChildItem -Path x\nWrite-Verbose $items.Count",
            "counts_arrays Test-Rule.ps1:15: $items.Count",
        ),
    ];
    each_is_found(&breaches);
}

#[test]
fn each_rule_on_calls_of_modules_finds_its_breach() {
    let breaches = [
        (
            "Invoke-Thing -Path x",
            "imports Test-Rule.ps1:14: invoke-thing is of Thing, which is not imported",
        ),
        (
            IMPORT,
            "imports Test-Rule.ps1:1: Thing is imported and not used",
        ),
        (
            "Invoke-Thing -Path x",
            "asks_before_it_changes Test-Rule.ps1:14: Invoke-Thing",
        ),
        (
            "Remove-Thing -Path x",
            "asks_before_it_changes Test-Rule.ps1:14: Remove-Thing",
        ),
        (
            "Invoke-Thing -Pat x",
            "calls_fit Test-Rule.ps1:14: invoke-thing has no parameter -pat",
        ),
        (
            "Invoke-Thing",
            "calls_fit Test-Rule.ps1:14: invoke-thing lacks -path",
        ),
    ];
    each_is_found(&breaches);
}

#[test]
fn a_script_without_its_head_is_found() {
    let cuts = [
        (
            ".DESCRIPTION\nBreaks no rule by itself.\n",
            "has_help Test-Rule.ps1:1: says nothing under .DESCRIPTION",
        ),
        (
            ".EXAMPLE\n.\\Test-Rule.ps1\n",
            "has_help Test-Rule.ps1:1: says nothing under .EXAMPLE",
        ),
        (
            "Set-StrictMode -Version Latest\n",
            "is_strict Test-Rule.ps1:1:",
        ),
        (
            "$ErrorActionPreference = 'Stop'\n",
            "is_strict Test-Rule.ps1:1:",
        ),
        (
            "SupportsShouldProcess = $true",
            "can_ask Test-Rule.ps1:1: Test-Rule asks, or says that it does, but not both",
        ),
    ];
    for (cut, expected) in cuts {
        let text = format!("{HEAD}{ASKING}");
        assert!(text.contains(cut), "{cut:?} is in the sample");

        let found = findings(&[("Test-Rule.ps1", &text.replace(cut, ""))]);

        assert!(
            found.iter().any(|finding| finding.starts_with(expected)),
            "{cut}: {found:?}"
        );
    }
}

#[test]
fn help_of_other_parameters_than_there_are_is_found() {
    let with = HEAD.replace("param()", "param([string] $Path)") + ASKING + "Write-Verbose $Path\n";
    let found = findings(&[("Test-Rule.ps1", &with)]);
    assert!(
        found
            .iter()
            .any(|finding| finding.ends_with("says nothing under .PARAMETER Path")),
        "{found:?}"
    );

    let without = HEAD.replace(".EXAMPLE", ".PARAMETER Path\nWhat.\n.EXAMPLE") + ASKING;
    let found = findings(&[("Test-Rule.ps1", &without)]);
    assert!(
        found
            .iter()
            .any(|finding| finding.ends_with("has no such parameter: .PARAMETER Path")),
        "{found:?}"
    );
}

#[test]
fn a_module_that_exports_what_it_lacks_is_found() {
    let module = MODULE.replace(
        "Export-ModuleMember -Function",
        "Export-ModuleMember -Function Get-Other,",
    );

    let found = findings(&[("Thing.psm1", &module)]);

    assert!(
        found
            .iter()
            .any(|finding| finding.ends_with("get-other is exported and not there")),
        "{found:?}"
    );
}
