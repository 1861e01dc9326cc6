# Collects in a folder what is needed to analyse a fault of the driver, or to read its
# numbers. The parts are independent: if one cannot be collected, the report says so
# and has the others.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

foreach ($module in 'SystemCommand', 'SystemFacts', 'UndoRecord') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Verbose:$false
}

# Events of the System log: from the driver and Storport (11 controller error, 15 not
# ready, 129 reset, 153 retry), about a driver or device that did not start (219,
# 7026), and about a stop (41, 1001) or an unexpected restart of Windows (6008).
$Providers = 'ferrostor', 'viostor', 'storport', 'disk', 'Ntfs', 'Microsoft-Windows-Ntfs'
$Ids = 11, 15, 41, 51, 129, 153, 154, 157, 219, 1001, 6008, 7026

$Logs = 'Microsoft-Windows-Storage-Storport/Operational', 'Microsoft-Windows-Storage-Storport/Health',
'Microsoft-Windows-Kernel-PnP/Configuration', 'Microsoft-Windows-CodeIntegrity/Operational'

function Select-SetupLogSection {
    <#
    .SYNOPSIS
    Returns the sections of a setupapi.dev.log that match a pattern.
    .DESCRIPTION
    A section runs from a line that begins with ">>>  [" to one that begins with
    "<<<  [".
    .PARAMETER Line
    The lines of the log.
    .PARAMETER Pattern
    A regular expression.
    .EXAMPLE
    Get-Content C:\Windows\INF\setupapi.dev.log | Select-SetupLogSection -Pattern VEN_1AF4
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param(
        [Parameter(Mandatory = $true, ValueFromPipeline = $true)] [AllowEmptyString()] [string] $Line,
        [Parameter(Mandatory = $true)] [string] $Pattern
    )

    begin {
        $section = [System.Collections.Generic.List[string]]::new()
        $wanted = $false
    }
    process {
        if ($Line.StartsWith('>>>  [')) {
            $section.Clear()
            $wanted = $false
        }
        $section.Add($Line)
        if ($Line -match $Pattern) { $wanted = $true }
        if ($Line.StartsWith('<<<  [')) {
            if ($wanted) { $section }
            $section.Clear()
            $wanted = $false
        }
    }
    end {
        # The last section has no end if the machine stopped in it.
        if ($wanted) { $section }
    }
}

function Get-SystemSummary {
    <#
    .SYNOPSIS
    Returns facts about this machine: Windows, firmware, processor, virtual machine.
    .EXAMPLE
    Get-SystemSummary
    #>
    [CmdletBinding()]
    param()

    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $computer = Get-CimInstance -ClassName Win32_ComputerSystem
    $processor = @(Get-CimInstance -ClassName Win32_Processor)[0]
    [pscustomobject] @{
        Windows           = "$($system.Caption) $($system.Version)"
        UpdateRevision    = Get-RegistryValue -Key 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion' -Name UBR
        Machine           = "$($computer.Manufacturer) $($computer.Model)"
        Processor         = "$($processor.Name)"
        LogicalProcessors = $computer.NumberOfLogicalProcessors
        MemoryMB          = [long] ($computer.TotalPhysicalMemory / 1MB)
        Firmware          = "$env:firmware_type"
        SecureBoot        = Test-SecureBoot
        TestSigningActive = Test-TestSigningActive
        MemoryIntegrity   = Get-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control\DeviceGuard\Scenarios\HypervisorEnforcedCodeIntegrity' -Name Enabled
        LastStart         = $system.LastBootUpTime
        PowerShell        = "$($PSVersionTable.PSVersion)"
    }
}

function Get-DriverFile {
    <#
    .SYNOPSIS
    Returns version, hash and signature of each ferrostor.sys in the driver store, and
    which of them the service loads.
    .EXAMPLE
    Get-DriverFile
    #>
    [CmdletBinding()]
    param()

    $inService = "$(Get-CimInstance -ClassName Win32_SystemDriver -Filter "Name='ferrostor'" | ForEach-Object { $_.PathName })"
    $store = Join-Path $env:SystemRoot 'System32\DriverStore\FileRepository'
    foreach ($file in Get-ChildItem -Path (Join-Path $store 'ferrostor.inf_*\ferrostor.sys')) {
        [pscustomobject] @{
            Path      = $file.FullName
            InService = $inService -like "*$($file.Directory.Name)\ferrostor.sys"
            Version   = $file.VersionInfo.FileVersion
            SHA256    = (Get-FileHash -LiteralPath $file.FullName -Algorithm SHA256).Hash
            Signature = "$((Get-AuthenticodeSignature -LiteralPath $file.FullName).Status)"
        }
    }
}

function Get-LogEvent {
    <#
    .SYNOPSIS
    Returns the events of a log since a time, or nothing if there are none.
    .PARAMETER Log
    The log's name.
    .PARAMETER Since
    Only events after this time.
    .EXAMPLE
    Get-LogEvent -Log System -Since (Get-Date).AddDays(-1)
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Log,
        [Parameter(Mandatory = $true)] [datetime] $Since
    )

    try {
        Get-WinEvent -FilterHashtable @{ LogName = $Log; StartTime = $Since } |
            Select-Object -Property TimeCreated, ProviderName, Id, LevelDisplayName, Message
    }
    catch {
        if ($_.FullyQualifiedErrorId -notlike 'NoMatchingEventsFound*') { throw }
    }
}

