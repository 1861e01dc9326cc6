# Undo records: what a script is going to change, written before the change, for the
# script that undoes it. They are values of a registry key that only administrators
# can write, because the undo acts on them.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$RecordKey = 'HKLM:\SOFTWARE\Ferrostor\Undo'

function Get-UndoRecord {
    <#
    .SYNOPSIS
    Returns the record with this name, or nothing if there is none.
    .PARAMETER Name
    What was changed, for instance TestSigning.
    .EXAMPLE
    Get-UndoRecord -Name TestSigning
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Name
    )

    if (-not (Test-Path -LiteralPath $RecordKey)) { return }
    $value = (Get-Item -LiteralPath $RecordKey).GetValue($Name)
    if ($null -eq $value) { return }
    return ConvertFrom-Json -InputObject $value
}

function Save-UndoRecord {
    <#
    .SYNOPSIS
    Writes the record with this name, and replaces an older one.
    .PARAMETER Name
    The record's name, such as TestSigning.
    .PARAMETER Record
    What the undo needs to know.
    .EXAMPLE
    Save-UndoRecord -Name TestSigning -Record @{ TestSigningBefore = $false; Imported = @() }
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true)] [string] $Name,
        [Parameter(Mandatory = $true)] [System.Collections.IDictionary] $Record
    )

    if ($PSCmdlet.ShouldProcess("$RecordKey, $Name", 'Record what will be changed')) {
        if (-not (Test-Path -LiteralPath $RecordKey)) {
            $null = New-Item -Path $RecordKey -Force
        }
        $json = ConvertTo-Json -InputObject $Record -Depth 5 -Compress
        Set-ItemProperty -LiteralPath $RecordKey -Name $Name -Value $json -Type String
    }
}

function Remove-UndoRecord {
    <#
    .SYNOPSIS
    Removes the record with this name, after its changes were undone.
    .PARAMETER Name
    The record's name.
    .EXAMPLE
    Remove-UndoRecord -Name TestSigning
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true)] [string] $Name
    )

    if ($PSCmdlet.ShouldProcess("$RecordKey, $Name", 'Remove the record of what has been undone')) {
        Remove-ItemProperty -LiteralPath $RecordKey -Name $Name
    }
}

Export-ModuleMember -Function Get-UndoRecord, Save-UndoRecord, Remove-UndoRecord
