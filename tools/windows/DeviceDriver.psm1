# Adds a driver package to the driver store, and installs it on one device, named
# by its instance id. "pnputil /add-driver ... /install" installs it on every
# device that it matches and ranks best for, also on the one that Windows runs from.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# The structures have the layout of 64-bit Windows (setupapi.h), x64 and ARM64
# alike. C# 5: Windows PowerShell compiles nothing newer.
$Source = @'
using System;
using System.ComponentModel;
using System.Runtime.InteropServices;
using System.Text;

namespace Ferrostor
{
    public static class DeviceDriver
    {
        const uint SPOST_PATH = 1;
        const uint SPDIT_COMPATDRIVER = 2;
        const uint DI_ENUMSINGLEINF = 0x00010000;
        const uint DI_QUIETINSTALL = 0x00800000;
        const uint DI_FLAGSEX_ALLOWEXCLUDEDDRVS = 0x00000800;

        [StructLayout(LayoutKind.Sequential)]
        struct SP_DEVINFO_DATA
        {
            public uint Size;
            public Guid ClassGuid;
            public uint DevInst;
            public IntPtr Reserved;
        }

        [StructLayout(LayoutKind.Sequential, CharSet = CharSet.Unicode)]
        struct SP_DRVINFO_DATA_W
        {
            public uint Size;
            public uint DriverType;
            public IntPtr Reserved;
            [MarshalAs(UnmanagedType.ByValTStr, SizeConst = 256)]
            public string Description;
            [MarshalAs(UnmanagedType.ByValTStr, SizeConst = 256)]
            public string Manufacturer;
            [MarshalAs(UnmanagedType.ByValTStr, SizeConst = 256)]
            public string Provider;
            public long DriverDate;
            public ulong DriverVersion;
        }

        [StructLayout(LayoutKind.Sequential, CharSet = CharSet.Unicode)]
        struct SP_DEVINSTALL_PARAMS_W
        {
            public uint Size;
            public uint Flags;
            public uint FlagsEx;
            public IntPtr ParentWindow;
            public IntPtr MessageHandler;
            public IntPtr MessageContext;
            public IntPtr FileQueue;
            public IntPtr ClassInstallReserved;
            public uint Reserved;
            [MarshalAs(UnmanagedType.ByValTStr, SizeConst = 260)]
            public string DriverPath;
        }

