//! The declarations in the bindings that bindgen made.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::{
    Expr, Fields, ForeignItem, GenericArgument, ImplItem, Item, PathArguments, Type, visit::Visit,
};

#[derive(Default)]
pub struct Bindings {
    pub structs: BTreeMap<String, Vec<Field>>,
    /// The enumerators of every enum.
    pub enums: BTreeMap<String, BTreeSet<String>>,
    /// Constants of an integer type.
    pub constants: BTreeSet<String>,
    pub functions: BTreeMap<String, Function>,
    /// Names of C function types, each of which bindgen makes an optional pointer.
    pub callbacks: BTreeSet<String>,
    /// By structure: the bit-fields in each of its units.
    bits: BTreeMap<String, Vec<Bits>>,
}

pub struct Field {
    pub name: String,
    /// As Rust.
    pub ty: String,
}

/// A bit-field. Its accessor has its unit and its position in the unit.
#[derive(Clone)]
pub struct Bits {
    pub name: String,
    pub unit: String,
    pub bit: usize,
    pub bits: u8,
}

pub struct Function {
    pub params: usize,
    pub variadic: bool,
}

/// A field of the C source, at the path that bindgen gave it.
pub struct Leaf {
    /// Its name in the table.
    pub name: String,
    /// Its path for `offset_of!`.
    pub path: String,
    pub kind: LeafKind,
}

pub enum LeafKind {
    Bytes { ty: String },
    Bits { bit: usize, bits: u8 },
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
                Item::ForeignMod(block) => self.add_functions(block.items),
                Item::Type(item) if is_function_pointer(&item.ty) => {
                    self.callbacks.insert(item.ident.to_string());
                }
                Item::Impl(block) if block.trait_.is_none() => {
                    let of = block.self_ty.to_token_stream().to_string();
                    let bits = block.items.iter().filter_map(bit_field);
                    self.bits.entry(of).or_default().extend(bits);
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
        self.structs.insert(name, fields.collect());
    }

    fn add_functions(&mut self, items: Vec<ForeignItem>) {
        for item in items {
            if let ForeignItem::Fn(function) = item {
                self.functions.insert(
                    function.sig.ident.to_string(),
                    Function {
                        params: function.sig.inputs.len(),
                        variadic: function.sig.variadic.is_some(),
                    },
                );
            }
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
            if field.name.starts_with("_bitfield_") {
                let all = self.bits.get(structure).into_iter().flatten();
                leaves.extend(all.filter(|bits| bits.unit == field.name).map(|bits| Leaf {
                    name: format!("{name}{}", bits.name),
                    path: path.clone(),
                    kind: LeafKind::Bits {
                        bit: bits.bit,
                        bits: bits.bits,
                    },
                }));
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
                    kind: LeafKind::Bytes {
                        ty: field.ty.clone(),
                    },
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
    ["_bitfield_align_", "_bindgen_align", "__bindgen_padding_"]
        .iter()
        .any(|prefix| field.starts_with(prefix))
}

/// The bit-field that a method reads, if the method is a getter of a bit-field:
/// `self._bitfield_1.get_const::<BIT, BITS>()`.
fn bit_field(item: &ImplItem) -> Option<Bits> {
    struct Getter(Option<(String, usize, u8)>);
    impl<'ast> Visit<'ast> for Getter {
        fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
            if let (true, Expr::Field(unit), Some(generics)) =
                (call.method == "get_const", &*call.receiver, &call.turbofish)
            {
                let mut numbers = generics.args.iter().filter_map(|argument| match argument {
                    GenericArgument::Const(Expr::Lit(literal)) => match &literal.lit {
                        syn::Lit::Int(number) => number.base10_parse::<usize>().ok(),
                        _ => None,
                    },
                    _ => None,
                });
                if let (Some(bit), Some(bits)) = (numbers.next(), numbers.next()) {
                    let unit = unit.member.to_token_stream().to_string();
                    self.0 = u8::try_from(bits).ok().map(|bits| (unit, bit, bits));
                }
            }
            syn::visit::visit_expr_method_call(self, call);
        }
    }

    let ImplItem::Fn(method) = item else {
        return None;
    };
    let mut getter = Getter(None);
    getter.visit_impl_item_fn(method);
    let (unit, bit, bits) = getter.0?;
    Some(Bits {
        name: method.sig.ident.to_string(),
        unit,
        bit,
        bits,
    })
}
