# A Debian root filesystem with systemd and the programs of the suite `clients`, as a disk image below $work. Sourced by `run`.
#
# The same files are the host's, in a virtual machine, and its containers'. The sources of packages are derived as in kernels.bash.

# Debian's suite: the last one whose systemd and Docker do with v1.
rootfs_suite=bookworm

# What is in it besides the essential packages: what boots, container managers, programs that read their limits, tools.
rootfs_packages() {
    cat <<END
systemd systemd-sysv systemd-container dbus libpam-systemd login util-linux mount kmod procps busybox-static
dbus-user-session docker.io containerd runc crun podman conmon cgroup-tools
nodejs openjdk-17-jre-headless lxc python3-minimal python3-psutil
END
}

# Nobody logs in, and there's no network and no udev. Units that wait for these, or that make a boot slower and nothing else.
rootfs_masked() {
    cat <<END
console-getty.service container-getty@.service getty@.service serial-getty@.service getty-static.service getty.target
docker.service docker.socket containerd.service podman.service podman.socket podman-auto-update.timer podman-auto-update.service
podman-restart.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
fstrim.timer systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service
systemd-pstore.service systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service
cgconfig.service cgred.service modprobe@.service lxc.service lxc-net.service lxc-monitord.service lxcfs.service
END
}

# Where the image is, once `rootfs` has made it.
rootfs_image() {
    echo "$work/rootfs/$rootfs_suite.ext4"
}

# Makes the image, unless there is one by the same recipe.
rootfs() {
    local folder=$work/rootfs image recipe uri kind sources=() unit
    image=$(rootfs_image)
    recipe=$(sha256sum "$here/rootfs.bash" | cut -d' ' -f1)
    [ -e "$image" ] && [ "$(cat "$image.recipe" 2>/dev/null)" = "$recipe" ] && return
    say "making a root filesystem of $rootfs_suite, which takes some minutes"
    rm -rf "$folder"
    mkdir -p "$folder"
    for kind in main security; do
        uri=$(archive $kind) && [ -n "$uri" ] || continue
        case $kind in
        main) sources+=("deb [signed-by=$keyring] $uri $rootfs_suite main") ;;
        security) sources+=("deb [signed-by=$keyring] $uri $rootfs_suite-security main") ;;
        esac
    done
    # Without what nobody reads here. Java's scripts want the folder of the manual all the same.
    mmdebstrap --mode=root --variant=essential --include="$(rootfs_packages | xargs | tr ' ' ,)" \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --setup-hook='mkdir -p "$1/usr/share/man/man1"' "$rootfs_suite" "$folder/root" "${sources[@]}" >"$folder/log" 2>&1 || return
    for unit in $(rootfs_masked); do
        ln -sf /dev/null "$folder/root/etc/systemd/system/$unit"
    done
    # Both the host and each container get a machine id of their own when they boot.
    : >"$folder/root/etc/machine-id"
    rm -f "$folder/root/var/lib/dbus/machine-id" "$folder"/root/var/cache/apt/archives/*.deb
    mkdir -p "$folder/root/vm"
    truncate -s 3G "$image.new"
    # The features of kernels that are older than this machine's mkfs.
    mkfs.ext4 -q -F -O ^metadata_csum,^orphan_file -d "$folder/root" "$image.new" >>"$folder/log" 2>&1 ||
        mkfs.ext4 -q -F -O ^metadata_csum -d "$folder/root" "$image.new" >>"$folder/log" 2>&1 || return
    rm -rf "$folder/root"
    mv "$image.new" "$image"
    echo "$recipe" >"$image.recipe"
}