        [DllImport("setupapi.dll", CharSet = CharSet.Unicode, SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupCopyOEMInfW(string source, string location, uint mediaType, uint copyStyle,
            StringBuilder destination, uint length, IntPtr requiredLength, IntPtr fileName);

        [DllImport("setupapi.dll", SetLastError = true)]
        static extern IntPtr SetupDiCreateDeviceInfoList(IntPtr classGuid, IntPtr parentWindow);

        [DllImport("setupapi.dll", SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiDestroyDeviceInfoList(IntPtr set);

        [DllImport("setupapi.dll", CharSet = CharSet.Unicode, SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiOpenDeviceInfoW(IntPtr set, string instanceId, IntPtr parentWindow, uint flags,
            ref SP_DEVINFO_DATA device);

        [DllImport("setupapi.dll", CharSet = CharSet.Unicode, SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiGetDeviceInstallParamsW(IntPtr set, ref SP_DEVINFO_DATA device,
            ref SP_DEVINSTALL_PARAMS_W parameters);

        [DllImport("setupapi.dll", CharSet = CharSet.Unicode, SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiSetDeviceInstallParamsW(IntPtr set, ref SP_DEVINFO_DATA device,
            ref SP_DEVINSTALL_PARAMS_W parameters);

        [DllImport("setupapi.dll", SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiBuildDriverInfoList(IntPtr set, ref SP_DEVINFO_DATA device, uint driverType);

        [DllImport("setupapi.dll", CharSet = CharSet.Unicode, SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool SetupDiEnumDriverInfoW(IntPtr set, ref SP_DEVINFO_DATA device, uint driverType, uint index,
            ref SP_DRVINFO_DATA_W driver);

        [DllImport("newdev.dll", SetLastError = true)]
        [return: MarshalAs(UnmanagedType.Bool)]
        static extern bool DiInstallDevice(IntPtr parentWindow, IntPtr set, ref SP_DEVINFO_DATA device,
            ref SP_DRVINFO_DATA_W driver, uint flags, [MarshalAs(UnmanagedType.Bool)] out bool restartNeeded);

        static void Check(bool succeeded, string function)
        {
            int error = Marshal.GetLastWin32Error();
            if (!succeeded)
            {
                string reason = new Win32Exception(error).Message;
                throw new Win32Exception(error, function + " failed: " + reason + " (error 0x" + error.ToString("X") + ")");
            }
        }

        // Returns the path of the INF's copy in Windows\INF.
        public static string AddPackage(string infPath)
        {
            StringBuilder published = new StringBuilder(260);
            Check(SetupCopyOEMInfW(infPath, null, SPOST_PATH, 0, published, (uint)published.Capacity, IntPtr.Zero,
                IntPtr.Zero), "SetupCopyOEMInf");
            return published.ToString();
        }

        // Returns whether Windows must be restarted.
        public static bool Install(string instanceId, string publishedInf)
        {
            IntPtr set = SetupDiCreateDeviceInfoList(IntPtr.Zero, IntPtr.Zero);
            Check(set != new IntPtr(-1), "SetupDiCreateDeviceInfoList");
            try
            {
                SP_DEVINFO_DATA device = new SP_DEVINFO_DATA();
                device.Size = (uint)Marshal.SizeOf(typeof(SP_DEVINFO_DATA));
                Check(SetupDiOpenDeviceInfoW(set, instanceId, IntPtr.Zero, 0, ref device), "SetupDiOpenDeviceInfo");

                SP_DEVINSTALL_PARAMS_W parameters = new SP_DEVINSTALL_PARAMS_W();
                parameters.Size = (uint)Marshal.SizeOf(typeof(SP_DEVINSTALL_PARAMS_W));
                Check(SetupDiGetDeviceInstallParamsW(set, ref device, ref parameters), "SetupDiGetDeviceInstallParams");
                parameters.Flags |= DI_ENUMSINGLEINF | DI_QUIETINSTALL;
                // Plug and Play drivers count as excluded (documentation of SetupDiBuildDriverInfoList).
                parameters.FlagsEx |= DI_FLAGSEX_ALLOWEXCLUDEDDRVS;
                parameters.DriverPath = publishedInf;
                Check(SetupDiSetDeviceInstallParamsW(set, ref device, ref parameters), "SetupDiSetDeviceInstallParams");

                Check(SetupDiBuildDriverInfoList(set, ref device, SPDIT_COMPATDRIVER), "SetupDiBuildDriverInfoList");
                SP_DRVINFO_DATA_W driver = new SP_DRVINFO_DATA_W();
                driver.Size = (uint)Marshal.SizeOf(typeof(SP_DRVINFO_DATA_W));
                Check(SetupDiEnumDriverInfoW(set, ref device, SPDIT_COMPATDRIVER, 0, ref driver), "SetupDiEnumDriverInfo");

                bool restartNeeded;
                Check(DiInstallDevice(IntPtr.Zero, set, ref device, ref driver, 0, out restartNeeded), "DiInstallDevice");
                return restartNeeded;
            }
            finally
            {
                SetupDiDestroyDeviceInfoList(set);
            }
        }
    }
}
'@

function Add-DriverPackage {
    <#
    .SYNOPSIS
    Adds a driver package to the driver store and returns the path of its INF in
    Windows\INF. Devices keep their drivers.
    .PARAMETER InfPath
    The full path of the package's INF.
    .EXAMPLE
    Add-DriverPackage -InfPath D:\x64\ferrostor.inf
    Returns for instance C:\Windows\INF\oem3.inf.
    #>
    [CmdletBinding()]
    [OutputType([string])]
    param(
        [Parameter(Mandatory = $true)] [string] $InfPath
    )

    Add-Type -TypeDefinition $Source
    try {
        return [Ferrostor.DeviceDriver]::AddPackage($InfPath)
    }
    catch {
        throw "Windows did not add the package to the driver store, and no driver was changed. $($_.Exception.GetBaseException().Message). See the end of C:\Windows\INF\setupapi.dev.log, then run the script again."
    }
}

function Install-DeviceDriver {
    <#
    .SYNOPSIS
    Installs a driver package of the driver store on one device, whatever its rank.
    Returns whether Windows must be restarted.
    .PARAMETER InstanceId
    The device's instance id.
    .PARAMETER PublishedInf
    The path that Add-DriverPackage returned.
    .EXAMPLE
    Install-DeviceDriver -InstanceId $device.InstanceId -PublishedInf C:\Windows\INF\oem3.inf
    #>
    [CmdletBinding()]
    [OutputType([bool])]
    param(
        [Parameter(Mandatory = $true)] [string] $InstanceId,
        [Parameter(Mandatory = $true)] [string] $PublishedInf
    )

    Add-Type -TypeDefinition $Source
    try {
        return [Ferrostor.DeviceDriver]::Install($InstanceId, $PublishedInf)
    }
    catch {
        throw "Windows did not install the driver on $InstanceId. $($_.Exception.GetBaseException().Message). See the end of C:\Windows\INF\setupapi.dev.log. Get-AttachHint.ps1 shows the driver that the device has now."
    }
}

Export-ModuleMember -Function Add-DriverPackage, Install-DeviceDriver
