//! Rules for a single file: syntax, strict mode, names and help.

use std::collections::BTreeSet;

use crate::script::{Finding, Script, child};

/// The verbs of `Get-Verb` that the scripts use.
const APPROVED_VERBS: &[&str] = &[
    "Add",
    "Assert",
    "Disable",
    "Enable",
    "Export",
    "Format",
    "Get",
    "Install",
    "Invoke",
    "Measure",
    "New",
    "Read",
    "Remove",
    "Save",
    "Select",
    "Test",
    "Uninstall",
    "Update",
];

pub(crate) fn parses(script: &Script, findings: &mut BTreeSet<Finding>) {
    for node in script.nodes() {
        if node.is_error() || node.is_missing() {
            findings.insert(script.finding(
                "parses",
                node,
                script.text(node).lines().next().unwrap_or(""),
            ));
        }
    }
}

/// Windows PowerShell reads a file without a byte order mark in the code page of the
/// machine.
pub(crate) fn is_ascii(script: &Script, findings: &mut BTreeSet<Finding>) {
    for (index, line) in script.text.lines().enumerate() {
        if !line.is_ascii() {
            findings.insert(Finding {
                rule: "is_ascii",
                place: format!("{}:{}: {line}", script.name, index + 1),
            });
        }
    }
}

/// The first two statements make PowerShell strict: an error ends the script.
pub(crate) fn is_strict(script: &Script, findings: &mut BTreeSet<Finding>) {
    let root = script.tree.root_node();
    let list = child(root, "statement_list");
    let first: Vec<_> = list.map_or_else(Vec::new, |list| {
        let mut cursor = list.walk();
        list.named_children(&mut cursor)
            .filter(|node| node.kind() != "comment")
            .take(2)
            .map(|node| script.text(node))
            .collect()
    });
    if first
        != [
            "Set-StrictMode -Version Latest",
            "$ErrorActionPreference = 'Stop'",
        ]
    {
        findings.insert(script.finding(
            "is_strict",
            root,
            "does not begin with strict mode and stop on errors",
        ));
    }
}

fn verb_and_noun(name: &str) -> bool {
    let Some((verb, noun)) = name.split_once('-') else {
        return false;
    };
    APPROVED_VERBS.contains(&verb)
        && noun.starts_with(|first: char| first.is_ascii_uppercase())
        && noun.chars().all(|letter| letter.is_ascii_alphanumeric())
        && (!noun.ends_with('s') || noun.ends_with("ss"))
}

pub(crate) fn names_are_verb_and_noun(script: &Script, findings: &mut BTreeSet<Finding>) {
    let root = script.tree.root_node();
    if !script.is_module() && !verb_and_noun(script.stem()) {
        findings.insert(script.finding("names", root, script.stem()));
    }
    for (name, node) in script.functions() {
        if !verb_and_noun(&name) {
            findings.insert(script.finding("names", node, &name));
        }
    }
}

/// Scripts and the functions of modules have help: a synopsis, an example and each
/// parameter. Scripts also have a description.
pub(crate) fn has_help(script: &Script, findings: &mut BTreeSet<Finding>) {
    let mut scopes = Vec::new();
    if script.is_module() {
        scopes.extend(script.functions().into_iter().map(|(_, node)| node));
    } else {
        scopes.push(script.tree.root_node());
    }
    for scope in scopes {
        let help = script.help(scope).unwrap_or("");
        let mut sections: Vec<(String, String)> = Vec::new();
        for line in help.lines().map(str::trim) {
            if let Some(keyword) = line
                .strip_prefix('.')
                .filter(|word| word.starts_with(char::is_uppercase))
            {
                sections.push((keyword.to_owned(), String::new()));
            } else if let Some((_, text)) = sections.last_mut() {
                text.push_str(line);
            }
        }
        let mut wanted = vec!["SYNOPSIS".to_owned(), "EXAMPLE".to_owned()];
        if !script.is_module() {
            wanted.push("DESCRIPTION".to_owned());
        }
        for parameter in script.parameters(scope) {
            wanted.push(format!("PARAMETER {}", script.parameter_name(parameter)));
        }
        for keyword in &wanted {
            if !sections
                .iter()
                .any(|(section, text)| section == keyword && !text.is_empty())
            {
                findings.insert(script.finding(
                    "has_help",
                    scope,
                    &format!("says nothing under .{keyword}"),
                ));
            }
        }
        for (section, _) in &sections {
            if section.starts_with("PARAMETER ") && !wanted.contains(section) {
                findings.insert(script.finding(
                    "has_help",
                    scope,
                    &format!("has no such parameter: .{section}"),
                ));
            }
        }
    }
}
