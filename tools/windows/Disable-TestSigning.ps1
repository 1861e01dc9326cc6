<#
.SYNOPSIS
Undoes the changes of Enable-TestSigning.ps1.

.DESCRIPTION
Reads the record of Enable-TestSigning.ps1, and asks before each of these steps:
1. Sets test mode in the boot entry back to its earlier state (bcdedit).
2. Removes the certificates that the script added to LocalMachine\Root and
   LocalMachine\TrustedPublisher, by their thumbprints.

Before it changes anything, the script checks these conditions. If one is not met,
it stops and says what to do next:
- It runs as an administrator in a 64-bit PowerShell.
- Windows does not run from a disk that uses Ferrostor. Without test mode Windows
  could not load the driver and would not start. Run Uninstall-Ferrostor.ps1 first.
- BitLocker does not protect the system drive (see Enable-TestSigning.ps1).

The change of test mode takes effect with the next start. The script does not
restart Windows.

.EXAMPLE
.\Disable-TestSigning.ps1 -WhatIf
Says what would be undone.

.EXAMPLE
.\Disable-TestSigning.ps1
Undoes the changes, and asks before each step.

.LINK
Enable-TestSigning.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param()

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

Assert-Administrator
$record = Get-UndoRecord -Name TestSigning
if ($null -eq $record) {
    Write-Warning 'There is nothing to undo: HKLM\SOFTWARE\Ferrostor\Undo has no record of Enable-TestSigning.ps1. Nothing was done.'
    return
}
Assert-SystemDriveUnprotected
$served = @(Get-VirtioBlockDevice | Where-Object { $_.Service -eq 'ferrostor' })
if (@($served | Where-Object { $_.HoldsWindows }).Count -gt 0) {
    throw 'Windows runs from a disk that uses Ferrostor. Without test mode it could not load the driver and would not start. Run Uninstall-Ferrostor.ps1 first, then restart Windows and run this script again.'
}
if ($served.Count -gt 0) {
    Write-Warning "$($served.Count) device(s) still use Ferrostor and do not start without test mode (code 52). Uninstall-Ferrostor.ps1 removes it."
}

$done = $true
if ((Get-TestSigningSetting) -ne $record.TestSigningBefore) {
    $arguments = @('/deletevalue', '{current}', 'testsigning')
    if ($null -ne $record.TestSigningBefore) {
        $value = if ($record.TestSigningBefore) { 'on' } else { 'off' }
        $arguments = @('/set', '{current}', 'testsigning', $value)
    }
    if ($PSCmdlet.ShouldProcess('The boot entry of this Windows', "Set test mode back to its earlier state (bcdedit $($arguments -join ' '))")) {
        $null = Invoke-SystemCommand -Name bcdedit.exe -Arguments $arguments
    }
    else { $done = $false }
}
foreach ($entry in $record.Imported) {
    $path = "Cert:\LocalMachine\$entry"
    if (-not (Test-Path -LiteralPath $path)) { continue }
    if ($PSCmdlet.ShouldProcess($path, 'Remove the certificate that Enable-TestSigning.ps1 added')) {
        Remove-Item -LiteralPath $path -Confirm:$false
    }
    else { $done = $false }
}
if ($done) {
    Remove-UndoRecord -Name TestSigning -WhatIf:$WhatIfPreference
}

[pscustomobject] @{
    TestSigningInEntry   = (Get-TestSigningSetting) -eq $true
    TestSigningActive    = Test-TestSigningActive
    CertificatesLeft     = @($record.Imported | Where-Object { Test-Path -LiteralPath "Cert:\LocalMachine\$_" })
    RestartNeeded        = ((Get-TestSigningSetting) -eq $true) -ne (Test-TestSigningActive)
}
