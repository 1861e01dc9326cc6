<#
.SYNOPSIS
Undoes the changes of Enable-DriverVerifier.ps1.

.DESCRIPTION
After asking, the script does this:
1. It clears the settings of Driver Verifier (verifier /reset). There were none before
   Enable-DriverVerifier.ps1, which otherwise would have stopped.
2. It sets Storport's VerifyLevel back to its earlier value, or removes it.

Both take effect with the next start. The script does not restart Windows, and works
in safe mode too. Before it changes anything, it checks that it runs as an
administrator in a 64-bit PowerShell, and that there is something to undo.

.EXAMPLE
.\Disable-DriverVerifier.ps1 -WhatIf
Says what would be undone.

.EXAMPLE
.\Disable-DriverVerifier.ps1
Undoes the changes, and asks before each step.

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

# Exit codes of verifier.exe: done; done, restart needed.
$Done = 0, 2

Assert-Administrator
$record = Get-UndoRecord -Name DriverVerifier
if ($null -eq $record) {
    Write-Warning 'There is nothing to undo: HKLM\SOFTWARE\Ferrostor\Undo has no record of Enable-DriverVerifier.ps1. Nothing was done.'
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
    if ($PSCmdlet.ShouldProcess($StorportKey, "Set VerifyLevel back to its earlier state ($(if ($null -eq $before) { 'absent' } else { $before }))")) {
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
