<#
.SYNOPSIS
Undoes what Enable-DriverVerifier.ps1 did.

.DESCRIPTION
After asking, it
1. clears the settings of Driver Verifier (verifier /reset). Before
   Enable-DriverVerifier.ps1 there were none, else that script had refused;
2. brings Storport's VerifyLevel back to what it was, or removes it.

Both take effect with the next start; nothing is restarted. It works in safe mode
too. Before it does anything it checks that it runs as an administrator in a
64-bit PowerShell, and that there is something to undo.

.EXAMPLE
.\Disable-DriverVerifier.ps1 -WhatIf
Tells what would be undone.

.EXAMPLE
.\Disable-DriverVerifier.ps1
Undoes it, and asks before each step.

.LINK
Enable-DriverVerifier.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param()

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

$StorportKey = 'HKLM:\SYSTEM\CurrentControlSet\Control\StorPort\Verifier'
$VerifierKey = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management'

# verifier.exe: done; done, and a restart is needed.
$Done = 0, 2

Assert-Administrator
$record = Get-UndoRecord -Name DriverVerifier
if ($null -eq $record) {
    Write-Warning 'Enable-DriverVerifier.ps1 has changed nothing here that is not undone already (there is no record in HKLM\SOFTWARE\Ferrostor\Undo). Nothing was done.'
    return
}

$undone = $true
$selected = "$(Get-RegistryValue -Key $VerifierKey -Name VerifyDrivers)".Trim()
if ($PSCmdlet.ShouldProcess("Driver Verifier (set for: $selected)", 'Clear all its settings (verifier /reset)')) {
    $null = Invoke-SystemCommand -Name verifier.exe -Arguments '/reset' -SuccessCodes $Done
}
else { $undone = $false }

if ($null -ne (Get-RegistryValue -Key $StorportKey -Name VerifyLevel)) {
    $before = $record.VerifyLevelBefore
    if ($PSCmdlet.ShouldProcess($StorportKey, "Bring VerifyLevel back to what it was ($(if ($null -eq $before) { 'absent' } else { $before }))")) {
        if ($null -eq $before) { Remove-ItemProperty -LiteralPath $StorportKey -Name VerifyLevel -Confirm:$false }
        else { Set-ItemProperty -LiteralPath $StorportKey -Name VerifyLevel -Value $before -Type DWord -Confirm:$false }
    }
    else { $undone = $false }
}
if ($undone) {
    Remove-UndoRecord -Name DriverVerifier -WhatIf:$WhatIfPreference
}

[pscustomobject] @{
    DriversVerified     = "$(Get-RegistryValue -Key $VerifierKey -Name VerifyDrivers)".Trim()
    StorportVerifyLevel = Get-RegistryValue -Key $StorportKey -Name VerifyLevel
    RestartNeeded       = $undone
}
