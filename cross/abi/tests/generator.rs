//! Shows that the check can fail: runs the generator on small bindings and tables, and the
//! compiler on its assertions.

#[path = "../generator/mod.rs"]
mod generator;

use std::{fs, process::Command};

use generator::{Generated, Headers, bindings::Bindings, table::Table};

/// A structure as bindgen writes it, with a nested one, an enum, a constant, two functions and a
/// callback.
const BINDINGS: &str = r#"
    pub type ULONG = u32;
    pub type ULONGLONG = u64;
    pub type PVOID = *mut u8;
    #[repr(C)]
    pub struct _SAMPLE {
        pub First: u8,
        pub __bindgen_anon_1: _SAMPLE__bindgen_ty_1,
        pub Last: u32,
    }
    #[repr(C)]
    pub union _SAMPLE__bindgen_ty_1 { pub Small: ULONG, pub Large: u64 }
    pub mod _COLOUR { pub type Type = i32; pub const Red: Type = -1; }
    pub const LIMIT: u32 = 7;
    pub type HW_CALLBACK = ::core::option::Option<unsafe extern "C" fn(PVOID, ULONG) -> u8>;
    pub type PHW_CALLBACK = HW_CALLBACK;
    unsafe extern "C" { pub fn Call(context: PVOID, ...); }
    unsafe extern "C" { pub fn Measure(length: *mut ULONG) -> *mut _SAMPLE; }
"#;

const TABLE: &str = r#"{
    "source": "a sample",
    "structs": { "_SAMPLE": { "size": 24, "align": 8, "fields": {
        "First": { "offset": 0, "size": 1 },
        "Small": { "offset": 8, "size": 4 },
        "Large": { "offset": 8, "size": 8 },
        "Last": { "offset": 16, "size": 4 } } } },
    "enums": { "_COLOUR": { "Red": -1 } },
    "constants": { "LIMIT": 7 },
    "exports": {
        "Call": { "returns": "void", "params": [["Context", "PVOID"]], "variadic": true },
        "Measure": { "returns": "struct _SAMPLE *", "params": [["Length", "ULONG *"]],
            "variadic": false } },
    "callbacks": { "HW_CALLBACK": { "returns": "u8", "params": ["PVOID", "ULONG"] } }
}"#;

fn generate(bindings: &str, table: &str) -> Result<Generated, String> {
    generate_for(bindings, table, Headers::Ours)
}

fn generate_for(bindings: &str, table: &str, headers: Headers) -> Result<Generated, String> {
    let mut read = Bindings::default();
    read.add(bindings).expect("the sample is Rust");
    let table: Table = serde_json::from_str(table).expect("the sample is a table");
    generator::generate(&read, &table, headers).map_err(|disagreements| disagreements.join("\n"))
}

/// The errors of rustc for the assertions generated from `BINDINGS` and `table`.
fn compile(table: &str) -> String {
    let generated = generate(BINDINGS, table).expect("names agree");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("assertions.rs");
    let rust = format!(
        "#![allow(warnings)] use std::mem::{{align_of, offset_of, size_of}}; {BINDINGS} {}",
        generated.rust
    );
    fs::write(&source, rust).expect("a file in it");

    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
        .arg("--out-dir")
        .arg(folder.path())
        .arg(&source)
        .output()
        .expect("rustc is there: it has compiled this test");

    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), errors.is_empty(), "{errors}");
    errors
}

#[test]
fn agreeing_headers_and_table_compile_and_are_counted() {
    let generated = generate(BINDINGS, TABLE).expect("names agree");

    assert_eq!(
        generated.to_string(),
        "1 structs, 4 fields, 1 enumerators, 1 constants, 2 functions, 1 callbacks"
    );
    assert_eq!(compile(TABLE), "");
}

