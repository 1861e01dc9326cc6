# Facts about this machine that the scripts check before they act. Only reads, and
# only properties, CIM and the registry: the text of programs is in the language of
# Windows.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# BcdLibraryBoolean_AllowPrereleaseSignatures. bcdedit calls it testsigning.
$TestSigningElement = [uint32] 0x16000049

# The boot entry of the running Windows. bcdedit calls it {current}.
$CurrentBootEntry = '{fa926493-6f1c-4193-a414-58f0b2456d1e}'

# virtio-blk, modern and transitional (VIRTIO 1.3 section 4.1.2).
$VirtioBlockPatterns = @('PCI\VEN_1AF4&DEV_1042&*', 'PCI\VEN_1AF4&DEV_1001&*')

function Assert-Administrator {
    <#
    .SYNOPSIS
    Throws unless this is a 64-bit PowerShell that runs as an administrator.
    .EXAMPLE
    Assert-Administrator
    #>
    [CmdletBinding()]
    param()

    $identity = [System.Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = [System.Security.Principal.WindowsPrincipal] $identity
    if (-not $principal.IsInRole([System.Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'This script needs an administrator. Start Windows PowerShell with "Run as administrator", and run the script again.'
    }
    if (-not [System.Environment]::Is64BitProcess) {
        throw 'This is a 32-bit PowerShell, which sees another System32. Start "Windows PowerShell" without (x86), and run the script again.'
    }
}

function Get-PackageArchitecture {
    <#
    .SYNOPSIS
    Returns the name of the package's folder for this machine: x64 or arm64.
    .EXAMPLE
    Get-PackageArchitecture
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param()

    # Not the architecture of the process: an x64 PowerShell runs on ARM64 too.
    $architecture = @(Get-CimInstance -ClassName Win32_Processor)[0].Architecture
    switch ($architecture) {
        9 { return 'x64' }
        12 { return 'arm64' }
        default { throw "Ferrostor does not support this processor (Win32_Processor.Architecture is $architecture). It is built for x64 (9) and ARM64 (12): use a virtual machine of one of these." }
    }
}

function Get-RegistryValue {
    <#
    .SYNOPSIS
    Returns a registry value, or nothing if the key or the value is absent.
    .PARAMETER Key
    The key, for instance HKLM:\SOFTWARE\Microsoft.
    .PARAMETER Name
    The value's name.
    .EXAMPLE
    Get-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control' -Name SystemStartOptions
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $Key,
        [Parameter(Mandatory = $true)] [string] $Name
    )

    if (-not (Test-Path -LiteralPath $Key)) { return }
    return (Get-Item -LiteralPath $Key).GetValue($Name)
}

function Test-SecureBoot {
    <#
    .SYNOPSIS
    Returns whether Windows was started with Secure Boot on.
    .EXAMPLE
    Test-SecureBoot
    #>
    [CmdletBinding()]
    [OutputType([bool])]
    param()

    # The value does not exist if the firmware is a BIOS.
    $state = Get-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control\SecureBoot\State' -Name 'UEFISecureBootEnabled'
    return $state -eq 1
}

function Assert-SystemDriveUnprotected {
    <#
    .SYNOPSIS
    Throws if BitLocker protects the drive of Windows. It would ask for the recovery
    key after a change of the boot configuration.
    .EXAMPLE
    Assert-SystemDriveUnprotected
    #>
    [CmdletBinding()]
    param()

    try {
        $volumes = @(Get-CimInstance -Namespace 'root\CIMV2\Security\MicrosoftVolumeEncryption' -ClassName Win32_EncryptableVolume)
    }
    catch [Microsoft.Management.Infrastructure.CimException] {
        # Windows Server has the namespace only with the BitLocker feature.
        if ($_.Exception.NativeErrorCode -ne 'InvalidNamespace') { throw }
        return
    }
    # 0: off or suspended. 1: on. 2: locked, which the drive of Windows cannot be.
    if (@($volumes | Where-Object { $_.DriveLetter -eq $env:SystemDrive -and $_.ProtectionStatus -ne 0 }).Count -gt 0) {
        throw "BitLocker protects $env:SystemDrive and would ask for the recovery key after this change. Suspend it, then run this script again: Suspend-BitLocker -MountPoint $env:SystemDrive -RebootCount 2"
    }
}

function Test-RebootPending {
    <#
    .SYNOPSIS
    Returns whether Windows needs a restart to finish an update.
    .EXAMPLE
    Test-RebootPending
    #>
    [CmdletBinding()]
    [OutputType([bool])]
    param()

    $version = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion'
    return (Test-Path -LiteralPath "$version\Component Based Servicing\RebootPending") -or
    (Test-Path -LiteralPath "$version\WindowsUpdate\Auto Update\RebootRequired")
}

function Test-TestSigningActive {
    <#
    .SYNOPSIS
    Returns whether Windows was started in test mode.
    .EXAMPLE
    Test-TestSigningActive
    #>
    [CmdletBinding()]
    [OutputType([bool])]
    param()

    $options = Get-RegistryValue -Key 'HKLM:\SYSTEM\CurrentControlSet\Control' -Name 'SystemStartOptions'
    return "$options" -match '(^|\s)TESTSIGNING(\s|$)'
}

function Get-TestSigningSetting {
    <#
    .SYNOPSIS
    Returns the setting of test mode in the boot entry: true, false, or null if it is
    not set.
    .EXAMPLE
    Get-TestSigningSetting
    #>
    [CmdletBinding()]
    param()

    # These calls only read. -WhatIf must not skip them.
    $opened = Invoke-CimMethod -Namespace 'root\WMI' -ClassName 'BcdStore' -MethodName 'OpenStore' -Arguments @{ File = '' } -WhatIf:$false
    if (-not $opened.ReturnValue) { throw 'The boot configuration (BCD store) of this system cannot be opened. Check that "bcdedit /enum" works in this window.' }
    $entry = Invoke-CimMethod -InputObject $opened.Store -MethodName 'OpenObject' -Arguments @{ Id = $CurrentBootEntry } -WhatIf:$false
    if (-not $entry.ReturnValue) { throw 'The boot entry of the running Windows cannot be opened. Check that "bcdedit /enum {current}" works in this window.' }
    $listed = Invoke-CimMethod -InputObject $entry.Object -MethodName 'EnumerateElements' -WhatIf:$false
    if (-not $listed.ReturnValue) { throw 'The boot entry of the running Windows cannot be read. Check that "bcdedit /enum {current}" works in this window.' }
    foreach ($element in $listed.Elements) {
        if ($element.Type -eq $TestSigningElement) { return [bool] $element.Boolean }
    }
    return $null
}

function Get-DeviceValue {
    <#
    .SYNOPSIS
    Returns a property of a device, or nothing if the device does not have it.
    .PARAMETER InstanceId
    The device's instance id.
    .PARAMETER Key
    The property's name without DEVPKEY_Device_, for instance Service.
    .EXAMPLE
    Get-DeviceValue -InstanceId $device.InstanceId -Key Service
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory = $true)] [string] $InstanceId,
        [Parameter(Mandatory = $true)] [string] $Key
    )

    $property = Get-PnpDeviceProperty -InstanceId $InstanceId -KeyName "DEVPKEY_Device_$Key" -WhatIf:$false
    $data = $property.PSObject.Properties['Data']
    if ($null -eq $data) { return }
    return $data.Value
}

