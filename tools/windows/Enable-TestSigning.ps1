<#
.SYNOPSIS
Lets Windows load drivers that are signed with the Ferrostor test certificate.

.DESCRIPTION
Does two things, each after asking:

1. Puts the certificate of the package into the stores LocalMachine\Root and
   LocalMachine\TrustedPublisher, so that Windows accepts the package's catalog.
2. Turns on test signing (bcdedit /set {current} testsigning on). It takes effect
   with the next start, and Windows then says "Test Mode" on the desktop.

Both make the machine trust more than it did: do it in a virtual machine that is
there for testing.

Before it does anything it checks, and refuses with the reason, that
- it runs as an administrator in a 64-bit PowerShell;
- Secure Boot is off: with Secure Boot on, test signing cannot be turned on. Turn
  it off in the settings of the virtual machine's firmware;
- BitLocker does not protect the system drive: it would ask for the recovery key
  at the next start. Suspend it first (Suspend-BitLocker -MountPoint C: -RebootCount 2);
- driver file and catalog of the package are whole and signed with this very
  certificate, which may sign code and nothing else.

What was so before is kept in the registry (HKLM\SOFTWARE\Ferrostor\Undo);
Disable-TestSigning.ps1 brings it back. Nothing is restarted.

.PARAMETER CertificatePath
The certificate. Default: ferrostor-test.cer of the package that this script is
part of (two folders up).

.PARAMETER PackagePath
The folder with ferrostor.sys and ferrostor.cat. Default: the folder of this
machine's architecture (x64 or arm64) beside the certificate.

.EXAMPLE
.\Enable-TestSigning.ps1 -WhatIf
Checks everything and tells what would be done.

.EXAMPLE
.\Enable-TestSigning.ps1
Does it, and asks before each of the two steps.

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
    throw 'Secure Boot is on, and then test signing cannot be turned on. Shut the machine down, turn Secure Boot off in its firmware settings (with libvirt and QEMU: a firmware without enrolled keys) and run this again.'
}
Assert-SystemDriveUnprotected
if (Test-RebootPending) {
    Write-Warning 'Windows waits for a restart to finish an update. Better restart first and run this again.'
}
$certificate = Get-TestCertificate -Path $CertificatePath
foreach ($signature in Get-PackageSignature -PackagePath $PackagePath) {
    if ($signature.SignerCertificate.Thumbprint -ne $certificate.Thumbprint) {
        throw "$($signature.Path) is signed by another certificate ($($signature.SignerCertificate.Thumbprint)) than $CertificatePath ($($certificate.Thumbprint))."
    }
}

$thumbprint = $certificate.Thumbprint
$setting = Get-TestSigningSetting
$missing = @('Root', 'TrustedPublisher' | Where-Object {
        -not (Test-Path -LiteralPath "Cert:\LocalMachine\$_\$thumbprint")
    })
Write-Verbose "Certificate $thumbprint ($($certificate.Subject)), in force until $($certificate.NotAfter); not yet in: $($missing -join ', ')"
Write-Verbose "Test signing in the boot entry: $(if ($null -eq $setting) { 'not mentioned' } else { $setting }); now: $(Test-TestSigningActive)"

# A second run adds to what the first one wrote down, and never takes what the
# first one did for the state before.
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
    if ($PSCmdlet.ShouldProcess('The boot entry of this Windows', 'Turn on test signing (bcdedit /set {current} testsigning on)')) {
        Save-UndoRecord -Name TestSigning -Record $record
        $null = Invoke-SystemCommand -Name bcdedit.exe -Arguments '/set', '{current}', 'testsigning', 'on'
        if ((Get-TestSigningSetting) -ne $true) {
            throw 'bcdedit reported no error, yet test signing is not on in the boot entry. A policy may forbid it.'
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