#[test]
fn each_wrong_number_stops_the_compiler_at_its_name() {
    for (right, wrong, named) in [
        (r#""size": 24"#, r#""size": 32"#, "size_of::<_SAMPLE>()"),
        (r#""align": 8"#, r#""align": 4"#, "align_of::<_SAMPLE>()"),
        (
            r#""Small": { "offset": 8"#,
            r#""Small": { "offset": 12"#,
            "offset_of!(_SAMPLE, __bindgen_anon_1.Small)",
        ),
        (
            r#""Large": { "offset": 8, "size": 8"#,
            r#""Large": { "offset": 8, "size": 4"#,
            "size_of::<u64>()",
        ),
        (r#""Red": -1"#, r#""Red": 1"#, "_COLOUR::Red"),
        (r#""LIMIT": 7"#, r#""LIMIT": 8"#, "LIMIT"),
    ] {
        let table = TABLE.replacen(right, wrong, 1);
        assert_ne!(table, TABLE, "{right} is in the table");

        let errors = compile(&table);

        assert!(errors.contains(named), "{wrong}: {errors}");
        assert!(errors.contains("evaluation panicked"), "{wrong}: {errors}");
    }
}

#[test]
fn each_wrong_type_of_a_function_or_callback_stops_the_compiler() {
    for (right, wrong, named) in [
        (r#""variadic": true"#, r#""variadic": false"#, "Call"),
        (
            r#"[["Context", "PVOID"]]"#,
            r#"[["Context", "PVOID"], ["Length", "ULONG"]]"#,
            "Call",
        ),
        ("ULONG *", "ULONGLONG *", "Measure"),
        ("struct _SAMPLE *", "PVOID", "Measure"),
        (r#""returns": "void""#, r#""returns": "ULONG""#, "Call"),
        (
            r#"["PVOID", "ULONG"]"#,
            r#"["PVOID", "PVOID"]"#,
            "HW_CALLBACK",
        ),
        (r#"["PVOID", "ULONG"]"#, r#"["PVOID"]"#, "HW_CALLBACK"),
        (r#""returns": "u8""#, r#""returns": "void""#, "HW_CALLBACK"),
    ] {
        let table = TABLE.replacen(right, wrong, 1);
        assert_ne!(table, TABLE, "{right} is in the table");

        let errors = compile(&table);

        assert!(errors.contains("mismatched types"), "{wrong}: {errors}");
        assert!(errors.contains(named), "{wrong}: {errors}");
    }
}

#[test]
fn a_declaration_that_the_table_does_not_know_is_named() {
    for (declaration, named) in [
        ("pub struct _EXTRA { pub Field: u8 }", "_EXTRA"),
        ("pub mod _EXTRA { pub const Value: i32 = 0; }", "_EXTRA"),
        ("pub const EXTRA: u32 = 0;", "EXTRA"),
        (r#"unsafe extern "C" { pub fn Extra(); }"#, "Extra"),
        (
            r#"pub type HW_EXTRA = Option<unsafe extern "C" fn()>;"#,
            "HW_EXTRA",
        ),
    ] {
        let disagreement = generate(&format!("{BINDINGS} {declaration}"), TABLE)
            .err()
            .expect("it is not in the table");

        assert_eq!(
            disagreement,
            format!("{named} is declared, but the table does not know it")
        );
    }
}

#[test]
fn a_field_that_the_table_does_not_know_is_named() {
    let bindings = BINDINGS.replacen("pub First: u8,", "pub First: u8, pub Second: u8,", 1);

    let disagreement = generate(&bindings, TABLE).err();

    assert_eq!(
        disagreement.as_deref(),
        Some("_SAMPLE.Second is declared, but the table does not know it")
    );
}

#[test]
fn the_bit_fields_of_a_kit_are_counted_as_not_compared_and_ours_are_refused() {
    let bindings = format!("{BINDINGS} pub struct _BITS {{ pub _bitfield_1: u8 }}");
    let bits = r#""structs": { "_BITS": { "size": 1, "align": 1, "fields": {
        "Low": { "offset": 0, "bit": 0, "bits": 1 },
        "High": { "offset": 0, "bit": 1, "bits": 7 } } },"#;
    let table = TABLE.replacen(r#""structs": {"#, bits, 1);

    let a_kits = generate_for(&bindings, &table, Headers::Theirs).expect("names agree");
    let ours = generate(&bindings, &table).err();

    assert!(a_kits.absent.is_empty());
    let report = a_kits.to_string();
    assert!(report.ends_with("; 2 bit-fields not compared"), "{report}");
    assert_eq!(
        ours.as_deref(),
        Some("_BITS._bitfield_1 is declared, but the table does not know it")
    );
}

#[test]
fn a_function_that_is_a_macro_on_x64_may_be_declared_by_a_kit_only() {
    let table = TABLE.replacen(
        r#""variadic": true"#,
        r#""variadic": true, "note": "a macro""#,
        1,
    );

    let ours = generate(BINDINGS, &table).err();
    let a_kits = generate_for(BINDINGS, &table, Headers::Theirs);

    assert_eq!(
        ours.as_deref(),
        Some("Call is declared, but a macro in the real storport.h on x64")
    );
    assert_eq!(a_kits.expect("it is a function on Arm64").functions, 2);
}

#[test]
fn what_a_kit_lacks_is_listed_and_what_our_headers_lack_is_not() {
    let bindings = format!("{BINDINGS} pub const EXTRA: u32 = 0;");
    let table = TABLE.replacen(r#""LIMIT": 7"#, r#""LIMIT": 7, "OTHER_LIMIT": 8"#, 1);

    let a_kits = generate_for(&bindings, &table, Headers::Theirs)
        .expect("a kit may declare more than the table");
    let ours = generate(BINDINGS, &table).expect("our headers may declare less");

    assert_eq!(a_kits.absent, ["OTHER_LIMIT"]);
    assert!(ours.absent.is_empty());
}
