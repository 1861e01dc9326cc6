<#
.SYNOPSIS
Measures a disk with diskspd, and checks that the disk keeps its data.

.DESCRIPTION
Works on files that it makes in a folder of the disk and removes at the end. It never
writes to a disk or a volume as a whole. These are the steps:

1. It writes a file with a known pattern (512 MiB), flushes it, and reads it back from
   the disk without the cache of Windows. If a byte differs, it measures nothing.
2. It makes the file that diskspd works on, and runs diskspd for every combination of
   -BlockSize, -QueueDepth, -WritePercent and -AccessPattern. The first run of each is
   kept as text and not counted. The other -Repeat runs are kept as XML, because
   diskspd prints one or the other.
3. It reads the first pattern again, which must be unchanged, and writes and reads a
   second one. diskspd itself does not verify data.
4. It collects versions, devices, drivers and the events of that time, and packs all.

The folder then has runs.csv (every measured run), summary.csv (median, minimum and
maximum of each combination), verify.txt, the output of each run, and the files of
New-BugReport.ps1, with the same private data.

Before it changes anything, the script checks that it runs as an administrator in a
64-bit PowerShell, that diskspd is there, that -TestFolder is a folder on a local
drive, and that there is enough space. If not, it stops and says what to do. It says
which driver serves the disk, so the same command can compare drivers.

diskspd is Microsoft's: https://github.com/microsoft/diskspd

Run the script in a PowerShell window, as in the examples. "powershell -File" cannot
pass lists such as 4K,64K.

.PARAMETER DiskSpdPath
diskspd.exe, for this machine's architecture.

.PARAMETER TestFolder
An existing folder on the disk to measure, such as E:\test.

.PARAMETER OutputPath
The folder for the results, preferably on another disk. Default: your documents.

.PARAMETER FileSizeMB
The size in MiB of the file that diskspd works on. To keep the host's cache out of the
measurement, make it larger than that cache.

.PARAMETER BlockSize
Sizes of a request, in KiB or MiB, up to 16M.

.PARAMETER QueueDepth
Outstanding requests per thread (diskspd -o).

.PARAMETER WritePercent
Shares of writes, in percent.

.PARAMETER AccessPattern
Random, Sequential or both.

.PARAMETER Caching
Sh: without the cache of Windows, and with write-through, so the result depends on how
the host flushes. Su: without the cache of Windows only.

.PARAMETER Threads
Threads of diskspd. Default: the number of logical processors.

.PARAMETER WarmupSeconds
Time in each run before the measurement starts.

.PARAMETER DurationSeconds
Measured time of each run.

.PARAMETER Repeat
Measured runs of each combination.

.EXAMPLE
.\Measure-Ferrostor.ps1 -DiskSpdPath C:\diskspd\amd64\diskspd.exe -TestFolder E:\test -WhatIf
Checks everything, and says what would be run and how long it would take.

.EXAMPLE
.\Measure-Ferrostor.ps1 -DiskSpdPath C:\diskspd\amd64\diskspd.exe -TestFolder E:\test
Measures the whole matrix, in about two hours.

.EXAMPLE
.\Measure-Ferrostor.ps1 -DiskSpdPath C:\diskspd\amd64\diskspd.exe -TestFolder E:\test -BlockSize 4K -QueueDepth 1,32 -WritePercent 0 -DurationSeconds 10 -Repeat 3
Measures random reads of 4 KiB only.
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [Parameter(Mandatory = $true)] [string] $DiskSpdPath,
    [Parameter(Mandatory = $true)] [string] $TestFolder,
    [string] $OutputPath = [System.Environment]::GetFolderPath('MyDocuments'),
    [ValidateRange(64, 1048576)] [int] $FileSizeMB = 4096,
    [ValidatePattern('^([1-9][0-9]{0,3}K|[1-9]M|1[0-6]M)$')] [string[]] $BlockSize = @('4K', '8K', '64K', '1M'),
    [ValidateRange(1, 1024)] [int[]] $QueueDepth = @(1, 32, 256),
    [ValidateRange(0, 100)] [int[]] $WritePercent = @(0, 30, 100),
    [ValidateSet('Random', 'Sequential')] [string[]] $AccessPattern = @('Random'),
    [ValidateSet('Sh', 'Su')] [string] $Caching = 'Sh',
    [ValidateRange(1, 1024)] [int] $Threads = [System.Environment]::ProcessorCount,
    [ValidateRange(0, 3600)] [int] $WarmupSeconds = 5,
    [ValidateRange(1, 3600)] [int] $DurationSeconds = 30,
    [ValidateRange(1, 100)] [int] $Repeat = 5
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemFacts', 'PatternFile', 'DiskSpd', 'DriverReport') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

