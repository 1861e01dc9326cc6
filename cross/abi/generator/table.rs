//! The table of what the real storport.h says.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Table {
    /// What the table was read from.
    pub source: String,
    pub structs: BTreeMap<String, Struct>,
    pub enums: BTreeMap<String, BTreeMap<String, i64>>,
    pub constants: BTreeMap<String, i128>,
    pub exports: BTreeMap<String, Export>,
    /// By the name of the C function type.
    pub callbacks: BTreeMap<String, Callback>,
}

#[derive(Deserialize)]
pub struct Struct {
    pub size: usize,
    pub align: usize,
    /// By name; a member of a named member is `outer.inner`, one of an unnamed
    /// member stands under its own name.
    pub fields: BTreeMap<String, Field>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Field {
    /// `bit` counts from the lowest bit of the byte at `offset`.
    Bits { offset: usize, bit: usize, bits: u8 },
    /// A size of 0 or less is that of an array without a length.
    Bytes { offset: usize, size: i64 },
}

#[derive(Deserialize)]
pub struct Export {
    pub returns: String,
    /// Name and type of each.
    pub params: Vec<(String, String)>,
    pub variadic: bool,
    /// There if the function is a macro on x64 release builds.
    pub note: Option<String>,
}

#[derive(Deserialize)]
pub struct Callback {
    pub returns: String,
    /// The type of each.
    pub params: Vec<String>,
}

impl Table {
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}
