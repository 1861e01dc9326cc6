<#
.SYNOPSIS
Tells what virtio disks this machine has, and how to attach one for Ferrostor.

.DESCRIPTION
Prints first what matters of this machine: architecture, firmware, Secure Boot,
test signing, and each virtio block device with its driver and disks. Then, for
each platform, the lines that attach a second disk by virtio and the package's
ISO, to be used outside of this machine, on its host.

It changes nothing, here or there. It needs an administrator in a 64-bit
PowerShell, because others may not ask which disk Windows lies on.

Ferrostor serves virtio-blk on PCI. A disk on virtio-scsi (libvirt: a controller of
the model virtio-scsi; Proxmox: scsi0 with a VirtIO SCSI controller) is another
device, which it does not serve.

.PARAMETER Platform
For which platforms lines are printed: QEMU, libvirt, Proxmox, UTM. Default: all.

.PARAMETER ImagePath
The disk image on the host that the lines name.

.PARAMETER IsoPath
The package's ISO on the host that the lines name.

.EXAMPLE
.\Get-AttachHint.ps1
What this machine has, and the lines for all platforms.

.EXAMPLE
.\Get-AttachHint.ps1 -Platform libvirt -ImagePath /var/lib/libvirt/images/test.qcow2
The lines for libvirt, with that image.
#>
[CmdletBinding()]
[OutputType([string])]
param(
    [ValidateSet('QEMU', 'libvirt', 'Proxmox', 'UTM')]
    [string[]] $Platform = @('QEMU', 'libvirt', 'Proxmox', 'UTM'),
    [ValidateNotNullOrEmpty()] [string] $ImagePath = '/var/lib/libvirt/images/ferrostor-test.qcow2',
    [ValidateNotNullOrEmpty()] [string] $IsoPath = '/var/lib/libvirt/images/ferrostor.iso'
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module -Name (Join-Path $PSScriptRoot 'SystemFacts.psm1') -Scope Local -Verbose:$false

Assert-Administrator
$hints = @{
    QEMU    = @"
qemu-img create -f qcow2 $ImagePath 8G

  -drive file=$ImagePath,format=qcow2,if=none,id=ferrostor0,cache=none,aio=native,discard=unmap
  -device virtio-blk-pci,drive=ferrostor0,serial=FERROSTOR0
  -drive file=$IsoPath,media=cdrom,readonly=on
"@
    libvirt = @"
qemu-img create -f qcow2 $ImagePath 8G

  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>
    <source file='$ImagePath'/>
    <target dev='vdb' bus='virtio'/>
    <serial>FERROSTOR0</serial>
  </disk>
  <disk type='file' device='cdrom'>
    <source file='$IsoPath'/>
    <target dev='sdc' bus='sata'/>
    <readonly/>
  </disk>

in <devices> of virsh edit NAME, while the machine is off, with targets (vdb, sdc)
that are free.
"@
    Proxmox = @"
qm set VMID --virtio1 STORAGE:8,cache=none,aio=native,discard=on,serial=FERROSTOR0
qm set VMID --ide2 STORAGE:iso/$(($IsoPath -split '/')[-1]),media=cdrom

virtio1 is virtio-blk; scsi1 would be virtio-scsi. Take numbers that are free.
"@
    UTM     = @"
With the QEMU backend, in the settings of the machine: Drives, New...
  Interface: VirtIO    Size: 8 GB
and once more with "Removable" for the ISO ($IsoPath), Interface: USB.
"@
}

$devices = @(Get-VirtioBlockDevice)
Write-Output "This machine: $(Get-PackageArchitecture), firmware $env:firmware_type, Secure Boot $(if (Test-SecureBoot) { 'on' } else { 'off' }), test signing $(if (Test-TestSigningActive) { 'on' } else { 'off' })"
if ($devices.Count -eq 0) {
    Write-Output 'It has no virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001): attach one by the lines below.'
}
foreach ($device in $devices) {
    $kind = if ($device.InstanceId -like '*DEV_1001*') { 'transitional' } else { 'modern' }
    $bound = if ($device.Service) { "driver $($device.Service) $($device.DriverVersion) from $($device.Inf)" } else { 'no driver' }
    Write-Output "virtio-blk, $kind, $($device.InstanceId): $bound; disks: $($device.DiskNumbers -join ', ')$(if ($device.HoldsWindows) { '; Windows lies on it' })"
}
if (@($devices | Where-Object { $_.HoldsWindows }).Count -gt 0) {
    Write-Output 'Windows lies on a virtio disk already. Try Ferrostor with a second one first.'
}
foreach ($name in $Platform) {
    Write-Output ''
    Write-Output "--- $name, on the host ---"
    Write-Output $hints[$name]
}
