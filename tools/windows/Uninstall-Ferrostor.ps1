<#
.SYNOPSIS
Removes the Ferrostor driver; its devices go back to the driver that they had.

.DESCRIPTION
Removes every package of ferrostor.inf from the driver store and from the devices
that use it (pnputil /delete-driver oemN.inf /uninstall), after asking. Windows
gives such a device the best driver that is left, as a rule viostor if that was
there before. Then it tells which driver each device has.

Before it does anything it checks, and refuses with the reason, that
- it runs as an administrator in a 64-bit PowerShell;
- Windows does not lie on a disk that Ferrostor serves, unless -AllowBootDisk is
  given; and even then only if the driver that the device had before
  Install-Ferrostor.ps1 is still there. Without any driver Windows would not
  start. The sure way is to give that disk another bus (SATA) in the settings of
  the virtual machine, start from it, and then run this.

Test signing and the certificate stay: Disable-TestSigning.ps1 undoes those.
Nothing is restarted.

.PARAMETER AllowBootDisk
Go on even if Windows lies on a disk that Ferrostor serves. Take a snapshot of
the virtual machine first.

.EXAMPLE
.\Uninstall-Ferrostor.ps1 -WhatIf
Checks everything and tells what would be removed.

.EXAMPLE
.\Uninstall-Ferrostor.ps1
Removes it, after asking.

.LINK
Install-Ferrostor.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param(
    [switch] $AllowBootDisk
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

$RestartRequired = 3010

Assert-Administrator
$packages = @(Get-FerrostorDriverPackage)
$record = Get-UndoRecord -Name Install
if ($packages.Count -eq 0) {
    Write-Warning 'There is no package of ferrostor.inf in the driver store. Nothing was removed.'
}

$served = @(Get-VirtioBlockDevice | Where-Object { $_.Service -eq 'ferrostor' })
foreach ($device in @($served | Where-Object { $_.HoldsWindows })) {
    if (-not $AllowBootDisk) {
        throw "Windows lies on a disk of $($device.InstanceId), which Ferrostor serves. Give the disk another bus (SATA) in the settings of the virtual machine, start from it and run this again; or take a snapshot and run this with -AllowBootDisk."
    }
    $before = @()
    if ($null -ne $record) {
        $before = @($record.Devices | Where-Object { $_.InstanceId -eq $device.InstanceId -and $_.Service -notin '', 'ferrostor' })
    }
    if ($before.Count -eq 0 -or -not (Test-Path -LiteralPath (Join-Path $env:SystemRoot "INF\$($before[0].Inf)"))) {
        throw "Windows lies on a disk of $($device.InstanceId), and no other driver for it is known here: without Ferrostor, Windows would not start. Give the disk another bus (SATA) in the settings of the virtual machine and start from it, or install another driver for it (viostor) first."
    }
    Write-Warning "Windows will start by $($before[0].Service) ($($before[0].Inf)) next time."
}

$restartNeeded = $false
$done = $true
foreach ($package in $packages) {
    if ($PSCmdlet.ShouldProcess("$($package.Driver) (ferrostor.inf, version $($package.Version)), used by $($served.Count) device(s)", 'Remove from the devices and from the driver store (pnputil /delete-driver ... /uninstall)')) {
        $exitCode = Invoke-SystemCommand -Name pnputil.exe -Arguments '/delete-driver', $package.Driver, '/uninstall' -SuccessCodes 0, $RestartRequired
        if ($exitCode -eq $RestartRequired) { $restartNeeded = $true }
    }
    else { $done = $false }
}
if ($done -and $null -ne $record) {
    Remove-UndoRecord -Name Install -WhatIf:$WhatIfPreference
}

Get-VirtioBlockDevice
if ($restartNeeded) { Write-Warning 'Restart Windows to finish.' }
