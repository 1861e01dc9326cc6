#!/bin/sh
# Installs the tools that an xtask command needs, then runs xtask. `cargo xtask ARGUMENTS`
# runs this script before anything is compiled: see .cargo/config.toml. `setup.sh --only
# NEED...` only installs. `setup.sh --needs ARGUMENTS` prints the needs of a command.
#
# As root on Debian or Ubuntu, the script installs missing tools. Otherwise it lists them
# with the commands that install them.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Prints the needs of the command line in "$@". A need is a name in `check`.
needs_of() {
    command=${1:-help}
    x64='' arm64='' part='' inx=''
    for word; do
        case $word in
        x64 | *=x64) x64=x64 ;;
        arm64 | *=arm64) arm64=arm64 ;;
        --help | -h | --list | --only | --only=*) part=yes ;;
        --inx | --inx=*) inx=yes ;;
        # A .sys file is not built.
        *.sys) part=yes ;;
        esac
    done
    if [ "$command$inx" = packageyes ]; then
        echo cc xorriso
        return
    fi
    # With --only, xtask calls this script for the needs of its steps.
    [ "$part" ] && command=help
    case $command in
    run | cost | guard-cost) echo cc libclang x64 ;;
    build) echo cc libclang "${arm64:-x64}" ;;
    package)
        [ "$x64$arm64" ] || x64=x64 arm64=arm64
        echo cc libclang $x64 $arm64 xorriso
        ;;
    test) echo cc libclang x64 arm64 rustfmt clippy miri xorriso osslsigncode $(qemu) ;;
    *) echo cc ;;
    esac
}

# QEMU, where its guest's kernel can be had: it comes from Debian's packages.
qemu() {
    ! has apt-get || echo qemu
}

# Adds one need to the lists of missing tools, unless it is met.
packages=''   # Debian packages
targets=''    # Rust targets
components='' # Rust components
miri=''       # Rust components of the nightly toolchain
missing=''    # a line for each
check() {
    case $1 in
    cc) has cc || package "gcc libc6-dev" "a C compiler (cc), to link programs for this machine" ;;
    libclang) has_libclang || package libclang1 "libclang, to parse C headers" ;;
    xorriso) has xorriso || package xorriso "xorriso, to make ISO images" ;;
    qemu) has qemu-system-x86_64 || package qemu-system-x86 "QEMU, whose disks the driver is tested on" ;;
    osslsigncode) has osslsigncode || package osslsigncode "osslsigncode, to verify signatures" ;;
    x64) target x86_64-pc-windows-msvc ;;
    arm64) target aarch64-pc-windows-msvc ;;
    rustfmt) component rustfmt cargo-fmt "to check the formatting of the sources" ;;
    clippy) component clippy cargo-clippy "to lint the sources" ;;
    miri) has_miri || {
        miri='miri rust-src'
        line "Rust components miri and rust-src of the nightly toolchain, to find undefined behaviour"
    } ;;
    *) fail "setup.sh: no such need: $1" ;;
    esac
}

line() {
    missing="$missing  $1
"
}

package() {
    packages="$packages${packages:+ }$1"
    line "$2 (Debian: $1)"
}

target() {
    [ -d "$sysroot/lib/rustlib/$1/lib" ] && return
    targets="$targets${targets:+ }$1"
    line "Rust target $1, to compile the driver (25 MB to download, 110 MB on disk)"
}

component() {
    [ -e "$sysroot/bin/$2" ] && return
    components="$components${components:+ }$1"
    line "Rust component $1, $3"
}

# Whether libclang is in a folder that bindgen searches.
has_libclang() {
    [ "${LIBCLANG_PATH:-}" ] && return
    folders=/usr/lib:/usr/lib64:/usr/local/lib:/usr/local/lib64:${LD_LIBRARY_PATH:-}
    [ "$(IFS=: && find $folders -maxdepth 3 \
        \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) 2>/dev/null)" ]
}

