//! Compares bindings with the table. It generates assertions of layouts and values, and
//! conversions of the types of functions and callbacks, which the compiler checks. It compares
//! names itself.

pub mod bindings;
pub mod table;

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Write},
};

use bindings::{Bindings, LeafKind};
use table::{Field, Table};

/// Exceptions: declarations that headers may have although the table lacks them, or lack although
/// the table has them. Each is a structure, enum, constant or `structure.field`, with a reason.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[
    (
        "_PROCESSOR_NUMBER",
        "in the table only as the type of a field, whose size is checked",
    ),
    (
        "_DMA_WIDTH",
        "in the table only as the type of a field, whose size is checked",
    ),
    (
        "_DMA_SPEED",
        "in the table only as the type of a field, whose size is checked",
    ),
    (
        "_PCI_COMMON_HEADER.u.type0.",
        "the table goes no deeper than u.type0, whose size is checked; the PCI specification fixes the rest",
    ),
    (
        "_PCI_COMMON_HEADER.u.type1",
        "for bridges; not declared, and as large as type0",
    ),
    (
        "_PCI_COMMON_HEADER.u.type2",
        "for bridges; not declared, and as large as type0",
    ),
    ("TRUE", "of C code in general, not of storport.h"),
    ("FALSE", "of C code in general, not of storport.h"),
    (
        "PASSIVE_LEVEL",
        "of the kernel's headers, not of storport.h",
    ),
    ("APC_LEVEL", "of the kernel's headers, not of storport.h"),
    (
        "DISPATCH_LEVEL",
        "of the kernel's headers, not of storport.h",
    ),
];

/// The headers that the bindings were made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// This project's. They declare exactly what the table has.
    Ours,
    /// Those of a WDK. They declare far more, and those of an older WDK lack some declarations.
    Theirs,
}

/// The processor that the bindings are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    X64,
    Arm64,
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
    /// The declarations that the table has and these headers lack.
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
        if !self.absent.is_empty() {
            write!(f, "; not in these headers: {}", self.absent.join(", "))?;
        }
        Ok(())
    }
}

/// The differences between headers and table that are not in a layout or a value.
#[derive(Debug)]
pub struct Disagreements(pub Vec<String>);

impl std::error::Error for Disagreements {}

impl Display for Disagreements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

/// Compares `bindings` with `table`.
pub fn generate(
    bindings: &Bindings,
    table: &Table,
    headers: Headers,
    processor: Processor,
) -> Result<Generated, Disagreements> {
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
    comparison.functions(processor);
    comparison.callbacks();
    if comparison.disagreements.is_empty() {
        Ok(comparison.generated)
    } else {
        Err(Disagreements(comparison.disagreements))
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
        for (name, fields) in &self.bindings.structs {
            let is_declared = !name.contains("__bindgen_ty_") && !name.starts_with("__");
            // struct X; has no layout to check.
            let is_opaque = fields.iter().all(|field| field.name == "_unused");
            if is_declared && !is_opaque && !self.table.structs.contains_key(name) {
                self.unknown(name);
            }
        }
    }

    fn fields(&mut self, structure: &str, expected: &table::Struct) {
        let leaves = self.bindings.leaves(structure);
        for leaf in &leaves {
            let name = format!("{structure}.{}", leaf.name);
            let Some(field) = expected.fields.get(&leaf.name) else {
                self.unknown(&name);
                continue;
            };
            self.generated.fields += 1;
            let offset_of = format!("offset_of!({structure}, {})", leaf.path);
            match (&leaf.kind, field) {
                (LeafKind::Bytes { ty }, &Field::Bytes { offset, size }) => {
                    self.assert(&offset_of, offset);
                    self.assert(
                        &format!("size_of::<{ty}>()"),
                        usize::try_from(size).unwrap_or(0),
                    );
                }
                (
                    LeafKind::Bits { bit, bits },
                    &Field::Bits {
                        offset,
                        bit: expected_bit,
                        bits: expected_bits,
                    },
                ) => {
                    self.assert(
                        &format!("{offset_of} * 8 + {bit}"),
                        offset * 8 + expected_bit,
                    );
                    if *bits != expected_bits {
                        self.disagreements
                            .push(format!("{name} has {bits} bits instead of {expected_bits}"));
                    }
                }
                _ => self
                    .disagreements
                    .push(format!("{name}: a bit-field on one side only")),
            }
        }
        let names: BTreeSet<&str> = leaves.iter().map(|leaf| leaf.name.as_str()).collect();
        for field in expected.fields.keys() {
            if !names.contains(field.as_str()) {
                self.absent(&format!("{structure}.{field}"));
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

    fn functions(&mut self, processor: Processor) {
        for (name, export) in &self.table.exports {
            let is_macro = processor == Processor::X64 && export.note.is_some();
            match self.bindings.functions.get(name) {
                None if is_macro => {}
                None => self.absent(name),
                Some(_) if is_macro => self.disagreements.push(format!(
                    "{name} is declared, but a macro in the real storport.h on x64"
                )),
                Some(function) => {
                    self.generated.functions += 1;
                    let expected = (export.params.len(), export.variadic);
                    if (function.params, function.variadic) != expected {
                        self.disagreements.push(format!(
                            "{name}: (parameters, variadic) are {:?} instead of {expected:?}",
                            (function.params, function.variadic),
                        ));
                        continue;
                    }
                    let params = export.params.iter().map(|(_, ty)| ty.as_str());
                    let variadic = export.variadic.then_some("...");
                    let ty = function_type(params.chain(variadic), &export.returns);
                    self.assert_type(&ty, name);
                }
            }
        }
        for name in self.bindings.functions.keys() {
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
        if is_known_difference(name) {
            return;
        }
        match self.headers {
            Headers::Ours => self
                .disagreements
                .push(format!("{name} is in the table, but not in the headers")),
            Headers::Theirs => self.generated.absent.push(name.to_owned()),
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
    KNOWN_DIFFERENCES.iter().any(|(known, _)| {
        if known.ends_with('.') {
            name.starts_with(known)
        } else {
            name == *known
        }
    })
}
