// The declarations of the kernel that windows-drivers-rs and a storage miniport use.
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

// wdm/ne-wdm-_interface_type
typedef enum _INTERFACE_TYPE {
    Internal = 0,
    Isa = 1,
    Eisa = 2,
    MicroChannel = 3,
    TurboChannel = 4,
    PCIBus = 5,
    VMEBus = 6,
    NuBus = 7,
    PCMCIABus = 8,
    CBus = 9,
    MPIBus = 10,
    MPSABus = 11,
    ProcessorInternal = 12,
    InternalPowerBus = 13,
    PNPISABus = 14,
    PNPBus = 15,
    Vmcs = 16,
    ACPIBus = 17,
    MaximumInterfaceType = 18,
    InterfaceTypeUndefined = -1,
} INTERFACE_TYPE, *PINTERFACE_TYPE;

// ntddk/ne-ntddk-_bus_data_type
typedef enum _BUS_DATA_TYPE {
    Cmos = 0,
    EisaConfiguration = 1,
    Pos = 2,
    CbusConfiguration = 3,
    PCIConfiguration = 4,
    VMEConfiguration = 5,
    NuBusConfiguration = 6,
    PCMCIAConfiguration = 7,
    MPIConfiguration = 8,
    MPSAConfiguration = 9,
    PNPISAConfiguration = 10,
    SgiInternalConfiguration = 11,
    MaximumBusDataType = 12,
    ConfigurationSpaceUndefined = -1,
} BUS_DATA_TYPE, *PBUS_DATA_TYPE;

// wdm/ne-wdm-_kinterrupt_mode
typedef enum _KINTERRUPT_MODE {
    LevelSensitive = 0,
    Latched = 1,
} KINTERRUPT_MODE;

// wdm/ne-wdm-_memory_caching_type
typedef enum _MEMORY_CACHING_TYPE {
    MmNonCached = 0,
    MmCached = 1,
    MmWriteCombined = 2,
    MmHardwareCoherentCached = 3,
    MmNonCachedUnordered = 4,
    MmUSWCCached = 5,
    MmMaximumCacheType = 6,
    MmNotMapped = -1,
} MEMORY_CACHING_TYPE;

// wdm/ns-wdm-_device_description, members DmaWidth and DmaSpeed
typedef enum _DMA_WIDTH {
    Width8Bits,
    Width16Bits,
    Width32Bits,
    Width64Bits,
    WidthNoWrap,
    MaximumDmaWidth,
} DMA_WIDTH, *PDMA_WIDTH;
typedef enum _DMA_SPEED {
    Compatible,
    TypeA,
    TypeB,
    TypeC,
    TypeF,
    MaximumDmaSpeed,
} DMA_SPEED, *PDMA_SPEED;

// wdm/ns-wdm-_pci_common_config; u.type0: PCI Local Bus Specification 3.0, 6.1
typedef struct _PCI_COMMON_HEADER {
    USHORT VendorID;
    USHORT DeviceID;
    USHORT Command;
    USHORT Status;
    UCHAR RevisionID;
    UCHAR ProgIf;
    UCHAR SubClass;
    UCHAR BaseClass;
    UCHAR CacheLineSize;
    UCHAR LatencyTimer;
    UCHAR HeaderType;
    UCHAR BIST;
    union {
        // The other two header types are those of bridges.
        struct _PCI_HEADER_TYPE_0 {
            ULONG BaseAddresses[6];
            ULONG CIS;
            USHORT SubVendorID;
            USHORT SubSystemID;
            ULONG ROMBaseAddress;
            UCHAR CapabilitiesPtr;
            UCHAR Reserved1[3];
            ULONG Reserved2;
            UCHAR InterruptLine;
            UCHAR InterruptPin;
            UCHAR MinimumGrant;
            UCHAR MaximumLatency;
        } type0;
    } u;
} PCI_COMMON_HEADER, *PPCI_COMMON_HEADER;

// wdm/ns-wdm-_pci_common_config
typedef struct _PCI_COMMON_CONFIG {
    PCI_COMMON_HEADER;
    UCHAR DeviceSpecific[192];
} PCI_COMMON_CONFIG, *PPCI_COMMON_CONFIG;

// wdm/ns-wdm-_pci_capabilities_header
typedef struct _PCI_CAPABILITIES_HEADER {
    UCHAR CapabilityID;
    UCHAR Next;
} PCI_CAPABILITIES_HEADER, *PPCI_CAPABILITIES_HEADER;

// wdm/ns-wdm-_mdl
typedef struct _MDL {
    struct _MDL *Next;
    CSHORT Size;
    CSHORT MdlFlags;
    struct _EPROCESS *Process;
    PVOID MappedSystemVa;
    PVOID StartVa;
    ULONG ByteCount;
    ULONG ByteOffset;
} MDL, *PMDL;

