<#
.SYNOPSIS
Installs the Ferrostor driver for the virtio block devices of this machine.

.DESCRIPTION
Adds the package to the driver store and installs it on the devices that match
(pnputil /add-driver ferrostor.inf /install), after asking. Then it tells which
driver each device has.

Before it does anything it checks, and refuses with the reason, that
- it runs as an administrator in a 64-bit PowerShell, on Windows 10 1803 or later;
- the package is whole, and Windows trusts its signer; for a test certificate
  also that Windows was started with test signing on (Enable-TestSigning.ps1);
- there is a virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001). To move the
  disk that Windows lies on, first attach a small second disk by virtio, install
  with that one, and only then change the first disk's bus: see Get-AttachHint.ps1;
- Windows does not lie on a disk that would get another driver by this, unless
  -AllowBootDisk is given: if the new driver failed there, Windows would not
  start. Take a snapshot of the virtual machine first.

A device that has another driver, as a rule viostor, keeps it if Windows ranks
that driver higher. The script says so; -Force puts Ferrostor on the device in
spite of the rank.

Which driver each device had is kept in the registry (HKLM\SOFTWARE\Ferrostor\Undo)
for Uninstall-Ferrostor.ps1. Nothing is restarted.

.PARAMETER PackagePath
The folder with ferrostor.inf, ferrostor.sys and ferrostor.cat. Default: the
folder of this machine's architecture (x64 or arm64) of the package that this
script is part of (two folders up).

.PARAMETER AllowBootDisk
Go on even if the disk that Windows lies on gets another driver by this.

.PARAMETER Force
Put Ferrostor on every virtio block device, even where Windows ranks another
driver higher.

.EXAMPLE
.\Install-Ferrostor.ps1 -WhatIf
Checks everything, tells which driver each device has now and what would be done.

.EXAMPLE
.\Install-Ferrostor.ps1
Installs the package, after asking.

.EXAMPLE
.\Install-Ferrostor.ps1 -Force
Installs it also on devices that viostor serves now.

.LINK
Uninstall-Ferrostor.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param(
    [string] $PackagePath,
    [switch] $AllowBootDisk,
    [switch] $Force
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'PackageSignature', 'UndoRecord', 'DriverUpdate') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

# The INF's models section is for this build and later ones: from there on a
# storage driver can be loaded from the driver store.
$OldestBuild = 17134

# pnputil: done; nothing to do, because no device matches or each has a driver
# that ranks higher; done, restart needed.
$NothingToDo = 259
$RestartRequired = 3010

Assert-Administrator
$build = [int] (Get-CimInstance -ClassName Win32_OperatingSystem).BuildNumber
if ($build -lt $OldestBuild) {
    throw "This Windows is build $build. Ferrostor needs build $OldestBuild (Windows 10 1803, Windows Server 2019) or later."
}
if (-not $PackagePath) { $PackagePath = Join-Path (Split-Path -Parent (Split-Path -Parent $PSScriptRoot)) (Get-PackageArchitecture) }
$PackagePath = (Resolve-Path -LiteralPath $PackagePath).ProviderPath
$infPath = Join-Path $PackagePath 'ferrostor.inf'

foreach ($signature in Get-PackageSignature -PackagePath $PackagePath) {
    $signer = $signature.SignerCertificate
    if ("$($signature.Status)" -ne 'Valid') {
        throw "Windows does not trust the signer of $($signature.Path) ($($signer.Subject), $($signer.Thumbprint)): $($signature.StatusMessage) Run Enable-TestSigning.ps1 first."
    }
    if ($signer.Subject -eq $signer.Issuer -and -not (Test-TestSigningActive)) {
        throw 'The package is signed with a test certificate, and Windows was not started with test signing on. Run Enable-TestSigning.ps1 and restart.'
    }
}
if (Test-RebootPending) {
    Write-Warning 'Windows waits for a restart to finish an update. Better restart first and run this again.'
}

$devices = @(Get-VirtioBlockDevice)
if ($devices.Count -eq 0) {
    throw 'This machine has no virtio block device (PCI\VEN_1AF4&DEV_1042 or DEV_1001). Attach one, a small disk is enough; Get-AttachHint.ps1 prints the lines. A virtio-scsi controller (DEV_1048, DEV_1004) is another device, which Ferrostor does not serve.'
}
foreach ($device in $devices) {
    $bound = if ($device.Service) { "driver $($device.Service) from $($device.Inf), version $($device.DriverVersion)" } else { 'no driver' }
    Write-Output "$($device.InstanceId): $bound; disks: $($device.DiskNumbers -join ', ')$(if ($device.HoldsWindows) { ', Windows lies on it' })"
}
$atRisk = @($devices | Where-Object { $_.HoldsWindows })
if ($atRisk.Count -gt 0 -and -not $AllowBootDisk) {
    throw "Windows lies on a disk of $($atRisk[0].InstanceId). If Ferrostor failed there, Windows would not start. Take a snapshot of the virtual machine, try Ferrostor with a second disk first, and run this with -AllowBootDisk."
}

$restartNeeded = $false
if ($PSCmdlet.ShouldProcess($infPath, "Add to the driver store and install on $($devices.Count) device(s) (pnputil /add-driver ... /install)")) {
    # A second run must not take Ferrostor for the driver that was there before.
    if ($null -eq (Get-UndoRecord -Name Install)) {
        Save-UndoRecord -Name Install -Record @{
            Devices = [object[]] @($devices | ForEach-Object { @{ InstanceId = $_.InstanceId; Service = "$($_.Service)"; Inf = "$($_.Inf)" } })
        }
    }
    $exitCode = Invoke-SystemCommand -Name pnputil.exe -Arguments '/add-driver', $infPath, '/install' -SuccessCodes 0, $NothingToDo, $RestartRequired
    $restartNeeded = $exitCode -eq $RestartRequired
    $others = @(Get-VirtioBlockDevice | Where-Object { $_.Service -ne 'ferrostor' })
    if ($Force) {
        foreach ($hardwareId in @($others | ForEach-Object { $_.HardwareId } | Select-Object -Unique)) {
            if ($PSCmdlet.ShouldProcess($hardwareId, "Put $infPath on it in spite of the rank of the driver that it has")) {
                if (Update-DeviceDriver -HardwareId $hardwareId -InfPath $infPath) { $restartNeeded = $true }
            }
        }
    }
    elseif ($others.Count -gt 0 -and -not $restartNeeded) {
        Write-Warning "Windows keeps $(@($others | ForEach-Object { $_.Service } | Select-Object -Unique) -join ', ') on $($others.Count) device(s), because it ranks that driver higher. Run this with -Force to put Ferrostor on them."
    }
}

Get-VirtioBlockDevice
if ($restartNeeded) { Write-Warning 'Restart Windows to finish.' }
