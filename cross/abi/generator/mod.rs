//! Compares bindings with the table. It generates assertions of layouts and values, and
//! conversions of the types of functions and callbacks, which the compiler checks. It compares
//! names itself.

pub mod bindings;
pub mod table;

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Write},
};

use bindings::Bindings;
use table::Table;

/// Exceptions: structures, enums and constants that the headers have and the table lacks, with the
/// reason.
const KNOWN_DIFFERENCES: &[(&[&str], &str)] = &[
    (
        &["_PROCESSOR_NUMBER", "_DMA_WIDTH", "_DMA_SPEED"],
        "in the table only as the type of a field, whose size is checked",
    ),
    (
        &["TRUE", "FALSE"],
        "of C code in general, not of storport.h",
    ),
    (
        &["PASSIVE_LEVEL", "APC_LEVEL", "DISPATCH_LEVEL"],
        "of the kernel's headers, not of storport.h",
    ),
];

/// The headers that the bindings were generated from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// This project's. The table has everything that they declare. They may lack some of it: code
    /// that uses a missing declaration does not compile.
    Ours,
    /// Those of a WDK. They declare far more. What an older WDK lacks is listed.
    Theirs,
}

/// The assertions, and the number of declarations that they cover.
#[derive(Default)]
pub struct Generated {
    pub rust: String,
    pub structs: usize,
    pub fields: usize,
    pub enumerators: usize,
    pub constants: usize,
    pub functions: usize,
    pub callbacks: usize,
    /// The bit-fields in the table, which are not compared, of structures that the headers have.
    pub bit_fields: usize,
    /// The declarations that the table has and the headers of a WDK lack.
    pub absent: Vec<String>,
}

impl Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} structs, {} fields, {} enumerators, {} constants, {} functions, {} callbacks",
            self.structs,
            self.fields,
            self.enumerators,
            self.constants,
            self.functions,
            self.callbacks
        )?;
        if self.bit_fields > 0 {
            write!(f, "; {} bit-fields not compared", self.bit_fields)?;
        }
        if !self.absent.is_empty() {
            write!(f, "; not in these headers: {}", self.absent.join(", "))?;
        }
        Ok(())
    }
}

/// Compares `bindings` with `table`. The error is the names that differ.
pub fn generate(
    bindings: &Bindings,
    table: &Table,
    headers: Headers,
) -> Result<Generated, Vec<String>> {
    let mut comparison = Comparison {
        table,
        bindings,
        headers,
        generated: Generated::default(),
        disagreements: Vec::new(),
    };
    comparison.structs();
    comparison.enums();
    comparison.constants();
    comparison.functions();
    comparison.callbacks();
    if comparison.disagreements.is_empty() {
        Ok(comparison.generated)
    } else {
        Err(comparison.disagreements)
    }
}

struct Comparison<'a> {
    table: &'a Table,
    bindings: &'a Bindings,
    headers: Headers,
    generated: Generated,
    disagreements: Vec<String>,
}

