//! The PowerShell scripts in `tools/windows` parse, and obey the rules of a
//! script that an administrator can trust.
//!
//! No PowerShell is needed: a grammar for tree-sitter reads the scripts. The
//! rules are those of PSScriptAnalyzer that matter here, and some that it does
//! not have: nothing changes the system unasked, and calls fit what they call.
//! What the scripts do on Windows, these tests cannot tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use tree_sitter::{Node, Parser};

/// Cmdlets and their parameters, one cmdlet a line.
const DOCUMENTED: &str = include_str!("windows_powershell_5_1.txt");

/// What every cmdlet and every advanced function takes, and what a function
/// that declares `SupportsShouldProcess` takes in addition.
const COMMON_PARAMETERS: &[&str] = &[
    "debug",
    "erroraction",
    "errorvariable",
    "verbose",
    "warningaction",
];
const ASKING_PARAMETERS: &[&str] = &["whatif", "confirm"];

/// Verbs that `Get-Verb` lists, as far as they are used here.
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

/// Verbs whose functions change something and must be able to ask first
/// (PSScriptAnalyzer: PSUseShouldProcessForStateChangingFunctions).
const CHANGING_VERBS: &[&str] = &[
    "New", "Remove", "Reset", "Restart", "Set", "Start", "Stop", "Update",
];

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

/// Members of .NET classes that do.
const CHANGING_MEMBERS: &[&str] = &[
    "[system.io.file]::",
    "[system.io.filestream]::new",
    "::updatedriverforplugandplaydevicesw",
];

/// What may be run by `Get-SystemCommandOutput`, which does not ask.
const READING_COMMANDS: &[&str] = &[
    "pnputil.exe /enum-drivers",
    "bcdedit.exe /enum {current} /v",
    "verifier.exe /querysettings",
];

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

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    rule: &'static str,
    place: String,
}

/// A parsed file.
struct Script {
    name: String,
    text: String,
    tree: tree_sitter::Tree,
}

/// A function of a module, or a script: what a call of it must fit.
#[derive(Debug, Default)]
struct Callable {
    parameters: BTreeSet<String>,
    mandatory: BTreeSet<String>,
    asks: bool,
    changes: bool,
}

impl Script {
    fn parse(name: &str, text: &str) -> Self {
        let mut parser = Parser::new();
        parser
            .set_language(&tree_sitter_pwsh::LANGUAGE.into())
            .expect("the grammar fits the parser");
        let tree = parser.parse(text, None).expect("no time limit is set");
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            tree,
        }
    }

    fn text(&self, node: Node<'_>) -> &str {
        &self.text[node.byte_range()]
    }

    fn is_module(&self) -> bool {
        self.name.ends_with(".psm1")
    }

    fn stem(&self) -> &str {
        self.name
            .rsplit_once('.')
            .map_or(self.name.as_str(), |(stem, _)| stem)
    }

    fn finding(&self, rule: &'static str, node: Node<'_>, what: &str) -> Finding {
        let line = node.start_position().row + 1;
        Finding {
            rule,
            place: format!("{}:{line}: {what}", self.name),
        }
    }

    /// All nodes, in the order of the text.
    fn nodes(&self) -> Vec<Node<'_>> {
        descendants(self.tree.root_node())
    }

    fn of_kind(&self, kind: &str) -> Vec<Node<'_>> {
        self.nodes()
            .into_iter()
            .filter(|node| node.kind() == kind)
            .collect()
    }

    /// The nodes of the commands with their names in lower case.
    fn commands(&self) -> Vec<(Node<'_>, String)> {
        self.of_kind("command")
            .into_iter()
            .filter_map(|node| {
                let name = node.child_by_field_name("command_name")?;
                Some((node, self.text(name).to_lowercase()))
            })
            .collect()
    }

    /// Functions by their names, with the node of each.
    fn functions(&self) -> Vec<(String, Node<'_>)> {
        self.of_kind("function_statement")
            .into_iter()
            .map(|node| {
                (
                    self.text(child(node, "function_name").expect("a function has a name"))
                        .to_owned(),
                    node,
                )
            })
            .collect()
    }

    /// The scope that a node stands in: its function, or the whole file.
    fn scope<'a>(&self, node: Node<'a>) -> Node<'a> {
        ancestors(node)
            .into_iter()
            .find(|ancestor| matches!(ancestor.kind(), "function_statement" | "program"))
            .unwrap_or(node)
    }

    /// The `param` block of a scope.
    fn param_block<'a>(&self, scope: Node<'a>) -> Option<Node<'a>> {
        let holder = if scope.kind() == "program" {
            scope
        } else {
            child(scope, "script_block")?
        };
        child(holder, "param_block")
    }

    fn parameters<'a>(&self, scope: Node<'a>) -> Vec<Node<'a>> {
        self.param_block(scope).map_or_else(Vec::new, |block| {
            descendants(block)
                .into_iter()
                .filter(|node| node.kind() == "script_parameter")
                .collect()
        })
    }

    fn parameter_name(&self, parameter: Node<'_>) -> String {
        let variable = child(parameter, "variable").expect("a parameter has a name");
        self.text(variable).trim_start_matches('$').to_owned()
    }

    fn declares_asking(&self, scope: Node<'_>) -> bool {
        self.param_block(scope).is_some_and(|block| {
            child(block, "attribute_list")
                .is_some_and(|list| self.text(list).contains("SupportsShouldProcess = $true"))
        })
    }

    fn callable(&self, scope: Node<'_>) -> Callable {
        let mut callable = Callable {
            asks: self.declares_asking(scope),
            ..Callable::default()
        };
        for parameter in self.parameters(scope) {
            let name = self.parameter_name(parameter).to_lowercase();
            if self.text(parameter).contains("Mandatory = $true") {
                callable.mandatory.insert(name.clone());
            }
            callable.parameters.insert(name);
        }
        callable
    }

    /// The comment-based help of a scope: the block comment in front of its
    /// `param`.
    fn help(&self, scope: Node<'_>) -> Option<&str> {
        let comment = child(scope, "comment")?;
        self.text(comment).strip_prefix("<#")?.strip_suffix("#>")
    }

    /// The modules that the file imports, of those that are among `modules`.
    fn imports(&self, modules: &BTreeSet<String>) -> BTreeSet<String> {
        let mut imports = BTreeSet::new();
        for (node, name) in self.commands() {
            if name != "import-module" {
                continue;
            }
            // Either the module's file is named in the call, or the call stands
            // in a loop over the modules' names.
            let within = ancestors(node)
                .into_iter()
                .find(|ancestor| ancestor.kind() == "foreach_statement")
                .unwrap_or(node);
            let text = self.text(within);
            imports.extend(
                modules
                    .iter()
                    .filter(|module| {
                        text.contains(&format!("'{module}'"))
                            || text.contains(&format!("'{module}.psm1'"))
                    })
                    .cloned(),
            );
        }
        imports
    }
}