// Structures that are used only through pointers, and one that follows.
struct _ADAPTER_OBJECT;
struct _DRIVER_OBJECT;
struct _EPROCESS;
struct _IRP;
typedef struct _DEVICE_OBJECT *PDEVICE_OBJECT;
typedef struct _DRIVER_EXTENSION *PDRIVER_EXTENSION;
typedef struct _FAST_IO_DISPATCH *PFAST_IO_DISPATCH;
typedef struct _IO_RESOURCE_REQUIREMENTS_LIST *PIO_RESOURCE_REQUIREMENTS_LIST;

// wdm/nc-wdm-driver_initialize
typedef NTSTATUS DRIVER_INITIALIZE(struct _DRIVER_OBJECT *DriverObject, PUNICODE_STRING RegistryPath);
typedef DRIVER_INITIALIZE *PDRIVER_INITIALIZE;

// wdm/nc-wdm-driver_dispatch
typedef NTSTATUS DRIVER_DISPATCH(struct _DEVICE_OBJECT *DeviceObject, struct _IRP *Irp);
typedef DRIVER_DISPATCH *PDRIVER_DISPATCH;

// wdm/nc-wdm-driver_startio
typedef VOID DRIVER_STARTIO(struct _DEVICE_OBJECT *DeviceObject, struct _IRP *Irp);
typedef DRIVER_STARTIO *PDRIVER_STARTIO;

// wdm/nc-wdm-driver_unload
typedef VOID DRIVER_UNLOAD(struct _DRIVER_OBJECT *DriverObject);
typedef DRIVER_UNLOAD *PDRIVER_UNLOAD;

// wdm/ns-wdm-_driver_object
typedef struct _DRIVER_OBJECT {
    CSHORT Type;
    CSHORT Size;
    PDEVICE_OBJECT DeviceObject;
    ULONG Flags;
    PVOID DriverStart;
    ULONG DriverSize;
    PVOID DriverSection;
    PDRIVER_EXTENSION DriverExtension;
    UNICODE_STRING DriverName;
    PUNICODE_STRING HardwareDatabase;
    PFAST_IO_DISPATCH FastIoDispatch;
    PDRIVER_INITIALIZE DriverInit;
    PDRIVER_STARTIO DriverStartIo;
    PDRIVER_UNLOAD DriverUnload;
    PDRIVER_DISPATCH MajorFunction[28];
} DRIVER_OBJECT, *PDRIVER_OBJECT;

// Functions of ntoskrnl.exe and hal.dll. cross/def lists them too, and a few that
// compilers call.
typedef ULONG64 POOL_FLAGS;

// wdm/nf-wdm-dbgprint
ULONG DbgPrint(PCSTR Format, ...);

// wdm/nf-wdm-dbgprintex
ULONG DbgPrintEx(ULONG ComponentId, ULONG Level, PCSTR Format, ...);

// wdm/nf-wdm-exallocatepool2
PVOID ExAllocatePool2(POOL_FLAGS Flags, SIZE_T NumberOfBytes, ULONG Tag);

// wdm/nf-wdm-exfreepool
VOID ExFreePool(PVOID P);

// wdm/nf-wdm-exfreepoolwithtag
VOID ExFreePoolWithTag(PVOID P, ULONG Tag);

// ntddk/nf-ntddk-kebugcheck
__declspec(noreturn) VOID KeBugCheck(ULONG BugCheckCode);

// wdm/nf-wdm-kebugcheckex
__declspec(noreturn) VOID KeBugCheckEx(
    ULONG BugCheckCode,
    ULONG_PTR BugCheckParameter1,
    ULONG_PTR BugCheckParameter2,
    ULONG_PTR BugCheckParameter3,
    ULONG_PTR BugCheckParameter4);

// wdm/nf-wdm-kegetcurrentirql
KIRQL KeGetCurrentIrql(VOID);

// wdm/nf-wdm-kegetcurrentprocessornumberex
ULONG KeGetCurrentProcessorNumberEx(PPROCESSOR_NUMBER ProcNumber);

// wdm/nf-wdm-kequeryactiveprocessorcountex
ULONG KeQueryActiveProcessorCountEx(USHORT GroupNumber);

// wdm/nf-wdm-kequeryperformancecounter
LARGE_INTEGER KeQueryPerformanceCounter(PLARGE_INTEGER PerformanceFrequency);

// wdm/nf-wdm-kestallexecutionprocessor
VOID KeStallExecutionProcessor(ULONG MicroSeconds);

// ntddk/nf-ntddk-mmgetphysicaladdress
PHYSICAL_ADDRESS MmGetPhysicalAddress(PVOID BaseAddress);

// wdm/nf-wdm-rtlcopyunicodestring
VOID RtlCopyUnicodeString(PUNICODE_STRING DestinationString, PCUNICODE_STRING SourceString);

// wdm/nf-wdm-rtlinitunicodestring
VOID RtlInitUnicodeString(PUNICODE_STRING DestinationString, PCWSTR SourceString);
