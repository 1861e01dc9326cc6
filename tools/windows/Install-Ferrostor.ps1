<#
.SYNOPSIS
Installs the Ferrostor driver on virtio block devices of this machine.

.DESCRIPTION
Adds the package to the driver store and installs it on each chosen device by the
device's instance id, after asking. Then it lists the virtio block devices and
their drivers.

Without -InstanceId it chooses the devices that have no driver or have Ferrostor
already. A device with another driver, usually viostor, is chosen only if
-InstanceId names it.

The script does not run "pnputil /add-driver ... /install", because that installs
the driver on every matching device for which Windows ranks it best. Of two packages
with the same rank Windows takes the one with the later date. On a machine that
starts from viostor, this can be the disk that Windows starts from.

Before it changes anything, the script checks these conditions. If one is not met,
it stops and says what to do next:
- It runs as an administrator in a 64-bit PowerShell, on Windows 10 1803 or later.
- The package is complete, and Windows trusts its signer. For a test certificate,
  Windows was started in test mode (Enable-TestSigning.ps1).
- There is a virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001), and each
  -InstanceId names one.
- If the driver of the disk that Windows runs from would change, -AllowBootDisk is
  given. If Ferrostor failed there, Windows would not start.
- If that disk has another driver now, Ferrostor already works on a second disk.

The driver that each device had is recorded in the registry
(HKLM\SOFTWARE\Ferrostor\Undo) for Uninstall-Ferrostor.ps1. The script does not
restart Windows.

No Windows has run this script yet. Run it with -WhatIf first, and take a snapshot
of the virtual machine.

.PARAMETER InstanceId
The instance ids of the devices to install the driver on, such as
PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\3&11583659&0&20. Put each in single
quotes. -WhatIf and Get-AttachHint.ps1 list them.

.PARAMETER PackagePath
The folder with ferrostor.inf, ferrostor.sys and ferrostor.cat. Default: the folder
for this machine's architecture (x64 or arm64) in the package that contains this
script.

.PARAMETER AllowBootDisk
Allows a change of the driver of the disk that Windows runs from. Take a snapshot of
the virtual machine first.

.EXAMPLE
.\Install-Ferrostor.ps1 -WhatIf
Checks everything, lists the devices with their drivers, and says what would be done.

.EXAMPLE
.\Install-Ferrostor.ps1
Installs the driver on devices that have no driver, and updates it on devices that
have Ferrostor.

.EXAMPLE
.\Install-Ferrostor.ps1 -InstanceId 'PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\3&11583659&0&20'
Replaces the driver of this device alone.

