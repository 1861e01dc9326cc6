//! The table of the declarations in the real storport.h: `storport-wdk.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Table {
    /// The source of the table.
    pub source: String,
    pub structs: BTreeMap<String, Struct>,
    pub enums: BTreeMap<String, BTreeMap<String, i64>>,
    pub constants: BTreeMap<String, i128>,
    pub exports: BTreeMap<String, Export>,
    /// The callbacks, by the name of the C function type.
    pub callbacks: BTreeMap<String, Callback>,
}

#[derive(Deserialize)]
pub struct Struct {
    pub size: usize,
    pub align: usize,
    /// The fields, by name. A member of a named member is `outer.inner`. A member of an unnamed
    /// member has its own name.
    pub fields: BTreeMap<String, Field>,
}

#[derive(Deserialize)]
pub struct Field {
    pub offset: usize,
    /// 0 or less means an array without a length. A bit-field has none.
    pub size: Option<i64>,
}

#[derive(Deserialize)]
pub struct Export {
    pub returns: String,
    /// The name and the type of each parameter.
    pub params: Vec<(String, String)>,
    pub variadic: bool,
    /// Present if the function is a macro in release builds for x64.
    pub note: Option<String>,
}

#[derive(Deserialize)]
pub struct Callback {
    pub returns: String,
    /// The type of each parameter.
    pub params: Vec<String>,
}