$PatternMB = 512
$SpareMB = 1024
# Events: controller error, device not ready, reset by Storport, request retried.
$AlarmIds = 11, 15, 129, 153
$Figures = 'IOPS', 'MiBps', 'AverageMs', 'P99Ms', 'CpuPercent'

Assert-Administrator
$DiskSpdPath = (Resolve-Path -LiteralPath $DiskSpdPath).ProviderPath
$OutputPath = (Resolve-Path -LiteralPath $OutputPath).ProviderPath
if (-not (Test-Path -LiteralPath $TestFolder -PathType Container)) {
    throw "$TestFolder is not a folder. Make one on the disk that you want to measure, and run this script again. The script never writes to a disk or a volume as a whole."
}
$TestFolder = (Resolve-Path -LiteralPath $TestFolder).ProviderPath
if ($TestFolder -notmatch '^[A-Za-z]:\\') {
    throw "$TestFolder is not on a local drive with a letter. Use a folder such as E:\test."
}
$letter = $TestFolder.Substring(0, 1)
$neededMB = $FileSizeMB + 2 * $PatternMB + $SpareMB
$freeMB = [long] ((Get-Volume -DriveLetter $letter).SizeRemaining / 1MB)
if ($freeMB -lt $neededMB) {
    throw "Drive ${letter}: has $freeMB MiB free, and this needs $neededMB MiB. Use a smaller -FileSizeMB or a larger disk."
}
$diskNumber = (Get-Partition -DriveLetter $letter).DiskNumber
$device = @(Get-VirtioBlockDevice | Where-Object { $diskNumber -in $_.DiskNumbers })
$served = "disk $diskNumber, which is not a virtio block device"
if ($device.Count -gt 0) {
    $served = "disk $diskNumber, served by $($device[0].Service) $($device[0].DriverVersion) ($($device[0].Inf))"
}
if ($device.Count -eq 0 -or $device[0].Service -ne 'ferrostor') {
    Write-Warning "Ferrostor does not serve this disk. This measures $served."
}

$cells = @(foreach ($pattern in $AccessPattern) {
        foreach ($size in $BlockSize) {
            foreach ($depth in $QueueDepth) {
                foreach ($share in $WritePercent) {
                    [pscustomobject] @{
                        Cell          = "$pattern-$size-o$depth-w$share".ToLowerInvariant()
                        AccessPattern = $pattern
                        BlockSize     = $size
                        QueueDepth    = $depth
                        WritePercent  = $share
                    }
                }
            }
        }
    })
$runs = $cells.Count * ($Repeat + 1)
$minutes = [int] [System.Math]::Ceiling($runs * ($WarmupSeconds + $DurationSeconds) / 60)
$folder = Join-Path $OutputPath "ferrostor-measure-$(Get-Date -Format 'yyyyMMdd-HHmmss')"
if (-not $PSCmdlet.ShouldProcess($TestFolder, "Write files of $($FileSizeMB + 2 * $PatternMB) MiB on $served, run diskspd $runs times (about $minutes minutes), collect the results in $folder and remove the files")) {
    return
}

$start = Get-Date
$null = New-Item -ItemType Directory -Path $folder
$name = "ferrostor-measure-$([System.Guid]::NewGuid())"
$loadFile = Join-Path $TestFolder "$name-load.dat"
$patternFiles = (Join-Path $TestFolder "$name-before.dat"), (Join-Path $TestFolder "$name-after.dat")
$seeds = 0x0F0E, 0x5A5A0000
$verdicts = [System.Collections.Generic.List[string]]::new()
$results = [System.Collections.Generic.List[psobject]]::new()
$wrong = @()

function Add-Verdict {
    param([string] $What, [string[]] $Difference)
    if ($Difference.Count -eq 0) { $script:verdicts.Add("${What}: unchanged") }
    foreach ($line in $Difference) { $script:verdicts.Add("${What}: $line") }
}

function Format-Figure {
    param([double] $Value)
    # A point as decimal mark, in any language of Windows.
    $Value.ToString('0.###', [System.Globalization.CultureInfo]::InvariantCulture)
}

