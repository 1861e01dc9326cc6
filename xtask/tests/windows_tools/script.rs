//! A parsed script or module, and the findings about it.

use std::collections::BTreeSet;

use tree_sitter::{Node, Parser, Tree};

use crate::tools::Callable;

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) rule: &'static str,
    pub(crate) place: String,
}

/// A parsed file.
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) tree: Tree,
}

impl Script {
    pub(crate) fn parse(name: &str, text: &str) -> Self {
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

    pub(crate) fn text(&self, node: Node<'_>) -> &str {
        &self.text[node.byte_range()]
    }

    pub(crate) fn is_module(&self) -> bool {
        self.name.ends_with(".psm1")
    }

    pub(crate) fn stem(&self) -> &str {
        self.name
            .rsplit_once('.')
            .map_or(self.name.as_str(), |(stem, _)| stem)
    }

    pub(crate) fn finding(&self, rule: &'static str, node: Node<'_>, what: &str) -> Finding {
        let line = node.start_position().row + 1;
        Finding {
            rule,
            place: format!("{}:{line}: {what}", self.name),
        }
    }

    /// All nodes, in the order of the text.
    pub(crate) fn nodes(&self) -> Vec<Node<'_>> {
        descendants(self.tree.root_node())
    }

    pub(crate) fn of_kind(&self, kind: &str) -> Vec<Node<'_>> {
        self.nodes()
            .into_iter()
            .filter(|node| node.kind() == kind)
            .collect()
    }

    /// The nodes of the commands with their names in lower case.
    pub(crate) fn commands(&self) -> Vec<(Node<'_>, String)> {
        self.of_kind("command")
            .into_iter()
            .filter_map(|node| {
                let name = node.child_by_field_name("command_name")?;
                Some((node, self.text(name).to_lowercase()))
            })
            .collect()
    }

    /// The functions: name and node.
    pub(crate) fn functions(&self) -> Vec<(String, Node<'_>)> {
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

    /// The scope of a node: its function, or the whole file.
    pub(crate) fn scope<'a>(&self, node: Node<'a>) -> Node<'a> {
        ancestors(node)
            .into_iter()
            .find(|ancestor| matches!(ancestor.kind(), "function_statement" | "program"))
            .unwrap_or(node)
    }

    /// The `param` block of a scope.
    pub(crate) fn param_block<'a>(&self, scope: Node<'a>) -> Option<Node<'a>> {
        let holder = if scope.kind() == "program" {
            scope
        } else {
            child(scope, "script_block")?
        };
        child(holder, "param_block")
    }

    pub(crate) fn parameters<'a>(&self, scope: Node<'a>) -> Vec<Node<'a>> {
        self.param_block(scope).map_or_else(Vec::new, |block| {
            descendants(block)
                .into_iter()
                .filter(|node| node.kind() == "script_parameter")
                .collect()
        })
    }

    pub(crate) fn parameter_name(&self, parameter: Node<'_>) -> String {
        let variable = child(parameter, "variable").expect("a parameter has a name");
        self.text(variable).trim_start_matches('$').to_owned()
    }

    pub(crate) fn declares_asking(&self, scope: Node<'_>) -> bool {
        self.param_block(scope).is_some_and(|block| {
            child(block, "attribute_list")
                .is_some_and(|list| self.text(list).contains("SupportsShouldProcess = $true"))
        })
    }

    pub(crate) fn callable(&self, scope: Node<'_>) -> Callable {
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
    pub(crate) fn help(&self, scope: Node<'_>) -> Option<&str> {
        let comment = child(scope, "comment")?;
        self.text(comment).strip_prefix("<#")?.strip_suffix("#>")
    }

    /// The modules of `modules` that the file imports.
    pub(crate) fn imports(&self, modules: &BTreeSet<String>) -> BTreeSet<String> {
        let mut imports = BTreeSet::new();
        for (node, name) in self.commands() {
            if name != "import-module" {
                continue;
            }
            // The call names the module's file, or is in a loop over the modules' names.
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

pub(crate) fn child<'a>(node: Node<'a>, kind: &str) -> Option<Node<'a>> {
    let mut cursor = node.walk();
    node.children(&mut cursor)
        .find(|child| child.kind() == kind)
}

pub(crate) fn descendants(node: Node<'_>) -> Vec<Node<'_>> {
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
pub(crate) fn ancestors(node: Node<'_>) -> Vec<Node<'_>> {
    std::iter::successors(node.parent(), |node| node.parent()).collect()
}
