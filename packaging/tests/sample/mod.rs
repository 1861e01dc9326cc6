//! A small driver file, of what a signature is put on: headers, code, data.

use object::{
    pe::{
        IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_FILE_EXECUTABLE_IMAGE, IMAGE_FILE_MACHINE_AMD64,
        IMAGE_SCN_CNT_CODE, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_EXECUTE,
        IMAGE_SCN_MEM_READ, IMAGE_SUBSYSTEM_NATIVE,
    },
    write::pe::{NtHeaders, Writer},
};

/// An image for x64 that the linker would have written, not signed.
pub fn driver() -> Vec<u8> {
    let code = (0..0x300_u32).map(|i| (i * 7) as u8).collect::<Vec<_>>();
    let data = (0..0x123_u32).map(|i| (i * 5) as u8).collect::<Vec<_>>();

    let mut file = Vec::new();
    let mut writer = Writer::new(true, 0x1000, 0x200, &mut file);
    writer.reserve_dos_header();
    writer.reserve_nt_headers(16);
    writer.reserve_section_headers(2);
    let text = writer.reserve_section(
        *b".text\0\0\0",
        IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_EXECUTE | IMAGE_SCN_MEM_READ,
        code.len() as u32,
        code.len() as u32,
    );
    let rdata = writer.reserve_section(
        *b".rdata\0\0",
        IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ,
        data.len() as u32,
        data.len() as u32,
    );
    writer.write_empty_dos_header().unwrap();
    writer.write_nt_headers(NtHeaders {
        machine: IMAGE_FILE_MACHINE_AMD64,
        time_date_stamp: 0x1234_5678,
        characteristics: IMAGE_FILE_EXECUTABLE_IMAGE,
        major_linker_version: 14,
        minor_linker_version: 0,
        address_of_entry_point: text.virtual_address,
        image_base: 0x1_4000_0000,
        major_operating_system_version: 10,
        minor_operating_system_version: 0,
        major_image_version: 0,
        minor_image_version: 0,
        major_subsystem_version: 10,
        minor_subsystem_version: 0,
        subsystem: IMAGE_SUBSYSTEM_NATIVE,
        dll_characteristics: IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        size_of_stack_reserve: 0,
        size_of_stack_commit: 0,
        size_of_heap_reserve: 0,
        size_of_heap_commit: 0,
    });
    writer.write_section_headers();
    writer.write_section(text.file_offset, &code);
    writer.write_section(rdata.file_offset, &data);
    file
}
