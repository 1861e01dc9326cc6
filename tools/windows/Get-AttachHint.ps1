<#
.SYNOPSIS
Lists the virtio disks of this machine, and prints how to attach one for Ferrostor.

.DESCRIPTION
Prints the architecture, the firmware, Secure Boot and test mode of this machine,
and each virtio block device with its instance id, its driver and its disks. Then it
prints, for each platform, the lines that attach a second disk by virtio and the
package's ISO. Use those lines on the host.

The script changes nothing, here or on the host. It needs an administrator in a
64-bit PowerShell, because only administrators can see which disk Windows runs from.

Ferrostor supports virtio-blk on PCI. It does not support virtio-scsi, which is
another device (libvirt: a controller of the model virtio-scsi; Proxmox: scsi0 with a
VirtIO SCSI controller).

.PARAMETER Platform
The platforms to print lines for: QEMU, libvirt, Proxmox, UTM. Default: all.

.PARAMETER ImagePath
The disk image on the host, for the lines.

.PARAMETER IsoPath
The package's ISO on the host, for the lines.

.EXAMPLE
.\Get-AttachHint.ps1
Prints the disks of this machine, and the lines for all platforms.

.EXAMPLE
.\Get-AttachHint.ps1 -Platform libvirt -ImagePath /var/lib/libvirt/images/test.qcow2
Prints the lines for libvirt, with this image.
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

Put this into <devices> with "virsh edit NAME" while the machine is off. Use targets
(vdb, sdc) that are free.
"@
    Proxmox = @"
qm set VMID --virtio1 STORAGE:8,cache=none,aio=native,discard=on,serial=FERROSTOR0
qm set VMID --ide2 STORAGE:iso/$(($IsoPath -split '/')[-1]),media=cdrom

In the web interface: Hardware, Add, Hard Disk, Bus/Device "VirtIO Block"; and Add,
CD/DVD Drive. virtio1 is virtio-blk, scsi1 would be virtio-scsi. Use numbers that are
free.
"@
    UTM     = @"
With the QEMU backend, in the settings of the virtual machine: Drives, New...
  Interface: VirtIO    Size: 8 GB
Then once more for the ISO ($IsoPath): New..., Removable, Interface: USB.
"@
}

$devices = @(Get-VirtioBlockDevice)
Write-Output "This machine: $(Get-PackageArchitecture), firmware $env:firmware_type, Secure Boot $(if (Test-SecureBoot) { 'on' } else { 'off' }), test signing $(if (Test-TestSigningActive) { 'on' } else { 'off' })"
if ($devices.Count -eq 0) {
    Write-Output 'It has no virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001). Attach one with the lines below.'
}
foreach ($device in $devices) {
    $kind = if ($device.InstanceId -like '*DEV_1001*') { 'transitional' } else { 'modern' }
    $bound = if ($device.Service) { "driver $($device.Service) $($device.DriverVersion) from $($device.Inf)" } else { 'no driver' }
    Write-Output "virtio-blk, $kind, $($device.InstanceId): $bound; disks: $($device.DiskNumbers -join ', ')$(if ($device.HoldsWindows) { '; Windows runs from it' })"
}
$boot = @($devices | Where-Object { $_.HoldsWindows -and $_.Service -ne 'ferrostor' })
$others = @($devices | Where-Object { -not $_.HoldsWindows -and "$($_.Service)" -notin '', 'ferrostor' })
if ($others.Count -gt 0) {
    Write-Output "To put Ferrostor on a disk that has another driver: Install-Ferrostor.ps1 -InstanceId '$($others[0].InstanceId)'"
}
elseif ($boot.Count -gt 0 -and $devices.Count -eq 1) {
    Write-Output 'Windows runs from the only virtio disk. Try Ferrostor on a second one first: attach it with the lines below.'
}
foreach ($name in $Platform) {
    Write-Output ''
    Write-Output "--- $name, on the host ---"
    Write-Output $hints[$name]
}
