#!/bin/busybox sh
# The first process of the guest: gives QEMU's disks to VFIO, and runs the testbed on each.
# /runs has a line for each run: the root port of its disk, and the arguments of the testbed.
# The host reads the lines that begin with @.
/bin/busybox --install -s /bin
export TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do
    insmod "/modules/$module" || echo "@failed insmod $module"
done </modules/order
# DMAR faults are printed after the run that causes them.
dmesg -n 1

set -f
number=0
while read -r port arguments <&3; do
    disk=$(ls "/sys/bus/pci/devices/$port" | grep '^0000:.*:00[.]0$')
    echo vfio-pci >"/sys/bus/pci/devices/$disk/driver_override"
    echo "$disk" >/sys/bus/pci/drivers_probe
    dmesg -c >/dev/null
    echo "@begin $number"
    # shellcheck disable=SC2086
    testbed run --function "vfio:$disk" $arguments </dev/null 2>&1
    code=$?
    # Faults are reported by an interrupt.
    sleep 0.2
    dmesg -c | grep -E 'DMAR:.*fault|Oops|BUG:' | sed 's/^/@kernel /'
    echo "@end $number $code"
    number=$((number + 1))
done 3</runs
echo @ready
# Not for ever, if the host has gone.
read -t 60 -r _
poweroff -f
