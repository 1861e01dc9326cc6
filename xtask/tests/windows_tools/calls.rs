//! Rules for calls: the called command exists, and has the given parameters.

use std::collections::BTreeSet;

use crate::{
    script::{Finding, Script, child},
    tools::Tools,
};

/// Parameters that every cmdlet and every advanced function has.
const COMMON_PARAMETERS: &[&str] = &[
    "debug",
    "erroraction",
    "errorvariable",
    "verbose",
    "warningaction",
];

/// Parameters that `SupportsShouldProcess` adds.
const ASKING_PARAMETERS: &[&str] = &["whatif", "confirm"];

/// A command is a documented cmdlet or a function of these files: no alias, and no
/// program by its bare name. It gets parameters that exist, and all mandatory ones.
pub(crate) fn calls_fit(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
    for (node, name) in script.commands() {
        if child(node, "command_invocation_operator").is_some() {
            continue;
        }
        let given: Vec<String> =
            child(node, "command_elements").map_or_else(Vec::new, |elements| {
                let mut cursor = elements.walk();
                elements
                    .children(&mut cursor)
                    .filter(|element| element.kind() == "command_parameter")
                    .map(|element| script.text(element).trim_matches(['-', ':']).to_lowercase())
                    .collect()
            });
        let (known, mandatory): (BTreeSet<&str>, BTreeSet<&str>) =
            if let Some(own) = tools.functions.get(&name) {
                let asking = if own.asks { ASKING_PARAMETERS } else { &[] };
                (
                    own.parameters
                        .iter()
                        .map(String::as_str)
                        .chain(asking.iter().copied())
                        .collect(),
                    own.mandatory.iter().map(String::as_str).collect(),
                )
            } else if let Some(parameters) = tools.cmdlets.get(&name) {
                (
                    parameters.iter().map(String::as_str).collect(),
                    BTreeSet::new(),
                )
            } else {
                findings.insert(script.finding(
                    "calls_fit",
                    node,
                    &format!("{name} is not a cmdlet or function known here"),
                ));
                continue;
            };
        for parameter in &given {
            if !known.contains(parameter.as_str())
                && !COMMON_PARAMETERS.contains(&parameter.as_str())
            {
                findings.insert(script.finding(
                    "calls_fit",
                    node,
                    &format!("{name} has no parameter -{parameter}"),
                ));
            }
        }
        for parameter in mandatory {
            // A pipeline can supply the parameter.
            let by_pipeline = node
                .prev_named_sibling()
                .is_some_and(|before| before.kind() == "command");
            if !given.iter().any(|given| given == parameter) && !by_pipeline {
                findings.insert(script.finding(
                    "calls_fit",
                    node,
                    &format!("{name} lacks -{parameter}"),
                ));
            }
        }
    }
}

/// A script that a message or a help text names exists, and has the parameters that
/// follow its name: people run what they read.
pub(crate) fn names_existing_scripts(
    tools: &Tools,
    script: &Script,
    findings: &mut BTreeSet<Finding>,
) {
    for (index, line) in script.text.lines().enumerate() {
        let mut before = line;
        while let Some((text, after)) = before.rsplit_once(".ps1") {
            before = text;
            let is_other = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
            let name = text.rsplit(is_other).next().unwrap_or_default();
            let named = tools
                .scripts
                .iter()
                .find(|script| !script.is_module() && script.stem() == name);
            // The parameters end with the sentence or the parenthesis.
            let after = after.split(". ").next().unwrap_or_default();
            let after = after.split("),").next().unwrap_or_default();
            let unknown = match named {
                None => Some(format!("there is no {name}.ps1")),
                Some(named) => after
                    .split_whitespace()
                    .filter_map(|word| word.strip_prefix('-'))
                    .filter(|word| word.starts_with(|first: char| first.is_ascii_uppercase()))
                    .map(|word| {
                        word.split(is_other)
                            .next()
                            .unwrap_or_default()
                            .to_lowercase()
                    })
                    .find(|word| {
                        !named
                            .callable(named.tree.root_node())
                            .parameters
                            .contains(word)
                            && !COMMON_PARAMETERS.contains(&word.as_str())
                            && !ASKING_PARAMETERS.contains(&word.as_str())
                    })
                    .map(|word| format!("{name}.ps1 has no parameter -{word}")),
            };
            if let Some(what) = unknown {
                findings.insert(Finding {
                    rule: "names_scripts",
                    place: format!("{}:{}: {what}", script.name, index + 1),
                });
            }
        }
    }
}

/// A file calls its own functions and those of the modules that it imports. It imports
/// no module that it does not use. A module exports only functions that it has.
pub(crate) fn imports_what_it_calls(
    tools: &Tools,
    script: &Script,
    findings: &mut BTreeSet<Finding>,
) {
    let root = script.tree.root_node();
    let own: BTreeSet<_> = script
        .functions()
        .into_iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    let imports = script.imports(&tools.modules.keys().cloned().collect());
    let mut used = BTreeSet::new();
    for (node, name) in script.commands() {
        let Some((module, _)) = tools
            .modules
            .iter()
            .find(|(_, functions)| functions.contains(&name))
        else {
            continue;
        };
        if own.contains(&name) {
            continue;
        }
        if !imports.contains(module) {
            findings.insert(script.finding(
                "imports",
                node,
                &format!("{name} is of {module}, which is not imported"),
            ));
        }
        let exports = tools
            .scripts
            .iter()
            .find(|script| script.is_module() && script.stem() == module)
            .map_or_else(BTreeSet::new, exports);
        if !exports.contains(&name) {
            findings.insert(script.finding(
                "imports",
                node,
                &format!("{module} does not export {name}"),
            ));
        }
        used.insert(module.clone());
    }
    for module in imports.difference(&used) {
        findings.insert(script.finding(
            "imports",
            root,
            &format!("{module} is imported and not used"),
        ));
    }
    if script.is_module() {
        for name in exports(script).difference(&own) {
            findings.insert(script.finding(
                "imports",
                root,
                &format!("{name} is exported and not there"),
            ));
        }
    }
}

/// No script installs the driver on every device that matches: one of them can be the
/// disk that Windows runs from. `pnputil /add-driver` with `/install` and
/// `DiInstallDriver` go by rank, `UpdateDriverForPlugAndPlayDevices` by hardware id.
pub(crate) fn installs_on_one_device(script: &Script, findings: &mut BTreeSet<Finding>) {
    for (index, line) in script.text.lines().enumerate() {
        let all = [
            "'/install'",
            "DiInstallDriver",
            "UpdateDriverForPlugAndPlayDevices",
        ];
        for name in all.into_iter().filter(|name| line.contains(name)) {
            findings.insert(Finding {
                rule: "installs_on_one_device",
                place: format!("{}:{}: {name}", script.name, index + 1),
            });
        }
    }
}

/// The names after `Export-ModuleMember -Function`, in lower case.
fn exports(script: &Script) -> BTreeSet<String> {
    script
        .commands()
        .into_iter()
        .filter(|(_, name)| name == "export-modulemember")
        .flat_map(|(node, _)| {
            let text = script
                .text(node)
                .replace("Export-ModuleMember", "")
                .replace("-Function", "");
            text.split(',')
                .map(|name| name.trim().to_lowercase())
                .collect::<Vec<_>>()
        })
        .collect()
}
