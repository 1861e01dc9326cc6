//! Shows that the check can fail: runs the generator on small bindings and tables, and the
//! compiler on its assertions.

#[path = "../generator/mod.rs"]
mod generator;

use std::{fs, process::Command};

use generator::{Generated, Headers, Processor, bindings::Bindings, table::Table};

/// A structure as bindgen writes it, with a nested one and two bit-fields, an
/// enum, a constant, two functions and a callback.
const BINDINGS: &str = r#"
    pub type ULONG = u32;
    pub type ULONGLONG = u64;
    pub type PVOID = *mut u8;
    pub struct __BindgenBitfieldUnit<Storage> { storage: Storage }
    impl<Storage> __BindgenBitfieldUnit<Storage> {
        pub fn get_const<const BIT: usize, const BITS: u8>(&self) -> u64 { 0 }
    }
    #[repr(C)]
    pub struct _SAMPLE {
        pub First: u8,
        pub __bindgen_anon_1: _SAMPLE__bindgen_ty_1,
        pub _bitfield_align_1: [u32; 0],
        pub _bitfield_1: __BindgenBitfieldUnit<[u8; 4usize]>,
    }
    #[repr(C)]
    pub union _SAMPLE__bindgen_ty_1 { pub Small: ULONG, pub Large: u64 }
    impl _SAMPLE {
        pub fn Low(&self) -> u32 { self._bitfield_1.get_const::<0usize, 3u8>() as u32 }
        pub fn High(&self) -> u32 { self._bitfield_1.get_const::<3usize, 29u8>() as u32 }
    }
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
        "Low": { "offset": 16, "bit": 0, "bits": 3 },
        "High": { "offset": 16, "bit": 3, "bits": 29 } } } },
    "enums": { "_COLOUR": { "Red": -1 } },
    "constants": { "LIMIT": 7 },
    "exports": {
        "Call": { "returns": "void", "params": [["Context", "PVOID"]], "variadic": true },
        "Measure": { "returns": "struct _SAMPLE *", "params": [["Length", "ULONG *"]],
            "variadic": false } },
    "callbacks": { "HW_CALLBACK": { "returns": "u8", "params": ["PVOID", "ULONG"] } }
}"#;

fn generate(bindings: &str, table: &str) -> Result<Generated, String> {
    generate_for(bindings, table, Headers::Ours, Processor::X64)
}

fn generate_for(
    bindings: &str,
    table: &str,
    headers: Headers,
    processor: Processor,
) -> Result<Generated, String> {
    let mut read = Bindings::default();
    read.add(bindings).expect("the sample is Rust");
    let table = Table::parse(table).expect("the sample is a table");
    generator::generate(&read, &table, headers, processor)
        .map_err(|disagreements| disagreements.to_string())
}

/// The errors of rustc for the assertions made of `BINDINGS` and `table`. Empty if the assertions
/// hold.
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
        "1 structs, 5 fields, 1 enumerators, 1 constants, 2 functions, 1 callbacks"
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
        (
            r#""bit": 3"#,
            r#""bit": 4"#,
            "offset_of!(_SAMPLE, _bitfield_1) * 8 + 3",
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
fn what_the_table_has_and_our_headers_have_not_is_named() {
    let table = TABLE.replacen(r#""LIMIT": 7"#, r#""LIMIT": 7, "OTHER_LIMIT": 8"#, 1);

    let disagreement = generate(BINDINGS, &table).err();

    assert_eq!(
        disagreement.as_deref(),
        Some("OTHER_LIMIT is in the table, but not in the headers")
    );
}

#[test]
fn a_bit_field_of_another_width_is_named() {
    let table = TABLE.replacen(r#""bits": 3 "#, r#""bits": 4 "#, 1);

    let disagreement = generate(BINDINGS, &table).err();

    assert_eq!(
        disagreement.as_deref(),
        Some("_SAMPLE.Low has 3 bits instead of 4")
    );
}

#[test]
fn functions_differ_by_parameters_or_by_being_variadic() {
    for (right, wrong) in [
        (r#"[["Context", "PVOID"]]"#, "[]"),
        (r#""variadic": true"#, r#""variadic": false"#),
    ] {
        let disagreement = generate(BINDINGS, &TABLE.replacen(right, wrong, 1))
            .err()
            .expect("the function has one parameter and is variadic");

        assert!(disagreement.starts_with("Call: "), "{disagreement}");
    }
}

#[test]
fn a_function_that_is_a_macro_on_x64_must_be_declared_on_arm64_only() {
    let table = TABLE.replacen(
        r#""variadic": true"#,
        r#""variadic": true, "note": "a macro""#,
        1,
    );

    let on_x64 = generate(BINDINGS, &table).err();
    let on_arm64 = generate_for(BINDINGS, &table, Headers::Ours, Processor::Arm64);

    assert_eq!(
        on_x64.as_deref(),
        Some("Call is declared, but a macro in the real storport.h on x64")
    );
    assert_eq!(on_arm64.expect("it is a function there").functions, 2);
}

#[test]
fn a_kit_may_declare_more_and_lack_some_which_is_listed() {
    let bindings = format!("{BINDINGS} pub const EXTRA: u32 = 0;");
    let table = TABLE.replacen(r#""LIMIT": 7"#, r#""LIMIT": 7, "OTHER_LIMIT": 8"#, 1);

    let generated = generate_for(&bindings, &table, Headers::Theirs, Processor::X64)
        .expect("a kit need not be the table's");

    assert_eq!(generated.absent, ["OTHER_LIMIT"]);
}
