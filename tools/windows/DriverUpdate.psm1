# Puts a driver on devices that Windows would rather give another one: what
# Device Manager does after "Have Disk". pnputil never overrides the rank.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# newdev.h: INSTALLFLAG_FORCE and INSTALLFLAG_NONINTERACTIVE.
$InstallFlags = [uint32] 0x5

$Declaration = @'
[DllImport("newdev.dll", CharSet = CharSet.Unicode, SetLastError = true)]
[return: MarshalAs(UnmanagedType.Bool)]
public static extern bool UpdateDriverForPlugAndPlayDevicesW(
    IntPtr parentWindow, string hardwareId, string infPath, uint flags,
    [MarshalAs(UnmanagedType.Bool)] out bool restartNeeded);
'@

function Update-DeviceDriver {
    <#
    .SYNOPSIS
    Binds every present device with the hardware id to the driver of the INF,
    whatever its rank; returns whether a restart is needed.
    .PARAMETER HardwareId
    A hardware id that the devices have.
    .PARAMETER InfPath
    The full path of the INF.
    .EXAMPLE
    Update-DeviceDriver -HardwareId 'PCI\VEN_1AF4&DEV_1042' -InfPath D:\x64\ferrostor.inf
    #>
    [CmdletBinding(SupportsShouldProcess = $true)]
    [OutputType([bool])]
    param(
        [Parameter(Mandatory = $true)] [string] $HardwareId,
        [Parameter(Mandatory = $true)] [string] $InfPath
    )

    $restartNeeded = $false
    if ($PSCmdlet.ShouldProcess($HardwareId, "Put the driver of $InfPath on it")) {
        $newdev = Add-Type -MemberDefinition $Declaration -Name NewDev -Namespace Ferrostor -PassThru
        $done = $newdev::UpdateDriverForPlugAndPlayDevicesW([System.IntPtr]::Zero, $HardwareId, $InfPath, $InstallFlags, [ref] $restartNeeded)
        if (-not $done) {
            $code = [System.Runtime.InteropServices.Marshal]::GetLastWin32Error()
            throw "Windows did not put the driver of $InfPath on $HardwareId : $(([System.ComponentModel.Win32Exception] $code).Message) (error $code). C:\Windows\INF\setupapi.dev.log says more."
        }
    }
    return $restartNeeded
}

Export-ModuleMember -Function Update-DeviceDriver
