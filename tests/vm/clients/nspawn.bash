# systemd-nspawn without a cgroup namespace: the case that the rules of views come from.

# The hierarchy of systemd's own, as /proc/PID/cgroup names it, and where it's mounted.
case $setup in
unified) own_key='' own_top=/sys/fs/cgroup ;;
*) own_key=name=systemd own_top=/sys/fs/cgroup/systemd ;;
esac
# A v1 controller for which a container has a cgroup of its own: memory, which Debian's Linux 6.12 has for v2 only, or else pids.
any=memory
[ "$setup" = unified ] || has_v1 memory || any=pids

all_hierarchies() {
    sed -n 's/^[0-9]*:\([^:]*\):.*/\1/p' /proc/self/cgroup
}

# A service of the container that says that it was reloaded.
service_files() {
    cat >"$machines/$1/root/etc/systemd/system/probe.service" <<'END'
[Service]
ExecStart=/bin/sleep infinity
ExecReload=/bin/sh -c 'echo reloaded >/run/probe.reload'
END
    inside "$1" systemctl daemon-reload
}

boots() {
    machine "$@"
    cgroup_mounts "$1" >"/run/vm/before-$1"
    service_files "$1"
    mark "$1"
}

attaches() {
    local name=$1 pid
    shift
    vcgroupfs attach "$@" "machine:$name"
    contains "$(vcgroupfs list)" "machine:$name"
    pid=$(leader "$name")
    if [ "$setup" = unified ]; then
        contains "$(cat "/proc/$pid/mountinfo")" " - fuse.vcgroupfs "
        is_up "$name"
        return
    fi
    # Each hierarchy has a real mount and the view on it.
    for hierarchy in $(all_hierarchies); do
        hierarchy=${hierarchy#name=}
        [ "$(grep -c " /sys/fs/cgroup/${hierarchy:-unified} .* - fuse.vcgroupfs " "/proc/$pid/mountinfo")" = 1 ] ||
            fail "no view on $hierarchy"
    done
    is_up "$name"
}

# Starts, reloads, restarts and stops a service; on the host its cgroup comes and goes.
services() {
    local name=$1 path cgroup
    path=$(path_in "$name" "$own_key")
    cgroup=$own_top$path/system.slice/probe.service
    inside "$name" systemctl start probe.service
    expect 1 "$(wc -l <"$cgroup/cgroup.procs")"
    inside "$name" systemctl reload probe.service
    expect reloaded "$(inside_sh "$name" 'cat /run/probe.reload; rm /run/probe.reload')"
    inside "$name" systemctl restart probe.service
    expect active "$(inside "$name" systemctl is-active probe.service)"
    contains "$(inside "$name" systemctl status probe.service)" "probe.service"
    contains "$(inside "$name" systemctl status probe.service)" "sleep infinity"
    inside "$name" systemctl stop probe.service
    [ ! -e "$cgroup" ] || fail "$cgroup is still there"
    # What left its process group and its parent is found by the cgroup.
    inside "$name" systemd-run --quiet --unit=strays sh -c 'setsid sleep 4711 & setsid sleep 4712 & wait'
    wait_until pgrep -f 'sleep 4712'
    inside "$name" systemctl stop strays.service
    ! pgrep -f 'sleep 471[12]' || fail "strays were left"
}

scopes() {
    local name=$1
    contains "$(inside "$name" systemd-run --quiet --scope --unit=one cat /proc/self/cgroup)" \
        ":$own_key:$(path_in "$name" "$own_key")/system.slice/one.scope"
    contains "$(inside "$name" systemd-run --quiet --wait --pipe --slice=deep-er.slice cat /proc/self/cgroup)" \
        ":$own_key:$(path_in "$name" "$own_key")/deep.slice/deep-er.slice/run-"
    # A process ends, and its scope with it.
    wait_until inside_sh "$name" '! systemctl is-active one.scope'
}

# A session of a user with a systemd of its own, which makes cgroups as that user.
sessions() {
    local name=$1 said
    inside_sh "$name" 'id tester 2>/dev/null || useradd --create-home tester; loginctl enable-linger tester'
    wait_until inside_sh "$name" 'systemctl is-active user@1000.service'
    said=$(inside "$name" setpriv --reuid=1000 --regid=1000 --clear-groups env XDG_RUNTIME_DIR=/run/user/1000 \
        systemd-run --user --quiet --wait --pipe cat /proc/self/cgroup)
    contains "$said" ":$own_key:$(path_in "$name" "$own_key")/user.slice/user-1000.slice/user@1000.service/"
    inside_sh "$name" 'loginctl disable-linger tester; systemctl stop user@1000.service'
}

listings() {
    local name=$1
    inside "$name" systemctl start probe.service
    contains "$(inside "$name" systemd-cgls)" "sleep infinity"
    contains "$(inside "$name" systemd-cgtop --batch --iterations=1)" "system.slice"
    inside "$name" systemctl stop probe.service
}

# Nothing of the host, and nothing of another container.
hidden() {
    local name=$1 other=$2 own path process absent=()
    own=$(path_in "$name" name=systemd)
    for path in "/sys/fs/cgroup/systemd$(path_in "$other" name=systemd)" /sys/fs/cgroup/systemd/system.slice \
        "/sys/fs/cgroup/$any$(path_in "$other" "$any")" "/sys/fs/cgroup/$any/system.slice/vm-clients.service"; do
        [ -d "$path" ] || fail "the host has no $path"
        absent+=("$path")
    done
    # A process that is younger than the container's has a number that none of these has.
    sleep 4715 &
    process=$!
    inside_do "$name" hidden_inside "$own" "machine-$other" "$process" "${absent[@]}"
    lacks "$(cat "/proc/$process/cgroup")" "machine-$name"
    kill "$process"
}

hidden_inside() {
    local own=$1 other=$2 process=$3 seen path
    shift 3
    seen=$(find /sys/fs/cgroup)
    contains "$seen" "$own/system.slice"
    lacks "$seen" "$other"
    lacks "$seen" vm-clients.service
    for path in "$@"; do
        contains "$(fails ls -d "$path")" "No such file"
        contains "$(fails mkdir "$path/x")" "No such file"
    done
    for path in /sys/fs/cgroup/systemd /sys/fs/cgroup/systemd/machine.slice; do
        contains "$(fails mkdir "$path/x")" "Permission denied"
        contains "$(fails put $$ "$path/cgroup.procs")" "Permission denied"
        contains "$(fails put 1 "$path/notify_on_release")" "Permission denied"
    done
    # A process of the host has no number in there.
    contains "$(fails put "$process" "/sys/fs/cgroup/systemd$own/cgroup.procs")" "No such process"
}

# Whatever the policy: limits that the host has set stay.
limits_stay() {
    local file=memory.limit_in_bytes
    [ "$any" = memory ] || file=pids.max
    inside_do "$1" limits_stay_inside "$any" "$(path_in "$1" "$any")" "$file"
}

limits_stay_inside() {
    local file
    for file in "$1$2/$3" "pids$2/pids.max" "devices$2/devices.allow"; do
        file=/sys/fs/cgroup/$file
        [ -f "$file" ] || fail "there's no $file"
        contains "$(fails put 5 "$file")" "Read-only file system"
    done
}

no_complaints() {
    local said
    said=$(complaints "$1")
    expect "" "$said"
}

recognised() {
    local said
    said=$(vcgroupfs doctor --all "machine:$1")
    echo "$said"
    [[ $said =~ systemd\ 236-255\ +yes ]]
    # Where the host has no memory on v1 they find what they find without a view.
    [[ $said =~ Node.js[^$'\n']*\ ok ]]
    [[ $said =~ JVM[^$'\n']*\ ok ]]
    [[ $said =~ \.NET\ +ok ]]
}

detaches() {
    local name=$1
    vcgroupfs detach "machine:$name"
    expect "$(cat "/run/vm/before-$name")" "$(cgroup_mounts "$name")"
    expect "" "$(grep -l fuse.vcgroupfs /proc/[0-9]*/mountinfo)"
    is_unlisted "machine:$name"
    mark "$name"
    inside "$name" systemctl start probe.service
    inside "$name" systemctl stop probe.service
}

# The view is there before systemd looks for the first time.
boots_on_a_view() {
    local name=$1
    shift
    machine_files "$name"
    start_machine "$name" /bin/sh -c 'while [ ! -e /go ]; do sleep 0.1; done; exec /sbin/init'
    wait_until machinectl show "$name"
    wait_until test -e "/proc/$(leader "$name")/root$own_top"
    vcgroupfs attach "$@" "machine:$name"
    touch "$machines/$name/root/go"
    wait_until is_up "$name"
    service_files "$name"
}

ends() {
    stop_machine "$1"
    wait_until is_unlisted "machine:$1"
}

# nspawn in nspawn: the container's systemd-nspawn registers with nobody and makes its payload's cgroups in the view.
nests() {
    local name=$1
    inside_sh "$name" '
        mkdir -p /run/nested && mount -t tmpfs tmpfs /run/nested && mkdir /run/nested/{upper,work,root,lower,upper/etc}
        mount --bind / /run/nested/lower
        : >/run/nested/upper/etc/machine-id
        mount -t overlay -o lowerdir=/run/nested/lower,upperdir=/run/nested/upper,workdir=/run/nested/work overlay /run/nested/root
        systemd-run --quiet --unit=nested -E SYSTEMD_NSPAWN_USE_CGNS=0 -E SYSTEMD_SECCOMP=0 systemd-nspawn --quiet \
            --directory=/run/nested/root --machine=nested --private-network --capability=all --link-journal=no --boot'
    wait_until inside_sh "$name" '[ "$(systemctl -M nested is-system-running)" = running ]'
    contains "$(inside_sh "$name" 'cat /proc/$(machinectl show nested -p Leader --value)/cgroup')" \
        ":$own_key:$(path_in "$name" "$own_key")/machine.slice/machine-nested.scope/payload/init.scope"
    inside "$name" machinectl terminate nested
    wait_until inside_sh "$name" '! machinectl show nested'
}
