//! Rules for code that changes the system: it asks for confirmation first (ShouldProcess).

use std::collections::BTreeSet;

use tree_sitter::Node;

use crate::{
    script::{Finding, Script, ancestors, child, descendants},
    tools::Tools,
};

/// Verbs of functions that change something and must be able to ask first
/// (PSScriptAnalyzer: PSUseShouldProcessForStateChangingFunctions).
const CHANGING_VERBS: &[&str] = &[
    "New", "Remove", "Reset", "Restart", "Set", "Start", "Stop", "Update",
];

/// The commands that `Get-SystemCommandOutput` may run. It does not ask.
const READING_COMMANDS: &[&str] = &[
    "pnputil.exe /enum-drivers",
    "bcdedit.exe /enum {current} /v",
    "verifier.exe /querysettings",
];

fn calls_should_process(script: &Script, node: Node<'_>) -> bool {
    descendants(node).into_iter().any(|node| {
        node.kind() == "invocation_expression"
            && script.text(node).starts_with("$PSCmdlet.ShouldProcess(")
    })
}

/// Whether a node runs only if the user agreed: it is in the first branch of
/// `if ($PSCmdlet.ShouldProcess(...))`, or comes after
/// `if (-not $PSCmdlet.ShouldProcess(...)) { return }`.
fn is_agreed(script: &Script, node: Node<'_>) -> bool {
    let mut inner = node;
    for outer in ancestors(node) {
        if matches!(outer.kind(), "function_statement" | "program")
            && outer != script.tree.root_node()
        {
            // Where a function is defined says nothing about where it is called.
            return false;
        }
        if outer.kind() == "if_statement"
            && asks_plainly(script, outer)
            && is_first_branch(outer, inner)
        {
            return true;
        }
        if outer.kind() == "statement_list" {
            let mut cursor = outer.walk();
            let refused = outer
                .named_children(&mut cursor)
                .take_while(|sibling| *sibling != inner)
                .any(|sibling| {
                    sibling.kind() == "if_statement" && returns_if_refused(script, sibling)
                });
            if refused {
                return true;
            }
        }
        inner = outer;
    }
    false
}

fn asks_plainly(script: &Script, statement: Node<'_>) -> bool {
    let Some(condition) = child(statement, "pipeline") else {
        return false;
    };
    script
        .text(condition)
        .starts_with("$PSCmdlet.ShouldProcess(")
        && !script.text(condition).contains(" -or ")
}

fn is_first_branch(statement: Node<'_>, inner: Node<'_>) -> bool {
    child(statement, "statement_block") == Some(inner)
}

fn returns_if_refused(script: &Script, statement: Node<'_>) -> bool {
    let condition = child(statement, "pipeline").map_or("", |node| script.text(node));
    let body = child(statement, "statement_block").map_or("", |node| script.text(node));
    condition.starts_with("-not $PSCmdlet.ShouldProcess(")
        && !condition.contains(" -and ")
        && body.split_whitespace().collect::<Vec<_>>() == ["{", "return", "}"]
}

/// The script, or the function that it calls, asks `ShouldProcess` before it changes
/// the system. A function of a module does not inherit `-WhatIf`, so a call of a
/// function that asks passes it on.
pub(crate) fn asks_before_it_changes(
    tools: &Tools,
    script: &Script,
    findings: &mut BTreeSet<Finding>,
) {
    for node in tools.changing(script) {
        let scope = script.scope(node);
        let in_function = scope.kind() == "function_statement";
        if in_function && !script.declares_asking(scope) {
            // This function does not ask. Its callers must, and are checked.
            continue;
        }
        let hands_on = script.text(node).contains("-WhatIf:$WhatIfPreference");
        if !is_agreed(script, node) && !hands_on {
            let what = script.text(node).lines().next().unwrap_or("");
            findings.insert(script.finding("asks_before_it_changes", node, what));
        }
    }
}

/// A script or function that declares `SupportsShouldProcess` asks, and one that
/// changes the system declares it.
pub(crate) fn can_ask(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
    let root = script.tree.root_node();
    let changing = tools.changing(script);
    let mut scopes = vec![(script.stem().to_owned(), root)];
    scopes.extend(script.functions());
    for (name, scope) in scopes {
        let declares = script.declares_asking(scope);
        let asks = descendants(scope).into_iter().any(|node| {
            script.scope(node) == scope
                && node.kind() == "invocation_expression"
                && calls_should_process(script, node)
        });
        if declares != asks {
            findings.insert(script.finding(
                "can_ask",
                scope,
                &format!("{name} asks, or says that it does, but not both"),
            ));
        }
        let verb = name.split('-').next().unwrap_or("");
        let is_script = scope == root && !script.is_module();
        let changes = changing.iter().any(|node| script.scope(*node) == scope);
        let must = (is_script && changes) || (scope != root && CHANGING_VERBS.contains(&verb));
        if must && !declares {
            findings.insert(script.finding(
                "can_ask",
                scope,
                &format!("{name} changes the system and cannot ask"),
            ));
        }
    }
}

/// `Get-SystemCommandOutput` does not ask, so it may run only commands that read.
pub(crate) fn reads_by_reading_commands(script: &Script, findings: &mut BTreeSet<Finding>) {
    for (node, name) in script.commands() {
        if name != "get-systemcommandoutput" {
            continue;
        }
        let words = script
            .text(node)
            .replace("-Name", "")
            .replace("-Arguments", "")
            .replace(['\'', ','], " ");
        let command = words
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ");
        if !READING_COMMANDS.contains(&command.as_str()) {
            findings.insert(script.finding("reads_by_reading_commands", node, &command));
        }
    }
}
