<#
.SYNOPSIS
Turns on Driver Verifier for ferrostor.sys, with the checks of Storport.

.DESCRIPTION
After asking, the script does this:
1. It selects the standard options of Driver Verifier for ferrostor.sys
   (verifier /standard /driver ferrostor.sys). They include DDI compliance checking,
   DMA checking, special pool and deadlock detection.
2. It sets how long they last (verifier /bootmode).
3. It turns on Storport verification, which has no option of its own:
   VerifyLevel = 1 in HKLM\SYSTEM\CurrentControlSet\Control\StorPort\Verifier.

All take effect with the next start. If the driver breaks a rule, Windows stops with
bug check 0xC4 or 0xF1. The machine gets slower, so do not measure with it.

Before it changes anything, the script checks these conditions. If one is not met,
it stops and says what to do next:
- It runs as an administrator in a 64-bit PowerShell.
- The service ferrostor is installed.
- Driver Verifier has no settings for other drivers. They would be lost.
It warns if Windows would not write a dump.

Disable-DriverVerifier.ps1 undoes the changes. If Windows does not start any more:
- With the default -BootMode ResetOnBootFail, Driver Verifier turns itself off after
  a failed start. VerifyLevel stays. Microsoft documents it as a part of Driver
  Verifier, for the drivers that it verifies.
- Or start in safe mode, and run Disable-DriverVerifier.ps1 or verifier /reset.
- Or use the command prompt of the recovery environment:
    reg load HKLM\off C:\Windows\System32\config\SYSTEM
    reg delete "HKLM\off\ControlSet001\Control\Session Manager\Memory Management" /v VerifyDrivers /f
    reg delete "HKLM\off\ControlSet001\Control\Session Manager\Memory Management" /v VerifyDriverLevel /f
    reg delete HKLM\off\ControlSet001\Control\StorPort\Verifier /v VerifyLevel /f
    reg unload HKLM\off
- Or go back to a snapshot of the virtual machine. Take one first.

.PARAMETER BootMode
How long the settings last. ResetOnBootFail: until a start fails.
ResetOnUnusualShutdown: until Windows stops unexpectedly. OneBoot: for the next start
only. Persistent: until they are undone.

.EXAMPLE
.\Enable-DriverVerifier.ps1 -WhatIf
Checks everything and says what would be set.

.EXAMPLE
.\Enable-DriverVerifier.ps1 -BootMode OneBoot
Turns it on for the next start only.

.LINK
Disable-DriverVerifier.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param(
    [ValidateSet('ResetOnBootFail', 'ResetOnUnusualShutdown', 'OneBoot', 'Persistent')]
    [string] $BootMode = 'ResetOnBootFail'
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

$Driver = 'ferrostor.sys'
$StorportKey = 'HKLM:\SYSTEM\CurrentControlSet\Control\StorPort\Verifier'
$VerifierKey = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'

# Exit codes of verifier.exe: done; done, restart needed.
$Done = 0, 2

Assert-Administrator
if (-not (Test-Path -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Services\ferrostor')) {
    throw 'The service ferrostor is not installed. Run Install-Ferrostor.ps1 first.'
}
$selected = "$(Get-RegistryValue -Key $VerifierKey -Name VerifyDrivers)".Trim()
if ($selected -ne '' -and $selected -ne $Driver) {
    throw "Driver Verifier already has settings for other drivers ($selected), which this script would replace. Clear them first: run verifier /reset, restart Windows, and run this script again."
}
if ((Get-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control\CrashControl' -Name CrashDumpEnabled) -eq 0) {
    Write-Warning 'Windows writes no dump when it stops (CrashDumpEnabled is 0), and a bug check says little without one. Turn dumps on in System Properties, Startup and Recovery.'
}

$record = @{
    VerifyLevelBefore = Get-RegistryValue -Key $StorportKey -Name VerifyLevel
}
if ($PSCmdlet.ShouldProcess($Driver, 'Verify from the next start on (verifier /standard /driver)')) {
    if ($null -eq (Get-UndoRecord -Name DriverVerifier)) { Save-UndoRecord -Name DriverVerifier -Record $record }
    $null = Invoke-SystemCommand -Name verifier.exe -Arguments '/standard', '/driver', $Driver -SuccessCodes $Done
    $null = Invoke-SystemCommand -Name verifier.exe -Arguments '/bootmode', $BootMode.ToLowerInvariant() -SuccessCodes $Done
}
if ($PSCmdlet.ShouldProcess($StorportKey, 'Turn on Storport verification (VerifyLevel = 1)')) {
    if ($null -eq (Get-UndoRecord -Name DriverVerifier)) { Save-UndoRecord -Name DriverVerifier -Record $record }
    if (-not (Test-Path -LiteralPath $StorportKey)) { $null = New-Item -Path $StorportKey -Force -Confirm:$false }
    Set-ItemProperty -LiteralPath $StorportKey -Name VerifyLevel -Value 1 -Type DWord -Confirm:$false
}

[pscustomobject] @{
    DriversVerified      = "$(Get-RegistryValue -Key $VerifierKey -Name VerifyDrivers)".Trim()
    StorportVerifyLevel  = Get-RegistryValue -Key $StorportKey -Name VerifyLevel
    BootMode             = $BootMode
    RestartNeeded        = $true
}
