//! Parses the declarations in the bindings that bindgen generated.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::{Fields, ForeignItem, GenericArgument, Item, PathArguments, Type};

#[derive(Default)]
pub struct Bindings {
    pub structs: BTreeMap<String, Vec<Field>>,
    /// The enumerators of every enum.
    pub enums: BTreeMap<String, BTreeSet<String>>,
    /// Constants of an integer type.
    pub constants: BTreeSet<String>,
    pub functions: BTreeSet<String>,
    /// Names of C function types, each of which bindgen makes an optional pointer.
    pub callbacks: BTreeSet<String>,
}

pub struct Field {
    pub name: String,
    /// As Rust.
    pub ty: String,
}

/// A field of the C source, at the path that bindgen gave it.
pub struct Leaf {
    /// Its name in the table.
    pub name: String,
    /// Its path for `offset_of!`.
    pub path: String,
    /// As Rust.
    pub ty: String,
}

impl Bindings {
    /// Adds the declarations of a file of bindings.
    pub fn add(&mut self, rust: &str) -> syn::Result<()> {
        for item in syn::parse_file(rust)?.items {
            match item {
                Item::Struct(item) => self.add_struct(item.ident.to_string(), &item.fields),
                Item::Union(item) => {
                    self.add_struct(item.ident.to_string(), &Fields::Named(item.fields));
                }
                Item::Mod(item) => {
                    let enumerators = item.content.into_iter().flat_map(|(_, items)| items);
                    let enumerators = enumerators.filter_map(|item| match item {
                        Item::Const(item) => Some(item.ident.to_string()),
                        _ => None,
                    });
                    self.enums
                        .insert(item.ident.to_string(), enumerators.collect());
                }
                Item::Const(item) if matches!(*item.ty, Type::Path(_)) && item.ident != "_" => {
                    self.constants.insert(item.ident.to_string());
                }
                Item::ForeignMod(block) => {
                    self.functions
                        .extend(block.items.iter().filter_map(|item| match item {
                            ForeignItem::Fn(function) => Some(function.sig.ident.to_string()),
                            _ => None,
                        }));
                }
                Item::Type(item) if is_function_pointer(&item.ty) => {
                    self.callbacks.insert(item.ident.to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add_struct(&mut self, name: String, fields: &Fields) {
        let fields = fields.iter().filter_map(|field| {
            Some(Field {
                name: field.ident.as_ref()?.to_string(),
                ty: field.ty.to_token_stream().to_string(),
            })
        });
        let fields: Vec<_> = fields.collect();
        // `struct X;` in C has no layout.
        if fields.iter().any(|field| field.name != "_unused") {
            self.structs.insert(name, fields);
        }
    }

    /// The fields of a structure and of its nested structures.
    pub fn leaves(&self, structure: &str) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.collect_leaves(structure, "", "", &mut leaves);
        leaves
    }

    fn collect_leaves(&self, structure: &str, name: &str, path: &str, leaves: &mut Vec<Leaf>) {
        for field in &self.structs[structure] {
            let path = format!("{path}{}", field.name);
            if is_padding(&field.name) {
                continue;
            }
            let is_nested =
                field.ty.contains("__bindgen_ty_") && self.structs.contains_key(&field.ty);
            let is_named = !field.name.starts_with("__bindgen_anon_");
            let full_name = format!("{name}{}", field.name);
            if is_named {
                leaves.push(Leaf {
                    name: full_name.clone(),
                    path: path.clone(),
                    ty: field.ty.clone(),
                });
            }
            if is_nested {
                let name = if is_named {
                    format!("{full_name}.")
                } else {
                    name.to_owned()
                };
                self.collect_leaves(&field.ty, &name, &format!("{path}."), leaves);
            }
        }
    }
}

/// Whether a type is `Option<unsafe extern "C" fn(...)>`.
fn is_function_pointer(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let arguments = path.path.segments.last().map(|last| &last.arguments);
    matches!(arguments, Some(PathArguments::AngleBracketed(types))
        if matches!(types.args.first(), Some(GenericArgument::Type(Type::BareFn(_)))))
}

/// Whether a field is not in the C source: bindgen adds it to place the other fields.
fn is_padding(field: &str) -> bool {
    ["_bindgen_align", "__bindgen_padding_"]
        .iter()
        .any(|prefix| field.starts_with(prefix))
}
