<#
.SYNOPSIS
Collects what a bug report about Ferrostor needs in a .zip file.

.DESCRIPTION
Writes text files into a new folder and packs them. It sends nothing. Look through
the files, and attach the .zip to your report yourself.

It collects:
- the versions of Windows and of the driver;
- the virtio block devices, the disks, and their drivers;
- the driver packages (pnputil /enum-drivers);
- the boot entry (bcdedit /enum {current}) and the settings of Driver Verifier;
- the events of the last days about storage, drivers and unexpected stops;
- the sections of setupapi.dev.log about the driver;
- a list of the memory dumps, without the dumps;
- the undo records of the other scripts.

This may contain private data: the names of disks, files and drivers in events, serial
numbers of disks, and the name of this machine. not-collected.txt names what could not
be collected.

The script changes nothing but the folder that it makes. It needs an administrator in
a 64-bit PowerShell, because only administrators can read the boot entry.

.PARAMETER OutputPath
The folder for the report. Default: your documents.

.PARAMETER Days
The number of days of events to collect.

.EXAMPLE
.\New-BugReport.ps1
Makes ferrostor-report-<time>.zip in your documents.

.EXAMPLE
.\New-BugReport.ps1 -OutputPath C:\Temp -Days 2
Makes it in C:\Temp, with the events of the last two days.
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [string] $OutputPath = [System.Environment]::GetFolderPath('MyDocuments'),
    [ValidateRange(1, 365)] [int] $Days = 7
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
foreach ($module in 'SystemFacts', 'DriverReport') {
    Import-Module -Name (Join-Path $PSScriptRoot "$module.psm1") -Scope Local -Verbose:$false
}

Assert-Administrator
$OutputPath = (Resolve-Path -LiteralPath $OutputPath).ProviderPath
$folder = Join-Path $OutputPath "ferrostor-report-$(Get-Date -Format 'yyyyMMdd-HHmmss')"

if ($PSCmdlet.ShouldProcess($folder, 'Collect the report in this folder and pack it')) {
    $null = New-Item -ItemType Directory -Path $folder
    Export-DriverReport -Folder $folder -Since (Get-Date).AddDays(-$Days)
    Compress-Archive -Path (Join-Path $folder '*') -DestinationPath "$folder.zip"
    Write-Output "Look through $folder, then attach $folder.zip to your report. Nothing was sent."
}
