// The declarations of the kernel that windows-drivers-rs and the drivers of this repository use.
//
// The comment before a declaration is its source: a page of the driver reference
// (windows-driver-docs-ddi, wdk-ddi-src/content), or `table`: the table of the compiled
// WDK 10.0.22621.0 (cross/abi/storport-wdk.json). A test compares structures and values
// with that table. The file was written from these facts. No part of the WDK is copied.
#pragma once

#include <ntdef.h>

// The interrupt request levels that are the same on every processor
// ("Managing Hardware Priorities" in the driver documentation).
typedef UCHAR KIRQL;
#define PASSIVE_LEVEL  0
#define APC_LEVEL      1
#define DISPATCH_LEVEL 2

// wdm/ns-wdm-_device_description, members DmaWidth and DmaSpeed; the drivers use no value.
typedef enum _DMA_WIDTH {
    Width8Bits,
} DMA_WIDTH, *PDMA_WIDTH;
typedef enum _DMA_SPEED {
    Compatible,
} DMA_SPEED, *PDMA_SPEED;

// A structure that is used only through its pointer.
typedef struct _DRIVER_OBJECT *PDRIVER_OBJECT;

// Functions of ntoskrnl.exe and hal.dll. cross/def lists them too, and a few that
// compilers call.
typedef ULONG64 POOL_FLAGS;

// wdm/nf-wdm-dbgprint
ULONG DbgPrint(PCSTR Format, ...);

// wdm/nf-wdm-exallocatepool2
PVOID ExAllocatePool2(POOL_FLAGS Flags, SIZE_T NumberOfBytes, ULONG Tag);

// wdm/nf-wdm-exfreepool
VOID ExFreePool(PVOID P);

// wdm/nf-wdm-kebugcheckex
__declspec(noreturn) VOID KeBugCheckEx(
    ULONG BugCheckCode,
    ULONG_PTR BugCheckParameter1,
    ULONG_PTR BugCheckParameter2,
    ULONG_PTR BugCheckParameter3,
    ULONG_PTR BugCheckParameter4);

// wdm/nf-wdm-kegetcurrentirql
KIRQL KeGetCurrentIrql(VOID);