.LINK
Uninstall-Ferrostor.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param(
    [string] $PackagePath,
    [switch] $AllowBootDisk,
    [string[]] $InstanceId = @()
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemFacts', 'PackageSignature', 'UndoRecord', 'DeviceDriver') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

# The INF's models section is for this build and later ones: from this build on,
# a storage driver can be loaded from the driver store.
$OldestBuild = 17134

Assert-Administrator
$build = [int] (Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber
if ($build -lt $OldestBuild) {
    throw "This Windows is build $build. Ferrostor needs build $OldestBuild (Windows 10 1803, Windows Server 2019) or later. Update Windows first."
}
if (-not $PackagePath) { $PackagePath = Join-Path (Split-Path -Parent (Split-Path -Parent $PSScriptRoot)) (Get-PackageArchitecture) }
$PackagePath = (Resolve-Path -LiteralPath $PackagePath).ProviderPath
$infPath = Join-Path $PackagePath 'ferrostor.inf'

foreach ($signature in Get-PackageSignature -PackagePath $PackagePath) {
    $signer = $signature.SignerCertificate
    if ("$($signature.Status)" -ne 'Valid') {
        throw "Windows does not trust the signer of $($signature.Path) ($($signer.Subject), $($signer.Thumbprint)): $($signature.StatusMessage) Run Enable-TestSigning.ps1, restart Windows, and run this script again."
    }
    if ($signer.Subject -eq $signer.Issuer -and -not (Test-TestSigningActive)) {
        throw 'The package is signed with a test certificate, and Windows was not started in test mode. Run Enable-TestSigning.ps1, restart Windows, and run this script again.'
    }
}
if (Test-RebootPending) {
    Write-Warning 'Windows needs a restart to finish an update. Answer No, restart, and run this script again.'
}

$devices = @(Get-VirtioBlockDevice)
if ($devices.Count -eq 0) {
    throw 'This machine has no virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001). Shut it down, attach a small disk by virtio (Get-AttachHint.ps1 shows how), start it, and run this script again. A virtio-scsi controller (DEV_1048, DEV_1004) is another device, which Ferrostor does not support.'
}
foreach ($device in $devices) {
    $bound = if ($device.Service) { "driver $($device.Service) from $($device.Inf), version $($device.DriverVersion)" } else { 'no driver' }
    Write-Output "$($device.InstanceId): $bound; disks: $($device.DiskNumbers -join ', ')$(if ($device.HoldsWindows) { '; Windows runs from it' })"
}

$known = @($devices | ForEach-Object { $_.InstanceId })
$unknown = @($InstanceId | Where-Object { $_ -notin $known })
if ($unknown.Count -gt 0) {
    throw "No virtio block device has the instance id $($unknown[0]). Run this script again with one of these, in single quotes: $($known -join ', ')"
}
$chosen = @($devices | Where-Object { $_.InstanceId -in $InstanceId })
if ($InstanceId.Count -eq 0) {
    $chosen = @($devices | Where-Object { "$($_.Service)" -in '', 'ferrostor' })
}
$others = @($devices | Where-Object { -not $_.HoldsWindows -and "$($_.Service)" -notin '', 'ferrostor' })
if ($chosen.Count -eq 0 -and $others.Count -gt 0) {
    throw "Each virtio block device has another driver already. To replace the driver of one device, run: Install-Ferrostor.ps1 -InstanceId '$($others[0].InstanceId)'"
}
if ($chosen.Count -eq 0) {
    throw "The only virtio block device is the one that Windows runs from ($($devices[0].InstanceId)). Try Ferrostor on a second disk first: shut the machine down, attach a small disk by virtio (Get-AttachHint.ps1 shows how), start it, and run this script again. It then says how to name the new device."
}

# All devices of Ferrostor share one driver file: a new version for one of them is
# a new version for the disk that Windows runs from too.
$boot = @($devices | Where-Object { $_.HoldsWindows -and ($_.InstanceId -in $chosen.InstanceId -or $_.Service -eq 'ferrostor') })
$second = @($devices | Where-Object { -not $_.HoldsWindows })
$served = @($second | Where-Object { $_.Service -eq 'ferrostor' })
$working = @($served | Where-Object { "$($_.Problem)" -in '', '0' })
foreach ($device in $boot) {
    if ($device.Service -ne 'ferrostor' -and $working.Count -eq 0) {
        $next = 'Shut the machine down, attach a small second disk by virtio (Get-AttachHint.ps1 shows how), start it, and run this script without -AllowBootDisk. It then says how to name the new device.'
        if ($second.Count -gt 0) { $next = "Run this first: Install-Ferrostor.ps1 -InstanceId '$($second[0].InstanceId)'" }
        if ($served.Count -gt 0) { $next = "$($served[0].InstanceId) has code $($served[0].Problem): docs\troubleshooting.md in the package says what to do." }
        throw "Windows runs from a disk of $($device.InstanceId), and Ferrostor does not work on another disk yet. $next"
    }
    if (-not $AllowBootDisk) {
        $names = if ($InstanceId.Count -gt 0) { " -InstanceId '$($InstanceId -join "', '")'" } else { '' }
        throw "This changes the driver of the disk that Windows runs from ($($device.InstanceId)). If Ferrostor failed there, Windows would not start. Take a snapshot of the virtual machine, then run: Install-Ferrostor.ps1$names -AllowBootDisk"
    }
}
$kept = @($devices | Where-Object { $_.HoldsWindows -and $_.InstanceId -notin @($boot | ForEach-Object { $_.InstanceId }) })
if ($AllowBootDisk -and $kept.Count -gt 0) {
    Write-Warning "The disk that Windows runs from keeps its driver: -InstanceId does not name $($kept[0].InstanceId)."
}

$restartNeeded = $false
if ($PSCmdlet.ShouldProcess(($chosen.InstanceId -join ', '), "Add $infPath to the driver store and install it on these devices only")) {
    # A later run adds devices that are new. It does not take Ferrostor for the
    # driver that a device had before.
    $earlier = @()
    $record = Get-UndoRecord -Name Install
    if ($null -ne $record) { $earlier = @($record.Devices) }
    $recorded = @($earlier | ForEach-Object { $_.InstanceId })
    $added = @($devices | Where-Object { $_.InstanceId -notin $recorded -and $_.Service -ne 'ferrostor' } |
            ForEach-Object { @{ InstanceId = $_.InstanceId; Service = "$($_.Service)"; Inf = "$($_.Inf)" } })
    Save-UndoRecord -Name Install -Record @{ Devices = [object[]] @($earlier + $added) }

    $published = Add-DriverPackage -InfPath $infPath
    foreach ($device in $chosen) {
        if (Install-DeviceDriver -InstanceId $device.InstanceId -PublishedInf $published) { $restartNeeded = $true }
    }

    $after = @(Get-VirtioBlockDevice)
    foreach ($device in @($after | Where-Object { $_.InstanceId -in $chosen.InstanceId })) {
        if ($device.Service -ne 'ferrostor' -and -not $restartNeeded) {
            throw "Windows reported no error, but $($device.InstanceId) has the driver '$($device.Service)'. See the end of C:\Windows\INF\setupapi.dev.log, then run New-BugReport.ps1."
        }
        if ("$($device.Problem)" -notin '', '0' -and -not $restartNeeded) {
            Write-Warning "$($device.InstanceId) does not work: code $($device.Problem). See docs\troubleshooting.md in the package."
        }
    }
    $taken = @($after | Where-Object { $_.Service -eq 'ferrostor' -and $_.InstanceId -notin $chosen.InstanceId -and
            $_.InstanceId -in @($devices | Where-Object { $_.Service -ne 'ferrostor' } | ForEach-Object { $_.InstanceId }) })
    foreach ($device in $taken) {
        Write-Warning "Windows also put Ferrostor on $($device.InstanceId), which was not chosen. Do not restart Windows before this device has its own driver again: open it in Device Manager, Properties, Driver, Roll Back Driver."
    }
}

Get-VirtioBlockDevice
if ($restartNeeded) { Write-Warning 'Restart Windows to finish.' }