impl Comparison<'_> {
    fn structs(&mut self) {
        for (name, expected) in &self.table.structs {
            if !self.bindings.structs.contains_key(name) {
                self.absent(name);
                continue;
            }
            self.generated.structs += 1;
            self.assert(&format!("size_of::<{name}>()"), expected.size);
            self.assert(&format!("align_of::<{name}>()"), expected.align);
            self.fields(name, expected);
        }
        for name in self.bindings.structs.keys() {
            let is_declared = !name.contains("__bindgen_ty_") && !name.starts_with("__");
            if is_declared && !self.table.structs.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    fn fields(&mut self, structure: &str, expected: &table::Struct) {
        let leaves = self.bindings.leaves(structure);
        for leaf in &leaves {
            let name = format!("{structure}.{}", leaf.name);
            let field = expected.fields.get(&leaf.name);
            let Some((field, size)) = field.and_then(|field| Some((field, field.size?))) else {
                self.unknown(&name);
                continue;
            };
            self.generated.fields += 1;
            let offset_of = format!("offset_of!({structure}, {})", leaf.path);
            self.assert(&offset_of, field.offset);
            self.assert(
                &format!("size_of::<{}>()", leaf.ty),
                usize::try_from(size).unwrap_or(0),
            );
        }
        let names: BTreeSet<&str> = leaves.iter().map(|leaf| leaf.name.as_str()).collect();
        for (name, field) in &expected.fields {
            if field.size.is_none() {
                self.generated.bit_fields += 1;
            } else if !names.contains(name.as_str()) {
                self.absent(&format!("{structure}.{name}"));
            }
        }
    }

    fn enums(&mut self) {
        for (name, expected) in &self.table.enums {
            let Some(enumerators) = self.bindings.enums.get(name) else {
                self.absent(name);
                continue;
            };
            for (enumerator, value) in expected {
                if enumerators.contains(enumerator) {
                    self.generated.enumerators += 1;
                    self.assert(&format!("{name}::{enumerator} as i128"), value);
                } else {
                    self.absent(&format!("{name}::{enumerator}"));
                }
            }
            for enumerator in enumerators {
                if !expected.contains_key(enumerator) {
                    self.unknown(&format!("{name}::{enumerator}"));
                }
            }
        }
        for name in self.bindings.enums.keys() {
            if !self.table.enums.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    fn constants(&mut self) {
        for (name, value) in &self.table.constants {
            if self.bindings.constants.contains(name) {
                self.generated.constants += 1;
                self.assert(&format!("{name} as i128"), value);
            } else {
                self.absent(name);
            }
        }
        for name in &self.bindings.constants {
            if !self.table.constants.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    fn functions(&mut self) {
        for (name, export) in &self.table.exports {
            let is_macro = export.note.is_some();
            if !self.bindings.functions.contains(name) {
                if !is_macro {
                    self.absent(name);
                }
                continue;
            }
            if is_macro && self.headers == Headers::Ours {
                self.disagreements.push(format!(
                    "{name} is declared, but a macro in the real storport.h on x64"
                ));
                continue;
            }
            self.generated.functions += 1;
            let params = export.params.iter().map(|(_, ty)| ty.as_str());
            let variadic = export.variadic.then_some("...");
            let ty = function_type(params.chain(variadic), &export.returns);
            self.assert_type(&ty, name);
        }
        for name in &self.bindings.functions {
            if !self.table.exports.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    fn callbacks(&mut self) {
        for (name, callback) in &self.table.callbacks {
            if !self.bindings.callbacks.contains(name) {
                self.absent(name);
                continue;
            }
            self.generated.callbacks += 1;
            let params = callback.params.iter().map(String::as_str);
            let ty = function_type(params, &callback.returns);
            self.assert_type(name, &format!("None::<{ty}>"));
        }
        for name in &self.bindings.callbacks {
            let is_storports = name.starts_with("HW_") || name.starts_with("STOR_");
            if is_storports && !self.table.callbacks.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    /// Adds an assertion that `value` has the type `ty`.
    fn assert_type(&mut self, ty: &str, value: &str) {
        writeln!(self.generated.rust, "const _: {ty} = {value};")
            .expect("a String can be written to");
    }

    /// Adds an assertion that `expression` is `expected`.
    fn assert(&mut self, expression: &str, expected: impl Display) {
        writeln!(
            self.generated.rust,
            "const _: () = assert!({expression} == {expected}, \"{} is {expected} in {}\");",
            expression.replace('"', "'"),
            self.table.source,
        )
        .expect("a String can be written to");
    }

    /// Records that the table has `name`, and the headers do not.
    fn absent(&mut self, name: &str) {
        if self.headers == Headers::Theirs {
            self.generated.absent.push(name.to_owned());
        }
    }

    /// Records that the headers have `name`, and the table does not.
    fn unknown(&mut self, name: &str) {
        if self.headers == Headers::Ours && !is_known_difference(name) {
            self.disagreements.push(format!(
                "{name} is declared, but the table does not know it"
            ));
        }
    }
}

/// The Rust type of a pointer to a function, as bindgen writes it, from C types.
fn function_type<'a>(params: impl Iterator<Item = &'a str>, returns: &str) -> String {
    let params: Vec<String> = params.map(rust_type).collect();
    let result = match returns {
        "void" | "VOID" => "()".to_owned(),
        ty => rust_type(ty),
    };
    format!("unsafe extern \"C\" fn({}) -> {result}", params.join(", "))
}

/// Translates a C type to Rust: a name, or `struct NAME *`.
fn rust_type(c: &str) -> String {
    let name = c.trim_start_matches("struct ");
    match name.strip_suffix('*') {
        Some(pointee) => format!("*mut {}", pointee.trim_end()),
        None => name.to_owned(),
    }
}

fn is_known_difference(name: &str) -> bool {
    KNOWN_DIFFERENCES
        .iter()
        .any(|(names, _)| names.contains(&name))
}
