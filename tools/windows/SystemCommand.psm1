# Runs programs of System32 and checks their exit codes. Their output is in the
# language of Windows: it is shown to people and never parsed.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Get-SystemCommandOutput {
    <#
    .SYNOPSIS
    Runs a program of System32 that only reads, and returns what it printed.
    .PARAMETER Name
    The program's file name, with .exe.
    .PARAMETER Arguments
    Its arguments.
    .EXAMPLE
    Get-SystemCommandOutput -Name pnputil.exe -Arguments '/enum-drivers'
    #>
    [CmdletBinding()]
    [OutputType([string[]])]
    param(
        [Parameter(Mandatory = $true)] [string] $Name,
        [Parameter(Mandatory = $true)] [string[]] $Arguments
    )

    $program = Join-Path $env:SystemRoot "System32\$Name"
    [string[]] $output = @(& $program @Arguments)
    if ($LASTEXITCODE -ne 0) {
        throw "$Name $($Arguments -join ' ') ended with exit code $LASTEXITCODE and printed: $($output -join ' ')"
    }
    return $output
}

function Invoke-SystemCommand {
    <#
    .SYNOPSIS
    Runs a program of System32 that changes the system, and returns its exit code.
    .DESCRIPTION
    The caller asks for permission first (ShouldProcess). An exit code that is not
    in SuccessCodes is an error, and the error has the program's output.
    .PARAMETER Name
    The program's file name, with .exe.
    .PARAMETER Arguments
    Its arguments.
    .PARAMETER SuccessCodes
    The exit codes that are not errors.
    .EXAMPLE
    Invoke-SystemCommand -Name bcdedit.exe -Arguments '/set', '{current}', 'testsigning', 'on'
    #>
    [CmdletBinding()]
    [OutputType([int])]
    param(
        [Parameter(Mandatory = $true)] [string] $Name,
        [Parameter(Mandatory = $true)] [string[]] $Arguments,
        [int[]] $SuccessCodes = @(0)
    )

    $program = Join-Path $env:SystemRoot "System32\$Name"
    [string[]] $output = @(& $program @Arguments)
    $exitCode = $LASTEXITCODE
    foreach ($line in $output) { Write-Verbose "${Name}: $line" }
    if ($exitCode -notin $SuccessCodes) {
        throw "$Name $($Arguments -join ' ') ended with exit code $exitCode and printed: $($output -join ' ')"
    }
    return $exitCode
}

Export-ModuleMember -Function Get-SystemCommandOutput, Invoke-SystemCommand
