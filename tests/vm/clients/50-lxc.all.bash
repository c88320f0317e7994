# LXC: systemd in a container of lxc-start's, which shares the host's cgroup namespace.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/dist.bash
. "$here/dist.bash"

# As Debian's template configures one, but for the network and apparmor, which the machine hasn't got. Unless `user` is kept, LXC makes a user
# namespace too, with no ids in it.
lxc_files() {
    local name=$1
    machine_files "$name"
    mkdir -p "/var/lib/lxc/$name"
    cat >"/var/lib/lxc/$name/config" <<END
lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = amd64
lxc.uts.name = $name
lxc.rootfs.path = dir:$machines/$name/root
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
lxc.namespace.keep = user cgroup
END
    # LXC 5 mounts v2 for those alone that have a cgroup namespace.
    [ "$setup" != unified ] || printf 'lxc.mount.auto =%s\n' '' ' proc:mixed sys:mixed' >>"/var/lib/lxc/$name/config"
}

starts_lxc() {
    local name=$1
    lxc_files "$name"
    lxc-start --name "$name" --logfile "/run/vm/lxc-$name" || { cat "/run/vm/lxc-$name" && return 1; }
    wait_until in_lxc "$name" systemctl is-system-running --wait
    contains "$(in_lxc "$name" systemctl is-system-running)" running
}

in_lxc() {
    local name=$1
    shift
    timeout 120 lxc-attach --name "$name" --clear-env -- "$@"
}

lxc_leader() {
    lxc-info --no-humanize --pid --name "$1"
}

attaches_lxc() {
    local name=$1
    cut -d' ' -f3- "/proc/$(lxc_leader "$name")/mountinfo" | grep /sys/fs/cgroup >"/run/vm/before-$name"
    vcgroupfs attach "lxc:$name"
    contains "$(vcgroupfs list)" "lxc:$name"
    has_lxc_view "$name"
}

# The hook attaches to a pid.
has_lxc_view() {
    contains "$(cat "/proc/$(lxc_leader "$1")/mountinfo")" " - fuse.vcgroupfs "
    expect running "$(in_lxc "$1" systemctl is-system-running)"
}

lxc_is_contained() {
    sees_its_own "$(in_lxc "$1" cat /proc/1/cgroup | sed 's|/init.scope$||')" "$(in_lxc "$1" find /sys/fs/cgroup)"
}

lxc_services() {
    local name=$1 path
    contains "$(in_lxc "$name" systemd-run --wait --pipe cat /proc/self/cgroup)" ":$own_key:/lxc.payload.$name/system.slice/run-" ||
        { in_lxc "$name" journalctl --no-pager --boot --lines=20 && return 1; }
    in_lxc "$name" systemd-run --quiet --unit=strays sh -c 'setsid sleep 4713 & setsid sleep 4714 & wait'
    wait_until pgrep -f 'sleep 4714'
    path=$own_top/lxc.payload.$name/system.slice/strays.service
    expect 3 "$(wc -l <"$path/cgroup.procs")"
    in_lxc "$name" systemctl stop strays.service
    ! pgrep -f 'sleep 471[34]' || fail "strays were left"
    [ ! -e "$path" ] || fail "$path is left"
}

detaches_lxc() {
    local name=$1
    vcgroupfs detach "lxc:$name"
    expect "$(cat "/run/vm/before-$name")" "$(cut -d' ' -f3- "/proc/$(lxc_leader "$name")/mountinfo" | grep /sys/fs/cgroup)"
    is_unlisted "lxc:$name"
    in_lxc "$name" systemd-run --quiet --wait true
}

# On a legacy host systemd mounts v2 in the container, where nothing keeps it from that, and uses it: without it, it would start nothing.
refuses_without_v2() {
    local name=$1
    contains "$(cat "/proc/$(lxc_leader "$name")/cgroup")" "0::/lxc.payload.$name/init.scope"
    contains "$(fails vcgroupfs attach "lxc:$name")" "mount it on the host"
    is_unlisted "lxc:$name"
    lxc_services "$name"
    mkdir /run/vm/unified
    mount -t cgroup2 cgroup2 /run/vm/unified
}

# As dist/README.md says: every container that includes common.conf has the hook.
installs_lxc() {
    installs
    cp $dist/lxc/80-vcgroupfs.conf /usr/share/lxc/config/common.conf.d/
}

stops_lxc() {
    local name=$1 pid
    pid=$(lxc_leader "$name")
    lxc-stop --name "$name" --timeout 30
    wait_until is_unlisted "lxc:$name\|pid $pid\$"
    expect "" "$(find /sys/fs/cgroup -name "lxc.payload.$name")"
    umount "$machines/$name/root" "$machines/$name"
}

# If there is no view, there's no container.
lxc_needs_its_view() {
    lxc_files "$1"
    echo "lxc.hook.start-host = /usr/share/vcgroupfs/lxc/start-host --cgroup /vcgroupfs-none" >>"/var/lib/lxc/$1/config"
    fails lxc-start --name "$1"
    expect STOPPED "$(lxc-info --no-humanize --state --name "$1")"
}

check "lxc: a container boots systemd" starts_lxc l1
check "lxc: services, without a view" lxc_services l1
[ "$setup" != legacy ] || check "attach: not while its systemd uses what the host hasn't mounted" refuses_without_v2 l1
check "attach: lxc:NAME" attaches_lxc l1
check "lxc: nothing of the host" lxc_is_contained l1
check "lxc: services" lxc_services l1
check "detach: lxc:NAME" detaches_lxc l1
check "lxc: the container ends" stops_lxc l1
[ "$setup" != legacy ] || umount /run/vm/unified
check "dist/lxc: is installed" installs_lxc
check "dist/lxc: a container boots systemd on a view" starts_lxc l2
check "dist/lxc: the view is there" has_lxc_view l2
check "dist/lxc: nothing of the host" lxc_is_contained l2
check "dist/lxc: services" lxc_services l2
check "dist/lxc: the container ends, and the view" stops_lxc l2
check "dist/lxc: no container without a view" lxc_needs_its_view l3