fn child<'a>(node: Node<'a>, kind: &str) -> Option<Node<'a>> {
    let mut cursor = node.walk();
    node.children(&mut cursor)
        .find(|child| child.kind() == kind)
}

fn descendants(node: Node<'_>) -> Vec<Node<'_>> {
    let mut found = Vec::new();
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        found.push(node);
        let mut cursor = node.walk();
        let children: Vec<_> = node.children(&mut cursor).collect();
        open.extend(children.into_iter().rev());
    }
    found
}

/// The nodes around a node, the nearest first.
fn ancestors(node: Node<'_>) -> Vec<Node<'_>> {
    std::iter::successors(node.parent(), |node| node.parent()).collect()
}

/// The scripts and modules, and what they may call.
struct Tools {
    scripts: Vec<Script>,
    functions: BTreeMap<String, Callable>,
    /// Function names by module, all in lower case but the module's name.
    modules: BTreeMap<String, BTreeSet<String>>,
    cmdlets: BTreeMap<String, BTreeSet<String>>,
}

impl Tools {
    fn new(files: &[(&str, &str)]) -> Self {
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
                // The first word keeps its inner hyphen.
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

    /// A function changes the system if anything in it does.
    fn find_changing_functions(&mut self) {
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
    fn changing<'a>(&self, script: &'a Script) -> Vec<Node<'a>> {
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

    fn check(&self) -> BTreeSet<Finding> {
        let mut findings = BTreeSet::new();
        for script in &self.scripts {
            parses(script, &mut findings);
            is_ascii(script, &mut findings);
            is_strict(script, &mut findings);
            names_are_verb_and_noun(script, &mut findings);
            has_help(script, &mut findings);
            asks_before_it_changes(self, script, &mut findings);
            can_ask(self, script, &mut findings);
            calls_fit(self, script, &mut findings);
            imports_what_it_calls(self, script, &mut findings);
            reads_by_reading_commands(script, &mut findings);
            variables_are_set_and_used(script, &mut findings);
            compares_null_on_the_left(script, &mut findings);
        }
        findings
    }
}

/// The programs that `Get-SystemCommandOutput` runs only read, which
/// [`reads_by_reading_commands`] checks. A script block that is a parameter is
/// checked where it is written.
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

fn parses(script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// Windows PowerShell takes a file without a byte order mark for one in the
/// code page of the machine.
fn is_ascii(script: &Script, findings: &mut BTreeSet<Finding>) {
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
fn is_strict(script: &Script, findings: &mut BTreeSet<Finding>) {
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

fn names_are_verb_and_noun(script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// Help of scripts and of the functions of modules: a synopsis, an example, and
/// each parameter; of scripts also a description.
fn has_help(script: &Script, findings: &mut BTreeSet<Finding>) {
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

fn calls_should_process(script: &Script, node: Node<'_>) -> bool {
    descendants(node).into_iter().any(|node| {
        node.kind() == "invocation_expression"
            && script.text(node).starts_with("$PSCmdlet.ShouldProcess(")
    })
}

/// Whether a node is reached only if the user agreed: it stands in the first
/// branch of `if ($PSCmdlet.ShouldProcess(...))`, or behind
/// `if (-not $PSCmdlet.ShouldProcess(...)) { return }`.
fn is_agreed(script: &Script, node: Node<'_>) -> bool {
    let mut inner = node;
    for outer in ancestors(node) {
        if matches!(outer.kind(), "function_statement" | "program")
            && outer != script.tree.root_node()
        {
            // The statements of a function are its own.
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

/// Nothing changes the system before `ShouldProcess` was asked, by the script or
/// by the function that it calls. A function of a module does not inherit
/// `-WhatIf`: a call of one that asks by itself hands it on.
fn asks_before_it_changes(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
    for node in tools.changing(script) {
        let scope = script.scope(node);
        let in_function = scope.kind() == "function_statement";
        if in_function && !script.declares_asking(scope) {
            // It does not ask, so its callers must: they are checked.
            continue;
        }
        let hands_on = script.text(node).contains("-WhatIf:$WhatIfPreference");
        if !is_agreed(script, node) && !hands_on {
            let what = script.text(node).lines().next().unwrap_or("");
            findings.insert(script.finding("asks_before_it_changes", node, what));
        }
    }
}

/// What declares that it asks, asks; and what changes the system declares it.
fn can_ask(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// A command is a documented cmdlet or a function of ours (no alias, no program
/// by its bare name), with parameters that it has, and all that it must have.
fn calls_fit(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
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
                    &format!("{name} is no cmdlet or function known here"),
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
            // A pipeline may bring what is not named.
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

/// The functions that a file calls are its own or of modules that it imports,
/// and it imports no others; a module exports only what it has.
fn imports_what_it_calls(tools: &Tools, script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// `Get-SystemCommandOutput` does not ask: it may run only what reads.
fn reads_by_reading_commands(script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// A variable's name in lower case, without `$`, braces and the scope `script:`;
/// nothing for a variable of a drive, as `$env:SystemRoot`.
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

/// Strict mode ends a script that reads a variable that was never set. And what
/// is set and never read is a slip too, as is setting what PowerShell sets.
fn variables_are_set_and_used(script: &Script, findings: &mut BTreeSet<Finding>) {
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

/// Whether a variable is set where it stands: a parameter, a loop's variable, or
/// the whole left side of an assignment.
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

/// `$list -eq $null` gives the list's empty elements, not an answer
/// (PSScriptAnalyzer: PSPossibleIncorrectComparisonWithNull).
fn compares_null_on_the_left(script: &Script, findings: &mut BTreeSet<Finding>) {
    for node in script.of_kind("comparison_expression") {
        let text = script.text(node).to_lowercase();
        if text.ends_with("-eq $null") || text.ends_with("-ne $null") {
            findings.insert(script.finding("null_on_the_left", node, &text));
        }
    }
}

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

/// What a sound script begins with; its first line of code is line 13.
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

/// A sound module, with a function that asks, one that leaves that to its
/// caller, and one that only reads.
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

/// The findings for a script with that body, which may import the module.
fn findings_in(body: &str) -> Vec<String> {
    let text = format!("{HEAD}{body}");
    findings(&[("Test-Rule.ps1", &text), ("Thing.psm1", MODULE)])
}

const ASKING: &str = "if ($PSCmdlet.ShouldProcess('x', 'y')) { Remove-Item -LiteralPath x }\n";

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
        ("gci", "calls_fit Test-Rule.ps1:14: gci is no cmdlet"),
        (
            "bcdedit.exe /set testsigning on",
            "calls_fit Test-Rule.ps1:14: bcdedit.exe is no cmdlet",
        ),
        (
            "Invoke-Expression 'x'",
            "calls_fit Test-Rule.ps1:14: invoke-expression is no cmdlet",
        ),
        (
            "Write-Host 'x'",
            "calls_fit Test-Rule.ps1:14: write-host is no cmdlet",
        ),
        (
            "Invoke-WebRequest 'x'",
            "calls_fit Test-Rule.ps1:14: invoke-webrequest is no cmdlet",
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
    ];
    for (breach, expected) in breaches {
        let found = findings_in(&format!("{ASKING}{breach}\n"));

        assert!(
            found.iter().any(|finding| finding.starts_with(expected)),
            "{breach}: {found:?}"
        );
    }
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
    for (breach, expected) in breaches {
        let found = findings_in(&format!("{ASKING}{breach}\n"));

        assert!(
            found.iter().any(|finding| finding.starts_with(expected)),
            "{breach}: {found:?}"
        );
    }
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
