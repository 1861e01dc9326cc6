<#
.SYNOPSIS
Removes the Ferrostor driver. Its devices get the driver back that they had before.

.DESCRIPTION
Removes every package of ferrostor.inf from the driver store and from the devices
that use it (pnputil /delete-driver oemN.inf /uninstall), after asking. Windows then
gives each device the best driver that is left, usually viostor if it was there
before. The script lists the virtio block devices and their drivers.

Before it changes anything, the script checks these conditions. If one is not met,
it stops and says what to do next:
- It runs as an administrator in a 64-bit PowerShell.
- If Windows runs from a disk of Ferrostor, -AllowBootDisk is given, and the driver
  that the device had before Install-Ferrostor.ps1 is still there. Without any
  driver Windows would not start. The safest way is to attach that disk to SATA, to
  start from it, and to run this script then.

To give back a single device only, use Device Manager: Properties, Driver, Roll Back
Driver. Test mode and the certificate stay. Disable-TestSigning.ps1 removes them. The
script does not restart Windows.

.PARAMETER AllowBootDisk
Continues if Windows runs from a disk of Ferrostor. Take a snapshot of the virtual
machine first.

.EXAMPLE
.\Uninstall-Ferrostor.ps1 -WhatIf
Checks everything and says what would be removed.

.EXAMPLE
.\Uninstall-Ferrostor.ps1
Removes the driver, after asking.

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
    Write-Warning 'The driver store has no package of ferrostor.inf. There is nothing to remove.'
}

$served = @(Get-VirtioBlockDevice | Where-Object { $_.Service -eq 'ferrostor' })
foreach ($device in @($served | Where-Object { $_.HoldsWindows })) {
    $before = @()
    if ($null -ne $record) {
        $before = @($record.Devices | Where-Object { $_.InstanceId -eq $device.InstanceId -and $_.Service -notin '', 'ferrostor' })
    }
    if ($before.Count -eq 0 -or -not (Test-Path -LiteralPath (Join-Path $env:SystemRoot "INF\$($before[0].Inf)"))) {
        throw "Windows runs from a disk of $($device.InstanceId), and the driver that this device had before Ferrostor is not there. Without any driver Windows would not start. Shut down, attach the disk to SATA, start, and run this script again."
    }
    if (-not $AllowBootDisk) {
        throw "Windows runs from a disk of $($device.InstanceId), which would go back to $($before[0].Service) ($($before[0].Inf)). Take a snapshot of the virtual machine, then run: Uninstall-Ferrostor.ps1 -AllowBootDisk"
    }
    Write-Warning "From the next start on, Windows uses $($before[0].Service) ($($before[0].Inf)) for the disk that it runs from."
}

$restartNeeded = $false
$done = $true
foreach ($package in $packages) {
    if ($PSCmdlet.ShouldProcess("$($package.Driver) (ferrostor.inf, version $($package.Version)), used by $($served.Count) device(s)", 'Remove from these devices and from the driver store (pnputil /delete-driver ... /uninstall)')) {
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