try {
    New-PatternFile -Path $patternFiles[0] -SizeMB $PatternMB -Seed $seeds[0]
    $wrong = @(Get-PatternError -Path $patternFiles[0] -SizeMB $PatternMB -Seed $seeds[0])
    Add-Verdict -What 'Before the load' -Difference $wrong

    if ($wrong.Count -eq 0) {
        New-PatternFile -Path $loadFile -SizeMB $FileSizeMB -Seed 1
        $count = 0
        foreach ($cell in $cells) {
            $label = $cell.Cell
            $arguments = Get-DiskSpdArgument -Cell $cell -Threads $Threads -Caching $Caching -WarmupSeconds $WarmupSeconds -DurationSeconds $DurationSeconds
            Write-Progress -Activity 'diskspd' -Status "$label, first run, not counted" -PercentComplete (100 * $count / $runs)
            Invoke-DiskSpd -DiskSpdPath $DiskSpdPath -Arguments ($arguments + '-Rtext' + $loadFile) -OutputFile (Join-Path $folder "$label.txt")
            $count++
            for ($run = 1; $run -le $Repeat; $run++) {
                Write-Progress -Activity 'diskspd' -Status "$label, run $run of $Repeat" -PercentComplete (100 * $count / $runs)
                $xml = Join-Path $folder "$label-run$run.xml"
                Invoke-DiskSpd -DiskSpdPath $DiskSpdPath -Arguments ($arguments + '-Rxml' + $loadFile) -OutputFile $xml
                $results.Add([pscustomobject] @{ Cell = $cell; Run = $run; Result = Read-DiskSpdResult -Path $xml })
                $count++
            }
        }
        Write-Progress -Activity 'diskspd' -Completed

        $still = @(Get-PatternError -Path $patternFiles[0] -SizeMB $PatternMB -Seed $seeds[0])
        Add-Verdict -What 'The first pattern, after the load' -Difference $still
        New-PatternFile -Path $patternFiles[1] -SizeMB $PatternMB -Seed $seeds[1]
        $after = @(Get-PatternError -Path $patternFiles[1] -SizeMB $PatternMB -Seed $seeds[1])
        Add-Verdict -What 'A second pattern, after the load' -Difference $after
        $wrong = @($still + $after)
    }
}
finally {
    foreach ($file in @($loadFile) + $patternFiles) {
        if (Test-Path -LiteralPath $file) { Remove-Item -LiteralPath $file -Confirm:$false }
    }
    $verdicts | Out-File -LiteralPath (Join-Path $folder 'verify.txt') -Encoding utf8
}

$results | ForEach-Object {
    $row = [ordered] @{}
    foreach ($property in $_.Cell.PSObject.Properties) { $row[$property.Name] = $property.Value }
    $row['Run'] = $_.Run
    foreach ($figure in $Figures) { $row[$figure] = Format-Figure -Value ($_.Result.$figure) }
    [pscustomobject] $row
} | Export-Csv -LiteralPath (Join-Path $folder 'runs.csv') -NoTypeInformation -Encoding UTF8

$summary = @(foreach ($cell in $cells) {
        $own = @($results | Where-Object { $_.Cell.Cell -eq $cell.Cell } | ForEach-Object { $_.Result })
        if ($own.Count -eq 0) { continue }
        $row = [ordered] @{}
        foreach ($property in $cell.PSObject.Properties) { $row[$property.Name] = $property.Value }
        $row['Runs'] = $own.Count
        foreach ($figure in $Figures) {
            $values = @($own | ForEach-Object { $_.$figure } | Sort-Object)
            $row["${figure}Median"] = Format-Figure -Value (Get-Median -Value $values)
            $row["${figure}Min"] = Format-Figure -Value $values[0]
            $row["${figure}Max"] = Format-Figure -Value $values[-1]
        }
        [pscustomobject] $row
    })
$summary | Export-Csv -LiteralPath (Join-Path $folder 'summary.csv') -NoTypeInformation -Encoding UTF8

Export-DriverReport -Folder $folder -Since $start
@(
    "Measured: $served, file system $((Get-Volume -DriveLetter $letter).FileSystem)"
    "diskspd: $((Get-Item -LiteralPath $DiskSpdPath).VersionInfo.FileVersion), SHA-256 $((Get-FileHash -LiteralPath $DiskSpdPath -Algorithm SHA256).Hash)"
    "Threads: $Threads; file: $FileSizeMB MiB; caching: -$Caching; warm-up: $WarmupSeconds s; measured: $DurationSeconds s; repeats: $Repeat"
) | Out-File -LiteralPath (Join-Path $folder 'measured.txt') -Encoding utf8
Compress-Archive -Path (Join-Path $folder '*') -DestinationPath "$folder.zip"

$summary | Select-Object -Property AccessPattern, BlockSize, QueueDepth, WritePercent, IOPSMedian, MiBpsMedian, AverageMsMedian, CpuPercentMedian
$alarms = @(Get-StorageEvent -Since $start | Where-Object { $_.Id -in $AlarmIds })
if ($alarms.Count -gt 0) {
    Write-Warning "Windows logged $($alarms.Count) event(s) about resets, retries or errors of disks (11, 15, 129, 153) during the run. See events.txt."
}
Write-Output "Results: $folder and $folder.zip"
if ($wrong.Count -gt 0) {
    throw "The disk returned wrong data in $($wrong.Count) block(s). See verify.txt in $folder, run New-BugReport.ps1, and report it."
}
