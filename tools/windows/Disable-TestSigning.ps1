<#
.SYNOPSIS
Undoes what Enable-TestSigning.ps1 did.

.DESCRIPTION
Reads what Enable-TestSigning.ps1 wrote down and, each after asking,
1. brings test signing in the boot entry back to what it was before (bcdedit);
2. removes from LocalMachine\Root and LocalMachine\TrustedPublisher exactly the
   certificates that it put there, by their thumbprints.

Before it does anything it checks, and refuses with the reason, that
- it runs as an administrator in a 64-bit PowerShell;
- Windows does not lie on a disk that Ferrostor serves: without test signing
  Windows could not load the driver and would not start. Run
  Uninstall-Ferrostor.ps1 first;
- BitLocker does not protect the system drive (see Enable-TestSigning.ps1).

Test signing takes effect with the next start; nothing is restarted.

.EXAMPLE
.\Disable-TestSigning.ps1 -WhatIf
Tells what would be undone.

.EXAMPLE
.\Disable-TestSigning.ps1
Undoes it, and asks before each step.

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
    Write-Warning 'Enable-TestSigning.ps1 has changed nothing here that is not undone already (there is no record in HKLM\SOFTWARE\Ferrostor\Undo). Nothing was done.'
    return
}
Assert-SystemDriveUnprotected
$served = @(Get-VirtioBlockDevice | Where-Object { $_.Service -eq 'ferrostor' })
if (@($served | Where-Object { $_.HoldsWindows }).Count -gt 0) {
    throw 'Windows lies on a disk that Ferrostor serves. Without test signing it could not load the driver and would not start. Run Uninstall-Ferrostor.ps1 first.'
}
if ($served.Count -gt 0) {
    Write-Warning "Ferrostor is still bound to $($served.Count) device(s), which will not start without test signing (code 52). Uninstall-Ferrostor.ps1 removes it."
}

$done = $true
if ((Get-TestSigningSetting) -ne $record.TestSigningBefore) {
    $arguments = @('/deletevalue', '{current}', 'testsigning')
    if ($null -ne $record.TestSigningBefore) {
        $value = if ($record.TestSigningBefore) { 'on' } else { 'off' }
        $arguments = @('/set', '{current}', 'testsigning', $value)
    }
    if ($PSCmdlet.ShouldProcess('The boot entry of this Windows', "Bring test signing back to what it was (bcdedit $($arguments -join ' '))")) {
        $null = Invoke-SystemCommand -Name bcdedit.exe -Arguments $arguments
    }
    else { $done = $false }
}
foreach ($entry in $record.Imported) {
    $path = "Cert:\LocalMachine\$entry"
    if (-not (Test-Path -LiteralPath $path)) { continue }
    if ($PSCmdlet.ShouldProcess($path, 'Remove the certificate that Enable-TestSigning.ps1 put there')) {
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
