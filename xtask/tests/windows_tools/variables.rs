//! Rules for variables: code that breaks one fails in strict mode.

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::Node;

use crate::script::{Finding, Script, ancestors};

/// Variables that PowerShell sets.
const AUTOMATIC: &[&str] = &[
    "_",
    "false",
    "lastexitcode",
    "null",
    "pscmdlet",
    "psscriptroot",
    "psversiontable",
    "true",
    "whatifpreference",
    "erroractionpreference",
];

/// Automatic variables that an assignment would break.
const RESERVED: &[&str] = &[
    "_",
    "args",
    "error",
    "event",
    "foreach",
    "home",
    "host",
    "input",
    "lastexitcode",
    "matches",
    "myinvocation",
    "pid",
    "profile",
    "pscmdlet",
    "psitem",
    "pwd",
    "sender",
    "stacktrace",
    "switch",
    "this",
];

/// A variable's name in lower case, without `$`, braces and the scope `script:`.
/// `None` for a variable of a drive, such as `$env:SystemRoot`.
fn variable_name(text: &str) -> Option<String> {
    let name = text
        .trim_start_matches(['$', '@'])
        .trim_matches(['{', '}'])
        .to_lowercase();
    let name = name
        .strip_prefix("script:")
        .map_or(name.clone(), str::to_owned);
    (!name.contains(':')).then_some(name)
}

/// Strict mode ends a script that reads a variable that was never set. A variable that
/// is set and never read is a mistake too, and so is setting one of PowerShell's own.
pub(crate) fn variables_are_set_and_used(script: &Script, findings: &mut BTreeSet<Finding>) {
    let root = script.tree.root_node();
    let mut set: BTreeMap<String, Vec<Node<'_>>> = BTreeMap::new();
    let mut read: Vec<(String, Node<'_>)> = Vec::new();
    for node in script.of_kind("variable") {
        let Some(name) = variable_name(script.text(node)) else {
            continue;
        };
        if is_set_here(node) {
            set.entry(name).or_default().push(node);
        } else {
            read.push((name, node));
        }
    }
    for (name, node) in &read {
        let scope = script.scope(*node);
        let reaches = set.get(name).is_some_and(|places| {
            places
                .iter()
                .any(|place| [scope, root].contains(&script.scope(*place)))
        });
        if !reaches && !AUTOMATIC.contains(&name.as_str()) {
            findings.insert(script.finding(
                "variables",
                *node,
                &format!("${name} is read and never set"),
            ));
        }
    }
    for (name, places) in &set {
        for place in places {
            if RESERVED.contains(&name.as_str()) {
                findings.insert(script.finding(
                    "variables",
                    *place,
                    &format!("${name} is PowerShell's own"),
                ));
            }
        }
        let is_read = read.iter().any(|(other, _)| other == name);
        if !is_read && !AUTOMATIC.contains(&name.as_str()) {
            findings.insert(script.finding(
                "variables",
                places[0],
                &format!("${name} is set and never read"),
            ));
        }
    }
}

/// Whether a variable is set at this place: a parameter, a loop's variable, or the
/// whole left side of an assignment.
fn is_set_here(node: Node<'_>) -> bool {
    let Some(parent) = node.parent() else {
        return false;
    };
    match parent.kind() {
        "script_parameter" | "foreach_statement" => true,
        _ => {
            let plain = ancestors(node)
                .into_iter()
                .take_while(|outer| outer.byte_range() == node.byte_range());
            plain
                .last()
                .is_some_and(|outer| outer.kind() == "left_assignment_expression")
                || is_typed_target(node)
        }
    }
}

/// `[string[]] $name = ...`
fn is_typed_target(node: Node<'_>) -> bool {
    let around = ancestors(node);
    let Some(target) = around
        .iter()
        .find(|outer| outer.kind() == "left_assignment_expression")
    else {
        return false;
    };
    target.end_byte() == node.end_byte()
        && around
            .iter()
            .take_while(|outer| *outer != target)
            .all(|outer| {
                matches!(
                    outer.kind(),
                    "unary_expression" | "cast_expression" | "expression_with_unary_operator"
                )
            })
}

/// `$list -eq $null` returns the list's null elements, and not a Boolean
/// (PSScriptAnalyzer: PSPossibleIncorrectComparisonWithNull).
pub(crate) fn compares_null_on_the_left(script: &Script, findings: &mut BTreeSet<Finding>) {
    for node in script.of_kind("comparison_expression") {
        let text = script.text(node).to_lowercase();
        if text.ends_with("-eq $null") || text.ends_with("-ne $null") {
            findings.insert(script.finding("null_on_the_left", node, &text));
        }
    }
}

/// In strict mode a single object has no `Count`. So only arrays are counted: `@(...)`,
/// a variable with an array type, or a list.
pub(crate) fn counts_arrays(script: &Script, findings: &mut BTreeSet<Finding>) {
    for node in script.of_kind("member_access") {
        let Some(counted) = script.text(node).strip_suffix(".Count") else {
            continue;
        };
        let is_array = if counted.starts_with('$') {
            let name = variable_name(counted).unwrap_or_default();
            let places: Vec<_> = script
                .of_kind("variable")
                .into_iter()
                .filter(|place| {
                    is_set_here(*place)
                        && variable_name(script.text(*place)).as_ref() == Some(&name)
                })
                .filter(|place| script.scope(*place) == script.scope(node))
                .collect();
            !places.is_empty()
                && places
                    .into_iter()
                    .all(|place| is_set_to_array(script, place))
        } else {
            counted.starts_with("@(")
        };
        if !is_array {
            findings.insert(script.finding("counts_arrays", node, script.text(node)));
        }
    }
}

fn is_set_to_array(script: &Script, place: Node<'_>) -> bool {
    let around = ancestors(place);
    let whole = around.iter().find(|outer| {
        matches!(
            outer.kind(),
            "assignment_expression" | "script_parameter" | "foreach_statement"
        )
    });
    let Some(whole) = whole else { return false };
    let text = script.text(*whole);
    let (target, value) = text
        .split_once('=')
        .map_or((text, ""), |(target, value)| (target, value.trim_start()));
    target.contains("[]]")
        || value.starts_with("@(")
        || value.starts_with("[System.Collections.Generic.List[")
}
