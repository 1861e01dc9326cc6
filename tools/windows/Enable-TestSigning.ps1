<#
.SYNOPSIS
Makes Windows load drivers that are signed with the Ferrostor test certificate.

.DESCRIPTION
Does two things, and asks before each:

1. Adds the package's certificate to the stores LocalMachine\Root and
   LocalMachine\TrustedPublisher, so that Windows accepts the package's catalog.
2. Turns on test mode (bcdedit /set {current} testsigning on). It takes effect with
   the next start. Windows then shows "Test Mode" on the desktop.

Both weaken the protection of the machine. Use a virtual machine for tests.

Before it changes anything, the script checks these conditions. If one is not met,
it stops and says what to do next:
- It runs as an administrator in a 64-bit PowerShell.
- Secure Boot is off. Test mode cannot be turned on while it is on.
- BitLocker does not protect the system drive. Otherwise it would ask for the
  recovery key at the next start. Suspend it first:
  Suspend-BitLocker -MountPoint C: -RebootCount 2
- The package's driver file and catalog are unchanged and signed with this
  certificate, which can sign code and nothing else.

The earlier state is recorded in the registry (HKLM\SOFTWARE\Ferrostor\Undo), and
Disable-TestSigning.ps1 restores it. The script does not restart Windows.

.PARAMETER CertificatePath
The certificate. Default: ferrostor-test.cer in the package that contains this
script.

.PARAMETER PackagePath
The folder with ferrostor.sys and ferrostor.cat. Default: the folder for this
machine's architecture (x64 or arm64) in the package that contains this script.

.EXAMPLE
.\Enable-TestSigning.ps1 -WhatIf
Checks everything and says what would be done.

.EXAMPLE
.\Enable-TestSigning.ps1
Does both things, and asks before each.

.EXAMPLE
.\Enable-TestSigning.ps1 -CertificatePath D:\ferrostor-test.cer -PackagePath D:\x64 -Confirm:$false
Takes the files from drive D: and does not ask.

.LINK
Disable-TestSigning.ps1
#>
[CmdletBinding(SupportsShouldProcess = $true, ConfirmImpact = 'High')]
param(
    [string] $CertificatePath,
    [string] $PackagePath
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemCommand', 'SystemFacts', 'PackageSignature', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

Assert-Administrator
$packageRoot = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)
if (-not $CertificatePath) { $CertificatePath = Join-Path $packageRoot 'ferrostor-test.cer' }
if (-not $PackagePath) { $PackagePath = Join-Path $packageRoot (Get-PackageArchitecture) }
$CertificatePath = (Resolve-Path -LiteralPath $CertificatePath).ProviderPath
$PackagePath = (Resolve-Path -LiteralPath $PackagePath).ProviderPath

if (Test-SecureBoot) {
    throw 'Secure Boot is on, and test mode cannot be turned on with it. Shut the machine down, turn Secure Boot off (docs\windows.md in the package says where, for libvirt, QEMU, Proxmox and UTM), start, and run this script again.'
}
Assert-SystemDriveUnprotected
if (Test-RebootPending) {
    Write-Warning 'Windows needs a restart to finish an update. Answer No, restart, and run this script again.'
}
$certificate = Get-TestCertificate -Path $CertificatePath
foreach ($signature in Get-PackageSignature -PackagePath $PackagePath) {
    if ($signature.SignerCertificate.Thumbprint -ne $certificate.Thumbprint) {
        throw "$($signature.Path) is signed with the certificate $($signature.SignerCertificate.Thumbprint), and $CertificatePath is the certificate $($certificate.Thumbprint). Copy the whole package again, or name the files that belong together: Enable-TestSigning.ps1 -CertificatePath X.cer -PackagePath FOLDER"
    }
}

$thumbprint = $certificate.Thumbprint
$setting = Get-TestSigningSetting
$missing = @('Root', 'TrustedPublisher' | Where-Object {
        -not (Test-Path -LiteralPath "Cert:\LocalMachine\$_\$thumbprint")
    })
Write-Verbose "Certificate $thumbprint ($($certificate.Subject)), valid until $($certificate.NotAfter); missing in: $($missing -join ', ')"
Write-Verbose "Test mode in the boot entry: $(if ($null -eq $setting) { 'not set' } else { $setting }); now: $(Test-TestSigningActive)"

# A second run adds to the record of the first one. It does not take the changes of
# the first one for the original state.
$earlier = Get-UndoRecord -Name TestSigning
$record = @{ TestSigningBefore = $setting; Imported = [object[]] @() }
if ($null -ne $earlier) {
    $record = @{ TestSigningBefore = $earlier.TestSigningBefore; Imported = [object[]] @($earlier.Imported) }
}

foreach ($store in $missing) {
    if ($PSCmdlet.ShouldProcess("Cert:\LocalMachine\$store", "Trust the certificate $thumbprint ($($certificate.Subject)) to sign code")) {
        $record.Imported = [object[]] @($record.Imported + "$store\$thumbprint")
        Save-UndoRecord -Name TestSigning -Record $record
        $null = Import-Certificate -FilePath $CertificatePath -CertStoreLocation "Cert:\LocalMachine\$store" -Confirm:$false
    }
}
if ($setting -ne $true) {
    if ($PSCmdlet.ShouldProcess('The boot entry of this Windows', 'Turn on test mode (bcdedit /set {current} testsigning on)')) {
        Save-UndoRecord -Name TestSigning -Record $record
        $null = Invoke-SystemCommand -Name bcdedit.exe -Arguments '/set', '{current}', 'testsigning', 'on'
        if ((Get-TestSigningSetting) -ne $true) {
            throw 'bcdedit reported no error, but test mode is not on in the boot entry. A policy may forbid it: ask the administrator of that policy.'
        }
    }
}

[pscustomobject] @{
    CertificateTrusted   = @('Root', 'TrustedPublisher' | Where-Object { -not (Test-Path -LiteralPath "Cert:\LocalMachine\$_\$thumbprint") }).Count -eq 0
    Thumbprint           = $thumbprint
    TestSigningInEntry   = (Get-TestSigningSetting) -eq $true
    TestSigningActive    = Test-TestSigningActive
    RestartNeeded        = ((Get-TestSigningSetting) -eq $true) -ne (Test-TestSigningActive)
}
