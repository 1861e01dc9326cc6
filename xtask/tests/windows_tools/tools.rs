//! The set of all scripts and modules: which functions they may call, and which of those change
//! the system.

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::Node;

use crate::{
    asking, calls, form,
    script::{Finding, Script, child},
    variables,
};

/// Cmdlets and their parameters, one cmdlet per line.
const DOCUMENTED: &str = include_str!("windows_powershell_5_1.txt");

/// Cmdlets that change the system or write files.
const CHANGING_CMDLETS: &[&str] = &[
    "compress-archive",
    "export-csv",
    "import-certificate",
    "new-item",
    "out-file",
    "remove-item",
    "remove-itemproperty",
    "set-itemproperty",
];

/// Members of .NET classes that change the system or write files.
const CHANGING_MEMBERS: &[&str] = &[
    "[system.io.file]::",
    "[system.io.filestream]::new",
    "[ferrostor.devicedriver]::",
];

/// A function or a script that can be called.
#[derive(Debug, Default)]
pub(crate) struct Callable {
    pub(crate) parameters: BTreeSet<String>,
    pub(crate) mandatory: BTreeSet<String>,
    pub(crate) asks: bool,
    pub(crate) changes: bool,
}

/// The scripts and modules, and what they may call.
pub(crate) struct Tools {
    pub(crate) scripts: Vec<Script>,
    pub(crate) functions: BTreeMap<String, Callable>,
    /// Function names in lower case, by the module's name.
    pub(crate) modules: BTreeMap<String, BTreeSet<String>>,
    pub(crate) cmdlets: BTreeMap<String, BTreeSet<String>>,
}

impl Tools {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let scripts: Vec<_> = files
            .iter()
            .map(|(name, text)| Script::parse(name, text))
            .collect();
        let cmdlets = DOCUMENTED
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let mut words = line
                    .split_whitespace()
                    .map(|word| word.trim_start_matches('-').to_lowercase());
                // The first word is the cmdlet, which has a hyphen inside.
                (words.next().unwrap_or_default(), words.collect())
            })
            .collect();
        let mut functions = BTreeMap::new();
        let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for script in &scripts {
            for (name, node) in script.functions() {
                functions.insert(name.to_lowercase(), script.callable(node));
                if script.is_module() {
                    modules
                        .entry(script.stem().to_owned())
                        .or_default()
                        .insert(name.to_lowercase());
                }
            }
        }
        let mut tools = Self {
            scripts,
            functions,
            modules,
            cmdlets,
        };
        tools.find_changing_functions();
        tools
    }

    /// Marks the functions that change the system, directly or through a function.
    pub(crate) fn find_changing_functions(&mut self) {
        loop {
            let mut found = Vec::new();
            for script in &self.scripts {
                let changing = self.changing(script);
                for (name, function) in script.functions() {
                    let name = name.to_lowercase();
                    let known = self.functions.get(&name).is_some_and(|own| own.changes);
                    if !known && changing.iter().any(|node| script.scope(*node) == function) {
                        found.push(name);
                    }
                }
            }
            if found.is_empty() {
                return;
            }
            for name in found {
                self.functions.entry(name).or_default().changes = true;
            }
        }
    }

    /// The nodes of a file that change the system.
    pub(crate) fn changing<'a>(&self, script: &'a Script) -> Vec<Node<'a>> {
        let mut found = Vec::new();
        for node in script.of_kind("command") {
            let called_by_value = child(node, "command_invocation_operator").is_some();
            let name = node
                .child_by_field_name("command_name")
                .map(|name| script.text(name).to_lowercase());
            let name = name.unwrap_or_default();
            let changes = CHANGING_CMDLETS.contains(&name.as_str())
                || self
                    .functions
                    .get(&name)
                    .is_some_and(|callable| callable.changes)
                || (called_by_value && !reads_only(script, node));
            if changes {
                found.push(node);
            }
        }
        for node in script.of_kind("invocation_expression") {
            let text = script.text(node).to_lowercase();
            if CHANGING_MEMBERS.iter().any(|member| text.contains(member)) {
                found.push(node);
            }
        }
        found
    }

    pub(crate) fn check(&self) -> BTreeSet<Finding> {
        let mut findings = BTreeSet::new();
        for script in &self.scripts {
            form::parses(script, &mut findings);
            form::is_ascii(script, &mut findings);
            form::is_strict(script, &mut findings);
            form::names_are_verb_and_noun(script, &mut findings);
            form::has_help(script, &mut findings);
            asking::asks_before_it_changes(self, script, &mut findings);
            asking::can_ask(self, script, &mut findings);
            calls::calls_fit(self, script, &mut findings);
            calls::imports_what_it_calls(self, script, &mut findings);
            calls::names_existing_scripts(self, script, &mut findings);
            calls::installs_on_one_device(script, &mut findings);
            asking::reads_by_reading_commands(script, &mut findings);
            variables::variables_are_set_and_used(script, &mut findings);
            variables::compares_null_on_the_left(script, &mut findings);
            variables::counts_arrays(script, &mut findings);
        }
        findings
    }
}

/// Whether a call by value only reads. [`asking::reads_by_reading_commands`] checks the
/// programs that `Get-SystemCommandOutput` runs. A script block that is a parameter is
/// checked at the place where it is written.
fn reads_only(script: &Script, call: Node<'_>) -> bool {
    let scope = script.scope(call);
    let name = child(scope, "function_name").map_or("", |name| script.text(name));
    let target = call
        .child_by_field_name("command_name")
        .map_or("", |name| script.text(name));
    let block = script.parameters(scope).into_iter().any(|parameter| {
        script.text(parameter).contains("[scriptblock]")
            && format!("${}", script.parameter_name(parameter)) == target
    });
    block || name == "Get-SystemCommandOutput"
}
