# The signatures of the driver package, and the uses that the signer's certificate
# allows.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$CodeSigning = '1.3.6.1.5.5.7.3.3'
$PackageFiles = @('ferrostor.inf', 'ferrostor.sys', 'ferrostor.cat')

# NotTrusted and UnknownError: the status of a test certificate that is not trusted yet.
$IntactStatus = @('Valid', 'NotTrusted', 'UnknownError')

function Get-PackageSignature {
    <#
    .SYNOPSIS
    Returns the signatures of a package's driver file and catalog. Throws if a file
    is missing, is not signed, or was changed after it was signed.
    .PARAMETER PackagePath
    The folder with ferrostor.inf, ferrostor.sys and ferrostor.cat.
    .EXAMPLE
    Get-PackageSignature -PackagePath D:\x64
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $PackagePath
    )

    foreach ($name in $PackageFiles) {
        if (-not (Test-Path -LiteralPath (Join-Path $PackagePath $name) -PathType Leaf)) {
            throw "There is no $name in $PackagePath. Name the folder of the package for this architecture with -PackagePath."
        }
    }
    foreach ($name in 'ferrostor.sys', 'ferrostor.cat') {
        $signature = Get-AuthenticodeSignature -LiteralPath (Join-Path $PackagePath $name)
        if ($null -eq $signature.SignerCertificate -or "$($signature.Status)" -notin $IntactStatus) {
            throw "$name in $PackagePath is not signed, or was changed after it was signed: $($signature.Status), $($signature.StatusMessage) Copy the package again."
        }
        $signature
    }
}

function Get-TestCertificate {
    <#
    .SYNOPSIS
    Reads a certificate from a file. Throws unless it is valid now and allows code
    signing and nothing else.
    .PARAMETER Path
    The .cer file.
    .EXAMPLE
    Get-TestCertificate -Path D:\ferrostor-test.cer
    #>
    [CmdletBinding()]
    [OutputType([System.Security.Cryptography.X509Certificates.X509Certificate2])]
    param(
        [Parameter(Mandatory = $true)] [string] $Path
    )

    $certificate = [System.Security.Cryptography.X509Certificates.X509Certificate2]::new($Path)
    $now = Get-Date
    if ($now -lt $certificate.NotBefore -or $now -gt $certificate.NotAfter) {
        throw "The certificate $Path is not valid now. It is valid from $($certificate.NotBefore) to $($certificate.NotAfter): check the clock, or make a new package."
    }
    $usages = @($certificate.Extensions |
            Where-Object { $_ -is [System.Security.Cryptography.X509Certificates.X509EnhancedKeyUsageExtension] } |
            ForEach-Object { $_.EnhancedKeyUsages } | ForEach-Object { $_.Value })
    if ($usages.Count -ne 1 -or $usages[0] -ne $CodeSigning) {
        throw "The certificate $Path allows more than code signing (extended key usages: $($usages -join ', ')), so this script does not trust it. Make a package with a certificate for code signing only."
    }
    $authorities = @($certificate.Extensions |
            Where-Object { $_ -is [System.Security.Cryptography.X509Certificates.X509BasicConstraintsExtension] -and $_.CertificateAuthority })
    if ($authorities.Count -gt 0) {
        throw "The certificate $Path can issue other certificates, so this script does not trust it. Make a package with a certificate for code signing only."
    }
    return $certificate
}

Export-ModuleMember -Function Get-PackageSignature, Get-TestCertificate
