# Runs diskspd: its command line, one run, and the numbers in its XML.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Get-DiskSpdArgument {
    <#
    .SYNOPSIS
    Returns the arguments of a run of diskspd, without output format and target.
    .PARAMETER Cell
    What is measured: BlockSize, QueueDepth, WritePercent, AccessPattern.
    .PARAMETER Threads
    The number of threads.
    .PARAMETER Caching
    Sh: no cache of Windows, and write-through. Su: no cache of Windows.
    .PARAMETER WarmupSeconds
    Time before the measurement starts.
    .PARAMETER DurationSeconds
    Time that is measured.
    .EXAMPLE
    Get-DiskSpdArgument -Cell $cell -Threads 4 -Caching Sh -WarmupSeconds 5 -DurationSeconds 30
    #>
    [CmdletBinding()]
    [OutputType([string[]])]
    param(
        [Parameter(Mandatory = $true)] [psobject] $Cell,
        [Parameter(Mandatory = $true)] [int] $Threads,
        [Parameter(Mandatory = $true)] [string] $Caching,
        [Parameter(Mandatory = $true)] [int] $WarmupSeconds,
        [Parameter(Mandatory = $true)] [int] $DurationSeconds
    )

    # -si: the threads share one sequential stream. -Z16M: writes random data instead
    # of diskspd's repeating 0 to 255. -L: latencies.
    $order = if ($Cell.AccessPattern -eq 'Random') { '-r' } else { '-si' }
    return @("-b$($Cell.BlockSize)", "-o$($Cell.QueueDepth)", "-t$Threads", "-w$($Cell.WritePercent)", $order,
        "-$Caching", '-Z16M', '-L', "-W$WarmupSeconds", "-d$DurationSeconds")
}

function Invoke-DiskSpd {
    <#
    .SYNOPSIS
    Runs diskspd on a file, and writes its output to another file.
    .PARAMETER DiskSpdPath
    diskspd.exe.
    .PARAMETER Arguments
    Its arguments.
    .PARAMETER OutputFile
    The file for its output.
    .EXAMPLE
    Invoke-DiskSpd -DiskSpdPath C:\diskspd.exe -Arguments '-b4K', 'E:\test.dat' -OutputFile C:\run.txt
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $DiskSpdPath,
        [Parameter(Mandatory = $true)] [string[]] $Arguments,
        [Parameter(Mandatory = $true)] [string] $OutputFile
    )

    [string[]] $output = @(& $DiskSpdPath @Arguments)
    $exitCode = $LASTEXITCODE
    # Without a byte order mark, which an XML reader may reject.
    [System.IO.File]::WriteAllLines($OutputFile, $output)
    if ($exitCode -ne 0) {
        throw "diskspd $($Arguments -join ' ') ended with exit code $exitCode. See $OutputFile."
    }
}

function Read-DiskSpdResult {
    <#
    .SYNOPSIS
    Returns the numbers of a run from diskspd's XML.
    .PARAMETER Path
    The XML file.
    .EXAMPLE
    Read-DiskSpdResult -Path C:\run.xml
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Path
    )

    $document = [System.Xml.XmlDocument]::new()
    $document.Load($Path)
    $span = $document.SelectSingleNode('/Results/TimeSpan')
    if ($null -eq $span -or $null -eq $span.SelectSingleNode('TestTimeSeconds')) {
        throw "$Path has no results of diskspd. Look into the file, and check the version of diskspd (2.2 or newer)."
    }
    $seconds = [double] $span.SelectSingleNode('TestTimeSeconds').InnerText
    $ios = 0.0
    $bytes = 0.0
    foreach ($target in $span.SelectNodes('Thread/Target')) {
        $ios += [double] $target.SelectSingleNode('IOCount').InnerText
        $bytes += [double] $target.SelectSingleNode('BytesCount').InnerText
    }
    $cpu = [double] $span.SelectSingleNode('CpuUtilization/Average/UsagePercent').InnerText
    return [pscustomobject] @{
        IOPS       = $ios / $seconds
        MiBps      = $bytes / $seconds / 1MB
        AverageMs  = [double] $span.SelectSingleNode('Latency/AverageTotalMilliseconds').InnerText
        P99Ms      = [double] $span.SelectSingleNode('Latency/Bucket[Percentile=99]/TotalMilliseconds').InnerText
        CpuPercent = $cpu
    }
}

function Get-Median {
    <#
    .SYNOPSIS
    Returns the median of numbers.
    .PARAMETER Value
    One or more numbers.
    .EXAMPLE
    Get-Median -Value 3, 1, 2
    #>
    [CmdletBinding()]
    [OutputType([double])]
    param(
        [Parameter(Mandatory = $true)] [double[]] $Value
    )

    $sorted = @($Value | Sort-Object)
    $middle = [int] [System.Math]::Floor($sorted.Count / 2)
    if ($sorted.Count % 2 -eq 1) { return $sorted[$middle] }
    return ($sorted[$middle - 1] + $sorted[$middle]) / 2
}

Export-ModuleMember -Function Get-DiskSpdArgument, Invoke-DiskSpd, Read-DiskSpdResult, Get-Median
