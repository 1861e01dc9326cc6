//! The load configuration, which lists the functions of a driver that may be called
//! indirectly (Control Flow Guard). In the WDK it is part of
//! BufferOverflowFastFailK.lib. Here it is an object file that is made for the link.
//!
//! Compiled code checks an indirect call through one of two pointers. A kernel that
//! enforces Control Flow Guard stores its own functions there. Otherwise the pointers
//! keep the file's functions, which allow every call.

use std::{
    fs,
    path::{Path, PathBuf},
};

use object::{
    BinaryFormat, Endianness, RelocationEncoding, RelocationKind, SymbolFlags, SymbolKind,
    SymbolScope,
    write::{
        Object, Relocation, RelocationFlags, SectionId, StandardSection, Symbol, SymbolId,
        SymbolSection,
    },
};

use crate::{Architecture, ConfigError, IoError, cargo_env};

/// The length of IMAGE_LOAD_CONFIG_DIRECTORY64 of winnt.h, up to the last of the
/// tables that the linker makes.
const LENGTH: u8 = 0xc0;

/// Fields of the structure: the offset, the width in bits, and the linker's symbol for the
/// value.
const TABLES: [(u64, u8, &str); 7] = [
    (0x80, 64, "__guard_fids_table"),
    (0x88, 64, "__guard_fids_count"),
    (0x90, 32, "__guard_flags"),
    (0xa0, 64, "__guard_iat_table"),
    (0xa8, 64, "__guard_iat_count"),
    (0xb0, 64, "__guard_longjmp_table"),
    (0xb8, 64, "__guard_longjmp_count"),
];

/// A pointer to a function that checks an indirect call.
struct Pointer {
    /// The compiler's name for the pointer.
    name: &'static str,
    /// The offset of its address in the load configuration.
    field: u64,
    /// The code that it points to until the kernel replaces the pointer.
    code: &'static [u8],
}

/// The pointers and their code: `ret`. On x64 a second pointer combines check and call, so
/// its code is `jmp rax`.
fn pointers(architecture: Architecture) -> &'static [Pointer] {
    match architecture {
        Architecture::Amd64 => &[
            Pointer {
                name: "__guard_check_icall_fptr",
                field: 0x70,
                code: &[0xc3],
            },
            Pointer {
                name: "__guard_dispatch_icall_fptr",
                field: 0x78,
                code: &[0xff, 0xe0],
            },
        ],
        Architecture::Arm64 => &[Pointer {
            name: "__guard_check_icall_fptr",
            field: 0x70,
            code: &[0xc0, 0x03, 0x5f, 0xd6],
        }],
    }
}

/// Makes the object file in `OUT_DIR` and returns its path.
pub(crate) fn make(architecture: Architecture) -> Result<PathBuf, ConfigError> {
    let path = Path::new(&cargo_env("OUT_DIR")?).join("load-config.obj");
    let file = object_file(architecture)?;
    fs::write(&path, file).map_err(|source| IoError::with_path(&path, source))?;
    Ok(path)
}

fn object_file(architecture: Architecture) -> object::write::Result<Vec<u8>> {
    let processor = match architecture {
        Architecture::Amd64 => object::Architecture::X86_64,
        Architecture::Arm64 => object::Architecture::Aarch64,
    };
    let mut object = Object::new(BinaryFormat::Coff, processor, Endianness::Little);
    // Says that this object file lists its functions that may be called indirectly. It
    // lists none. In a file without this bit, the linker lists every function whose
    // address is used. `jmp rax` must not be among them, because it calls any address.
    const LISTS_ITS_FUNCTIONS: u64 = 0x800;
    object.add_symbol(Symbol {
        value: LISTS_ITS_FUNCTIONS,
        scope: SymbolScope::Compilation,
        ..symbol("@feat.00", SymbolSection::Absolute)
    });

    let mut directory = [0; LENGTH as usize];
    directory[0] = LENGTH;
    let data = object.section_id(StandardSection::ReadOnlyData);
    let code = object.section_id(StandardSection::Text);
    let load_config = define(&mut object, "_load_config_used", data, &directory);
    for (field, bits, name) in TABLES {
        let value = object.add_symbol(symbol(name, SymbolSection::Undefined));
        refer(&mut object, &load_config, field, bits, value)?;
    }
    for pointer in pointers(architecture) {
        let name = format!("{}_default", pointer.name);
        let function = define(&mut object, &name, code, pointer.code);
        let place = define(&mut object, pointer.name, data, &[0; 8]);
        refer(&mut object, &place, 0, 64, function.symbol)?;
        refer(&mut object, &load_config, pointer.field, 64, place.symbol)?;
    }
    object.write()
}

/// A symbol that the object file defines, and its position.
struct Definition {
    symbol: SymbolId,
    section: SectionId,
    offset: u64,
}

/// Adds `contents` to a section, and defines a symbol for them.
fn define(object: &mut Object<'_>, name: &str, section: SectionId, contents: &[u8]) -> Definition {
    let symbol = object.add_symbol(symbol(name, SymbolSection::Undefined));
    let offset = object.add_symbol_data(symbol, section, contents, 16);
    Definition {
        symbol,
        section,
        offset,
    }
}

/// Adds a relocation: the linker writes the address or value of `target` at an offset in
/// `place`.
fn refer(
    object: &mut Object<'_>,
    place: &Definition,
    offset: u64,
    bits: u8,
    target: SymbolId,
) -> object::write::Result<()> {
    let relocation = Relocation {
        offset: place.offset + offset,
        symbol: target,
        addend: 0,
        flags: RelocationFlags::Generic {
            kind: RelocationKind::Absolute,
            encoding: RelocationEncoding::Generic,
            size: bits,
        },
    };
    object.add_relocation(place.section, relocation)
}

/// Makes a symbol that other object files can use.
fn symbol(name: &str, section: SymbolSection) -> Symbol {
    Symbol {
        name: name.into(),
        value: 0,
        size: 0,
        kind: SymbolKind::Data,
        scope: SymbolScope::Linkage,
        weak: false,
        section,
        flags: SymbolFlags::None,
    }
}
