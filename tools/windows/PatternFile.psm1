# Writes files with a known pattern, flushes them, reads them back from the disk and
# compares. Each block begins with its number and has its own pattern, so a lost,
# changed or misplaced block is found and named.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$BlockSize = 1MB

# FILE_FLAG_NO_BUFFERING, which System.IO.FileOptions does not name: reads bypass the
# cache of Windows. They need addresses that are aligned to the sector size.
$NoBuffering = [System.Enum]::ToObject([System.IO.FileOptions], 0x20000000)
$SectorAlignment = 4096

function Get-PatternBlock {
    <#
    .SYNOPSIS
    Returns the bytes of one block of the pattern.
    .PARAMETER Seed
    The seed of the pattern.
    .PARAMETER Number
    The block's number in the file, from 0.
    .EXAMPLE
    $block = Get-PatternBlock -Seed 1 -Number 0
    #>
    [CmdletBinding()]
    [OutputType([byte[]])]
    param(
        [Parameter(Mandatory = $true)] [int] $Seed,
        [Parameter(Mandatory = $true)] [int] $Number
    )

    $block = [byte[]]::new($BlockSize)
    [System.Random]::new($Seed -bxor $Number).NextBytes($block)
    [System.BitConverter]::GetBytes([long] $Number).CopyTo($block, 0)
    # The comma returns the array as one object, and not byte by byte.
    return , $block
}

function New-PatternFile {
    <#
    .SYNOPSIS
    Writes a file with the pattern and flushes it to the disk.
    .PARAMETER Path
    The file. It must not exist.
    .PARAMETER SizeMB
    Its size in MiB, which is the number of its blocks.
    .PARAMETER Seed
    The seed of the pattern.
    .EXAMPLE
    New-PatternFile -Path E:\test\pattern.dat -SizeMB 64 -Seed 1
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    param(
        [Parameter(Mandatory = $true)] [string] $Path,
        [Parameter(Mandatory = $true)] [int] $SizeMB,
        [Parameter(Mandatory = $true)] [int] $Seed
    )

    if (-not $PSCmdlet.ShouldProcess($Path, "Write a pattern of $SizeMB MiB")) { return }
    $file = [System.IO.FileStream]::new($Path, [System.IO.FileMode]::CreateNew, [System.IO.FileAccess]::Write,
        [System.IO.FileShare]::None, $BlockSize, [System.IO.FileOptions]::WriteThrough)
    try {
        for ($number = 0; $number -lt $SizeMB; $number++) {
            [byte[]] $block = Get-PatternBlock -Seed $Seed -Number $number
            $file.Write($block, 0, $BlockSize)
        }
        # True: also flush the disk's cache.
        $file.Flush($true)
    }
    finally {
        $file.Dispose()
    }
}

function Get-PatternError {
    <#
    .SYNOPSIS
    Reads a file of the pattern from the disk, without the cache of Windows, and
    returns one line for each wrong block.
    .PARAMETER Path
    The file.
    .PARAMETER SizeMB
    The size in MiB that it was written with.
    .PARAMETER Seed
    The seed that it was written with.
    .EXAMPLE
    Get-PatternError -Path E:\test\pattern.dat -SizeMB 64 -Seed 1
    Prints nothing if the file is unchanged.
    #>
    [CmdletBinding()]
    [OutputType([string[]])]
    param(
        [Parameter(Mandatory = $true)] [string] $Path,
        [Parameter(Mandatory = $true)] [int] $SizeMB,
        [Parameter(Mandatory = $true)] [int] $Seed
    )

    # The garbage collector must not move the buffer during a read.
    $memory = [byte[]]::new($BlockSize + $SectorAlignment)
    $pin = [System.Runtime.InteropServices.GCHandle]::Alloc($memory, 'Pinned')
    try {
        $address = $pin.AddrOfPinnedObject().ToInt64()
        $start = [int] (($SectorAlignment - $address % $SectorAlignment) % $SectorAlignment)
        [byte[]] $found = [byte[]]::new($BlockSize)
        # If the stream's buffer is smaller than the read, it reads into our buffer.
        $file = [System.IO.FileStream]::new($Path, [System.IO.FileMode]::Open, [System.IO.FileAccess]::Read,
            [System.IO.FileShare]::Read, $SectorAlignment, $NoBuffering)
        try {
            if ($file.Length -ne [long] $SizeMB * $BlockSize) {
                "$Path has $($file.Length) bytes and was written with $([long] $SizeMB * $BlockSize)."
                return
            }
            for ($number = 0; $number -lt $SizeMB; $number++) {
                $read = $file.Read($memory, $start, $BlockSize)
                if ($read -ne $BlockSize) {
                    "$Path : block $number (offset $([long] $number * $BlockSize)) gave $read of $BlockSize bytes."
                    return
                }
                [System.Buffer]::BlockCopy($memory, $start, $found, 0, $BlockSize)
                [byte[]] $written = Get-PatternBlock -Seed $Seed -Number $number
                if (-not [System.Linq.Enumerable]::SequenceEqual($found, $written)) {
                    "$Path : block $number (offset $([long] $number * $BlockSize)) differs from what was written; the number in front of it is $([System.BitConverter]::ToInt64($found, 0))."
                }
            }
        }
        finally {
            $file.Dispose()
        }
    }
    finally {
        $pin.Free()
    }
}

Export-ModuleMember -Function New-PatternFile, Get-PatternError