function Get-VirtioBlockDevice {
    <#
    .SYNOPSIS
    Returns the virtio block devices of this machine, each with its driver and its
    disks.
    .EXAMPLE
    Get-VirtioBlockDevice | Format-Table
    #>
    [CmdletBinding()]
    param()

    $diskDrives = @(Get-CimInstance -ClassName Win32_DiskDrive | Where-Object { $_.PNPDeviceID } | ForEach-Object {
            [pscustomobject] @{
                Number = [uint32] $_.Index
                Parent = Get-DeviceValue -InstanceId $_.PNPDeviceID -Key 'Parent'
            }
        })
    foreach ($device in Get-PnpDevice -PresentOnly) {
        $id = $device.InstanceId
        if (@($VirtioBlockPatterns | Where-Object { $id -like $_ }).Count -eq 0) { continue }
        $numbers = @($diskDrives | Where-Object { $_.Parent -eq $id } | ForEach-Object { $_.Number })
        $needed = @(Get-Disk | Where-Object { $_.Number -in $numbers -and ($_.IsBoot -or $_.IsSystem) })
        [pscustomobject] @{
            InstanceId    = $id
            HardwareId    = @(Get-DeviceValue -InstanceId $id -Key 'HardwareIds')[0]
            Service       = Get-DeviceValue -InstanceId $id -Key 'Service'
            Inf           = Get-DeviceValue -InstanceId $id -Key 'DriverInfPath'
            DriverVersion = Get-DeviceValue -InstanceId $id -Key 'DriverVersion'
            Problem       = Get-DeviceValue -InstanceId $id -Key 'ProblemCode'
            DiskNumbers   = $numbers
            HoldsWindows  = $needed.Count -gt 0
        }
    }
}

function Get-FerrostorDriverPackage {
    <#
    .SYNOPSIS
    Returns the driver packages of ferrostor.inf in the driver store.
    .EXAMPLE
    Get-FerrostorDriverPackage
    #>
    [CmdletBinding()]
    param()

    Get-WindowsDriver -Online | Where-Object {
        [System.IO.Path]::GetFileName($_.OriginalFileName) -eq 'ferrostor.inf'
    }
}

Export-ModuleMember -Function Assert-Administrator, Get-PackageArchitecture, Get-RegistryValue, Test-SecureBoot,
Assert-SystemDriveUnprotected, Test-RebootPending, Test-TestSigningActive, Get-TestSigningSetting, Get-DeviceValue,
Get-VirtioBlockDevice, Get-FerrostorDriverPackage
