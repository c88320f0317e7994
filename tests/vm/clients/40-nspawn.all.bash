# dist/nspawn: systemd-nspawn@NAME.service with a view from the start.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/dist.bash
. "$here/dist.bash"

# The unit has `-U`, by which nspawn would change the owner of every file there. A user namespace it is all the same.
installs_nspawn() {
    local name=$1
    installs
    install -D -m 644 $dist/nspawn/vcgroupfs.conf "/etc/systemd/system/systemd-nspawn@$name.service.d/vcgroupfs.conf"
    install -D -m 644 $dist/nspawn/NAME.nspawn "/etc/systemd/nspawn/$name.nspawn"
    sed -i '/^\[Exec\]/a PrivateUsers=identity' "/etc/systemd/nspawn/$name.nspawn"
    systemctl daemon-reload
    machine_files "$name"
    mkdir -p "/var/lib/machines/$name"
    mount --bind "$machines/$name/root" "/var/lib/machines/$name"
}

starts_nspawn() {
    local name=$1
    touch "/run/vm/degraded-$name"
    if ! systemctl start "systemd-nspawn@$name"; then
        systemctl status --no-pager "systemd-nspawn@$name" || :
        journalctl --no-pager --quiet --boot --unit="systemd-nspawn@$name"
        return 1
    fi
    contains "$(vcgroupfs list)" "machine:$name"
    wait_until is_up "$name"
    contains "$(cat "/proc/$(leader "$name")/mountinfo")" " - fuse.vcgroupfs "
    contains "$(cat "/proc/$(leader "$name")/cgroup")" ":$own_key:/machine.slice/systemd-nspawn@$name.service/payload/init.scope"
    service_files "$name"
}

nspawn_is_contained() {
    sees_its_own "$(inside "$1" cat /proc/1/cgroup | sed 's|/init.scope$||')" "$(inside "$1" find /sys/fs/cgroup)"
}

stops_nspawn() {
    local name=$1
    systemctl stop "systemd-nspawn@$name"
    expect Result=success "$(systemctl show --property=Result "systemd-nspawn@$name")"
    wait_until is_unlisted "machine:$name"
    expect "" "$(find /sys/fs/cgroup -name "systemd-nspawn@$name.service")"
}

# If there is no view, there's no container.
needs_its_view() {
    local name=$1
    mv /usr/bin/vcgroupfs /usr/bin/elsewhere
    fails systemctl start "systemd-nspawn@$name"
    mv /usr/bin/elsewhere /usr/bin/vcgroupfs
    wait_until is_gone "$name"
    expect "" "$(find /sys/fs/cgroup -name "systemd-nspawn@$name.service")"
}

check "dist/nspawn: is installed" installs_nspawn n1
check "dist/nspawn: the unit starts, and its systemd, on a view" starts_nspawn n1
check "dist/nspawn: nothing of the host" nspawn_is_contained n1
check "dist/nspawn: services" services n1
check "dist/nspawn: the unit stops, and the view" stops_nspawn n1
check "dist/nspawn: no container without a view" needs_its_view n1
check "dist/nspawn: the unit starts again" starts_nspawn n1
check "dist/nspawn: the unit stops again" stops_nspawn n1
