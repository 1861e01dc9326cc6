#!/bin/sh
# Checks that this machine has what an xtask command needs, installs what is
# missing, then runs xtask. `cargo xtask ARGUMENTS` runs this before anything is
# compiled: see .cargo/config.toml. `setup.sh --only NEED...` installs and stops;
# `setup.sh --needs ARGUMENTS` prints what such a command needs.
#
# On Debian and Ubuntu, root gets everything installed. Everywhere else the
# script lists everything that is missing and the commands that install it.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Prints what the command line in "$@" needs. A need is a name in `check`.
needs_of() {
    command=${1:-help}
    x64='' arm64='' part='' inx=''
    for word; do
        case $word in
        x64 | *=x64) x64=x64 ;;
        arm64 | *=arm64) arm64=arm64 ;;
        --help | -h | --list | --only | --only=*) part=yes ;;
        --inx | --inx=*) inx=yes ;;
        # A driver file of the user's is not built.
        *.sys) part=yes ;;
        esac
    done
    if [ "$command$inx" = packageyes ]; then
        echo cc xorriso
        return
    fi
    # With --only, xtask knows what its steps need.
    [ "$part" ] && command=help
    case $command in
    run | cost | guard-cost) echo cc libclang x64 ;;
    build) echo cc libclang "${arm64:-x64}" ;;
    package)
        [ "$x64$arm64" ] || x64=x64 arm64=arm64
        echo cc libclang $x64 $arm64 xorriso
        ;;
    test) echo cc libclang x64 arm64 rustfmt clippy miri xorriso osslsigncode ;;
    *) echo cc ;;
    esac
}

# Adds one need to the lists of what is missing, unless it is met.
packages=''   # Debian packages
targets=''    # Rust targets
components='' # Rust components
miri=''       # Rust components of the nightly toolchain
missing=''    # a line for each
check() {
    case $1 in
    cc) has cc || package "gcc libc6-dev" "a C compiler (cc), to link programs for this machine" ;;
    libclang) has_libclang || package libclang1 "libclang, to read C headers" ;;
    xorriso) has xorriso || package xorriso "xorriso, to make an ISO image" ;;
    osslsigncode) has osslsigncode || package osslsigncode "osslsigncode, to verify signatures" ;;
    x64) target x86_64-pc-windows-msvc ;;
    arm64) target aarch64-pc-windows-msvc ;;
    rustfmt) component rustfmt cargo-fmt "to check the format of the sources" ;;
    clippy) component clippy cargo-clippy "to lint the sources" ;;
    miri) has_miri || {
        miri='miri rust-src'
        line "Rust components miri and rust-src of nightly, to find undefined behaviour"
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

# Whether libclang is where bindgen looks for it.
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

# Shows a command, and runs it.
run() {
    echo "> $*" >&2
    "$@" </dev/null >&2
}

apt_install() {
    run apt-get install --option DPkg::Lock::Timeout=300 --yes --no-install-recommends $packages
}

# Prints what apt-get says about download and disk: nothing if it has no package
# lists.
apt_sizes() {
    LC_ALL=C apt-get install --option Debug::NoLocking=1 --assume-no --no-install-recommends \
        $packages 2>/dev/null |
        grep -E '^(Need to get|After this operation| *Download size| *Space needed)' || true
}

install_missing() {
    export DEBIAN_FRONTEND=noninteractive
    if [ "$packages" ]; then
        # Old lists name versions that the server no longer has.
        apt_install || { run apt-get update && apt_install; } || return
    fi
    [ -z "$targets" ] || run rustup target add $targets || return
    [ -z "$components" ] || run rustup component add $components || return
    [ -z "$miri" ] || run rustup component add --toolchain nightly $miri
}

# The commands that install what is missing.
commands() {
    if [ "$packages" ] && has apt-get; then
        sudo=''
        ! has sudo || sudo='sudo '
        echo "  ${sudo}apt-get update"
        echo "  ${sudo}apt-get install --no-install-recommends $packages"
    elif [ "$packages" ]; then
        echo "  your system's packages for $packages (these are Debian's names)"
    fi
    [ -z "$targets" ] || echo "  rustup target add $targets"
    [ -z "$components" ] || echo "  rustup component add $components"
    [ -z "$miri" ] || echo "  rustup component add --toolchain nightly $miri"
}

# Prints what the first run of a command costs on a bare Debian 12, installation
# included: download, disk, processor time. README.md has the same figures.
first_run() {
    case $1 in
    run) echo "180 MB, 2.5 GB, 6 minutes" ;;
    package) echo "205 MB, 2.4 GB, 4 minutes" ;;
    esac
}

# Installs every need in "$@" that is missing, or lists all of them and exits.
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

    echo "This machine lacks:" >&2
    printf %s "$missing" >&2
    [ -z "$sizes" ] || echo "$sizes" | sed 's/^ */  apt-get: /' >&2
    [ -z "$first_run" ] || echo "The first run takes $first_run\
 (download, disk, processor time), with the installation." >&2
    if [ "$obstacle" ]; then
        echo "Install it with:" >&2
        commands >&2
        fail "nothing was installed: $obstacle"
    fi
    install_missing || fail "this could not be installed; the output above says why"
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
