# Who signed the driver package, and what the certificate of the signer may do.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$CodeSigning = '1.3.6.1.5.5.7.3.3'
$PackageFiles = @('ferrostor.inf', 'ferrostor.sys', 'ferrostor.cat')

# NotTrusted and UnknownError: what a test certificate gives before it is trusted.
$IntactStatus = @('Valid', 'NotTrusted', 'UnknownError')

function Get-PackageSignature {
    <#
    .SYNOPSIS
    Returns the signatures of a package's driver file and catalog; throws if a
    file is missing, not signed or was changed after it was signed.
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
            throw "There is no $name in $PackagePath : give the folder of the package for this architecture with -PackagePath."
        }
    }
    foreach ($name in 'ferrostor.sys', 'ferrostor.cat') {
        $signature = Get-AuthenticodeSignature -LiteralPath (Join-Path $PackagePath $name)
        if ($null -eq $signature.SignerCertificate -or "$($signature.Status)" -notin $IntactStatus) {
            throw "$name in $PackagePath is not signed or was changed after it was signed: $($signature.Status), $($signature.StatusMessage)"
        }
        $signature
    }
}

function Get-TestCertificate {
    <#
    .SYNOPSIS
    Reads a certificate from a file; throws unless it is in force and can sign
    code and do nothing else.
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
        throw "The certificate $Path is not in force now: it is from $($certificate.NotBefore) to $($certificate.NotAfter)."
    }
    $usages = @($certificate.Extensions |
            Where-Object { $_ -is [System.Security.Cryptography.X509Certificates.X509EnhancedKeyUsageExtension] } |
            ForEach-Object { $_.EnhancedKeyUsages } | ForEach-Object { $_.Value })
    if ($usages.Count -ne 1 -or $usages[0] -ne $CodeSigning) {
        throw "The certificate $Path could do more than sign code (its extended key usages: $($usages -join ', ')): it is not put among the trusted roots."
    }
    $authorities = @($certificate.Extensions |
            Where-Object { $_ -is [System.Security.Cryptography.X509Certificates.X509BasicConstraintsExtension] -and $_.CertificateAuthority })
    if ($authorities.Count -gt 0) {
        throw "The certificate $Path can issue other certificates: it is not put among the trusted roots."
    }
    return $certificate
}

Export-ModuleMember -Function Get-PackageSignature, Get-TestCertificate
