// The base types of Windows.
//
// Sources: [MS-DTYP] (Windows Data Types) for the integer, character and pointer types and
// the strings; the table of the compiled WDK 10.0.22621.0
// (cross/abi/storport-wdk.json) for every structure. A test compares them with the table.
// Windows is LLP64: long is 32 bits wide.
#pragma once

#include <stddef.h>

#define FALSE 0
#define TRUE  1

#define VOID void
typedef void *PVOID;

typedef char CHAR, CCHAR, *PCHAR, *PSTR;
typedef const char *PCSTR;
typedef unsigned char UCHAR, *PUCHAR;
typedef UCHAR BOOLEAN, *PBOOLEAN;
typedef short SHORT, CSHORT;
typedef unsigned short USHORT, *PUSHORT;
typedef long LONG;
typedef unsigned long ULONG, *PULONG;
typedef long long LONGLONG;
typedef unsigned long long ULONGLONG, ULONG64;
typedef unsigned long long ULONG_PTR;
typedef ULONG_PTR SIZE_T;
typedef wchar_t WCHAR, *PWCH, *PWSTR;

typedef LONG NTSTATUS;

// A processor mask and a processor's number in its group
// (miniport/ns-miniport-_group_affinity, miniport/ns-miniport-_processor_number).
typedef ULONG_PTR KAFFINITY;
typedef struct _GROUP_AFFINITY {
    KAFFINITY Mask;
    USHORT Group;
    USHORT Reserved[3];
} GROUP_AFFINITY, *PGROUP_AFFINITY;
typedef struct _PROCESSOR_NUMBER {
    USHORT Group;
    UCHAR Number;
    UCHAR Reserved;
} PROCESSOR_NUMBER, *PPROCESSOR_NUMBER;

typedef union _LARGE_INTEGER {
    struct {
        ULONG LowPart;
        LONG HighPart;
    };
    struct {
        ULONG LowPart;
        LONG HighPart;
    } u;
    LONGLONG QuadPart;
} LARGE_INTEGER, *PLARGE_INTEGER;
typedef LARGE_INTEGER PHYSICAL_ADDRESS;

// Length and MaximumLength count bytes. The text need not end with a NUL.
typedef struct _UNICODE_STRING {
    USHORT Length;
    USHORT MaximumLength;
    PWCH Buffer;
} UNICODE_STRING, *PUNICODE_STRING;
typedef const UNICODE_STRING *PCUNICODE_STRING;