# The test step for Miri is skipped if there is no nightly toolchain.
has_miri() {
    has rustup || return 0
    rustup toolchain list | grep -q '^nightly' || return 0
    nightly=$(rustup run nightly rustc --print sysroot)
    [ -e "$nightly/bin/cargo-miri" ] && [ -d "$nightly/lib/rustlib/src/rust/library" ]
}

# Prints a command and runs it.
run() {
    echo "> $*" >&2
    "$@" </dev/null >&2
}

apt_install() {
    run apt-get install --option DPkg::Lock::Timeout=300 --yes --no-install-recommends $packages
}

# Prints apt-get's estimate of download and disk space; nothing if it has no package lists.
apt_sizes() {
    LC_ALL=C apt-get install --option Debug::NoLocking=1 --assume-no --no-install-recommends \
        $packages 2>/dev/null |
        grep -E '^(Need to get|After this operation| *Download size| *Space needed)' || true
}

install_missing() {
    export DEBIAN_FRONTEND=noninteractive
    if [ "$packages" ]; then
        # Old package lists name versions that the server no longer has.
        apt_install || { run apt-get update && apt_install; } || return
    fi
    [ -z "$targets" ] || run rustup target add $targets || return
    [ -z "$components" ] || run rustup component add $components || return
    [ -z "$miri" ] || run rustup component add --toolchain nightly $miri
}

# Prints the commands that install the missing tools.
commands() {
    if [ "$packages" ] && has apt-get; then
        sudo=''
        ! has sudo || sudo='sudo '
        echo "  ${sudo}apt-get update"
        echo "  ${sudo}apt-get install --no-install-recommends $packages"
    elif [ "$packages" ]; then
        echo "  your system's package manager, for the equivalents of Debian's $packages"
    fi
    [ -z "$targets" ] || echo "  rustup target add $targets"
    [ -z "$components" ] || echo "  rustup component add $components"
    [ -z "$miri" ] || echo "  rustup component add --toolchain nightly $miri"
}

# Prints download, disk space and processor time of a command's first run on a bare Debian 12,
# installation included. README.md has the same figures.
first_run() {
    case $1 in
    run) echo "180 MB, 2.5 GB, 6 minutes" ;;
    package) echo "205 MB, 2.4 GB, 4 minutes" ;;
    esac
}

# Installs the missing needs in "$@", or lists them and exits.
ensure() {
    sysroot=$(rustc --print sysroot)
    for need; do check "$need"; done
    [ "$missing" ] || return 0

    sizes='' obstacle=''
    if [ "$packages" ] && ! has apt-get; then
        obstacle="this system has no apt-get"
    elif [ "$packages" ]; then
        sizes=$(apt_sizes)
        if [ "$(id -u)" != 0 ]; then
            obstacle="apt-get needs root"
        elif [ -z "$sizes" ]; then
            run apt-get update || true
            sizes=$(apt_sizes)
        fi
    fi
    if [ "$targets$components" ] && ! has rustup; then
        obstacle="$obstacle${obstacle:+, and }Rust is not from rustup (https://rustup.rs)"
    fi

    echo "Missing on this machine:" >&2
    printf %s "$missing" >&2
    [ -z "$sizes" ] || echo "$sizes" | sed 's/^ */  apt-get: /' >&2
    [ -z "$first_run" ] || echo "The first run, with the installation, takes $first_run\
 (download, disk space, processor time)." >&2
    if [ "$obstacle" ]; then
        echo "To install, run:" >&2
        commands >&2
        fail "nothing was installed, because $obstacle: run the commands above, then repeat"
    fi
    install_missing || fail "the installation failed: see the output above"
}

first_run=$(first_run "${1:-}")
case ${1:-} in
--only)
    shift
    ensure "$@"
    exit
    ;;
--needs)
    shift
    needs_of "$@"
    exit
    ;;
esac
ensure $(needs_of "$@")
exec "${CARGO:-cargo}" run --manifest-path "$root/Cargo.toml" --package xtask -- "$@"
