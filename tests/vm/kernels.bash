# Kernels from Debian's packages, unpacked below $work. Sourced by `run`.
#
# The sources of packages are derived from those that this machine's apt already uses: the same archive, another suite. They live in an
# apt configuration of their own, below $work/apt, and change nothing in /etc.

# Debian's keys for all releases that are still served.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the URI of the machine's own archive: of the main one, or with `security` of the one for security updates.
archive() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' 'Target-Of: deb' 'Origin: Debian' |
        awk -v kind="$1" '{ is_security = $2 ~ /-security$/ } (kind == "security") == is_security { print $1; exit }'
}

own_suite() {
    (. /etc/os-release && echo "${VERSION_CODENAME:-}")
}

# Runs an apt tool on one suite alone: in_suite SUITE TOOL ARGUMENT...
in_suite() {
    local folder=$work/apt/$1
    shift
    local tool=$1
    shift
    "$tool" -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$folder/lists" \
        -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Makes the suite's package list available; fails if the archive doesn't serve it. Old releases leave the archive at some time.
add_suite() {
    local suite=$1 folder=$work/apt/$1 kind=main uri
    case $suite in *-security) kind=security ;; esac
    uri=$(archive $kind)
    [ -n "$uri" ] || return
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    echo "deb [signed-by=$keyring] $uri $suite main" >"$folder/sources.list"
    in_suite "$suite" apt-get -qq update >"$folder/log" 2>&1
}

# What the machines need of a kernel that isn't built into it: FUSE; for those with a disk its driver and its filesystem, overlayfs, and
# the ends of a container's network.
kernel_modules=(fuse virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk overlay veth
    crc16 crc32c_generic libcrc32c mbcache jbd2 ext4)

# kernel SERIES SUITE...: puts $work/kernels/SERIES/{vmlinuz,modules/} there, from the first suite that has the series.
kernel() {
    local series=$1 target=$work/kernels/$1 suite package deb file module
    shift
    [ -e "$target/vmlinuz" ] && [ "$(cat "$target/wanted" 2>/dev/null)" = "${kernel_modules[*]}" ] && return
    for suite in "$@"; do
        add_suite "$suite" || continue
        package=$(in_suite "$suite" apt-cache pkgnames "linux-image-$series." | grep -E '^linux-image-[0-9][^-]*(-[0-9]+)?-cloud-amd64$' | sort -V | tail -n 1)
        [ -n "$package" ] || continue
        say "kernel $series: $package from $suite"
        rm -rf "$target.new"
        mkdir -p "$target.new/modules"
        (cd "$target.new" && in_suite "$suite" apt-get -qq download "$package") >>"$work/apt/$suite/log" 2>&1 || continue
        deb=$(echo "$target.new"/*.deb)
        dpkg -x "$deb" "$target.new/root"
        cp "$target.new"/root/boot/vmlinuz-* "$target.new/vmlinuz"
        for module in "${kernel_modules[@]}"; do
            find "$target.new/root" -name "$module.ko*" -exec cp {} "$target.new/modules/" \;
        done
        find "$target.new/modules" -name '*.xz' -exec xz -d {} +
        [ -s "$target.new/vmlinuz" ] || continue
        echo "${kernel_modules[*]}" >"$target.new/wanted"
        rm -rf "$target.new/root" "$deb" "$target"
        mv "$target.new" "$target"
        return
    done
    return 1
}