function Get-StorageEvent {
    <#
    .SYNOPSIS
    Returns the events of the System log about storage, drivers that did not start,
    and unexpected stops.
    .PARAMETER Since
    Only events after this time.
    .EXAMPLE
    Get-StorageEvent -Since (Get-Date).AddDays(-1)
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [datetime] $Since
    )

    Get-LogEvent -Log System -Since $Since | Where-Object { $_.ProviderName -in $Providers -or $_.Id -in $Ids }
}

function Save-ReportPart {
    <#
    .SYNOPSIS
    Writes one file of the report, or the reason why it could not be collected.
    .PARAMETER Name
    The file's name.
    .PARAMETER Folder
    The report's folder.
    .PARAMETER Content
    The script block that prints the file's content.
    .EXAMPLE
    Save-ReportPart -Name disks.txt -Folder C:\report -Content { Get-Disk }
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Name,
        [Parameter(Mandatory = $true)] [string] $Folder,
        [Parameter(Mandatory = $true)] [scriptblock] $Content
    )

    try {
        & $Content | Out-File -LiteralPath (Join-Path $Folder $Name) -Width 4096 -Encoding utf8
    }
    catch {
        "$Name : $_" | Out-File -LiteralPath (Join-Path $Folder 'not-collected.txt') -Append -Encoding utf8
    }
}

function Export-DriverReport {
    <#
    .SYNOPSIS
    Writes the report's files into an existing folder.
    .PARAMETER Folder
    The folder.
    .PARAMETER Since
    Only events after this time.
    .EXAMPLE
    Export-DriverReport -Folder C:\report -Since (Get-Date).AddDays(-7)
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Folder,
        [Parameter(Mandatory = $true)] [datetime] $Since
    )

    Save-ReportPart -Folder $Folder -Name 'system.txt' -Content { Get-SystemSummary | Format-List }
    Save-ReportPart -Folder $Folder -Name 'devices.txt' -Content { Get-VirtioBlockDevice | Format-List }
    Save-ReportPart -Folder $Folder -Name 'disks.txt' -Content {
        Get-Disk | Format-List -Property Number, FriendlyName, BusType, PartitionStyle, OperationalStatus, HealthStatus,
        Size, LogicalSectorSize, PhysicalSectorSize, IsBoot, IsSystem
    }
    Save-ReportPart -Folder $Folder -Name 'driver-files.txt' -Content { Get-DriverFile | Format-List }
    Save-ReportPart -Folder $Folder -Name 'driver-packages.txt' -Content { Get-SystemCommandOutput -Name pnputil.exe -Arguments '/enum-drivers' }
    Save-ReportPart -Folder $Folder -Name 'boot-entry.txt' -Content { Get-SystemCommandOutput -Name bcdedit.exe -Arguments '/enum', '{current}', '/v' }
    Save-ReportPart -Folder $Folder -Name 'verifier.txt' -Content { Get-SystemCommandOutput -Name verifier.exe -Arguments '/querysettings' }
    Save-ReportPart -Folder $Folder -Name 'undo-records.txt' -Content {
        foreach ($record in 'TestSigning', 'Install', 'DriverVerifier') {
            "$record : $(Get-UndoRecord -Name $record | ConvertTo-Json -Depth 5 -Compress)"
        }
    }
    Save-ReportPart -Folder $Folder -Name 'service.txt' -Content {
        Get-Item -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Services\ferrostor'
        Get-ChildItem -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Services\ferrostor' -Recurse
    }
    Save-ReportPart -Folder $Folder -Name 'events.txt' -Content { Get-StorageEvent -Since $Since | Format-List }
    Save-ReportPart -Folder $Folder -Name 'setupapi.txt' -Content {
        Get-Content -LiteralPath (Join-Path $env:SystemRoot 'INF\setupapi.dev.log') |
            Select-SetupLogSection -Pattern 'ferrostor|PCI\\VEN_1AF4&DEV_10(42|01)'
    }
    Save-ReportPart -Folder $Folder -Name 'dumps.txt' -Content {
        # Unlike a name, a pattern that matches nothing is no error.
        Get-ChildItem -Path (Join-Path $env:SystemRoot 'MEMORY.DM[P]'), (Join-Path $env:SystemRoot 'Minidum[p]\*.dmp') |
            Format-List -Property FullName, Length, LastWriteTime
    }
    foreach ($log in $Logs) {
        Save-ReportPart -Folder $Folder -Name "log-$($log -replace '[^A-Za-z0-9]+', '-').txt" -Content {
            Get-LogEvent -Log $log -Since $Since | Format-List
        }
    }
}

Export-ModuleMember -Function Export-DriverReport, Get-StorageEvent
