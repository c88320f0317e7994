# The scope in which a view's server runs, on a host that systemd manages: it isn't in the unit of whoever made the view.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"

# A container in a unit of its own.
boxed() {
    systemd-run --quiet --unit=box --property=Delegate=yes unshare --mount --pid --fork --mount-proc sleep 3000
    wait_until pgrep -x -f 'sleep 3000'
    pgrep -x -f 'sleep 3000' >/run/vm/box
}

# show UNIT PROPERTY: its value
show() {
    systemctl show "$1" --property="$2" --value
}

# number KEY: that number of the only view.
number() {
    vcgroupfs list --json | grep -o "\"$1\":[0-9]*" | cut -d: -f2
}

# shows_view PID: whether the container has one.
shows_view() {
    grep -q ' - fuse.vcgroupfs ' "/proc/$1/mountinfo"
}

is_over() {
    [ "$(systemctl is-active "$1")" = inactive ]
}

# in_scope UNIT: both processes of the only view are in it, and in no cgroup of `caller`.
in_scope() {
    local key process
    for key in keeper pid; do
        process=$(number $key)
        contains "$(cat "/proc/$process/cgroup")" ":$own_key:/system.slice/$1"
        lacks "$(cat "/proc/$process/cgroup")" caller
        lacks "$(cat "/proc/$process/cgroup")" vm-clients
    done
    contains "$(vcgroupfs list --json)" "\"unit\":\"$1\""
}

outlives_its_caller() {
    local pid scope
    boxed
    pid=$(cat /run/vm/box)
    scope=vcgroupfs-pid-$pid.scope
    systemd-run --quiet --unit=caller --service-type=oneshot --property=RemainAfterExit=yes vcgroupfs attach "$pid"
    expect active "$(systemctl is-active caller.service)"
    shows_view "$pid"
    in_scope "$scope"
    systemctl stop caller.service
    expect active "$(systemctl is-active "$scope")"
    in_scope "$scope"
    nsenter --mount --target "$pid" find /sys/fs/cgroup -maxdepth 2 >/dev/null
}

has_limits() {
    local scope cgroup
    scope=vcgroupfs-pid-$(cat /run/vm/box).scope
    expect system.slice "$(show "$scope" Slice)"
    expect 2048 "$(show "$scope" TasksMax)"
    expect 1073741824 "$(show "$scope" MemoryHigh)"
    expect 2147483648 "$(show "$scope" MemoryMax)"
    expect 100 "$(show "$scope" CPUWeight)"
    expect control-group "$(show "$scope" KillMode)"
    expect inactive-or-failed "$(show "$scope" CollectMode)"
    contains "$(show "$scope" Description)" "cgroup view pid-"
    contains " $(show "$scope" Before) " " box.service "
    [ "$setup" = unified ] || return 0
    cgroup=/sys/fs/cgroup/system.slice/$scope
    expect 2048 "$(cat "$cgroup/pids.max")"
    expect 2147483648 "$(cat "$cgroup/memory.max")"
}

# A server that is killed comes back in the same scope.
keeps_its_scope() {
    local before
    [ "$(uname -r | cut -d. -f1)" = 6 ] && [ "$(uname -r | cut -d. -f2)" -ge 9 ] || return 0
    before=$(number pid)
    kill -KILL "$before"
    wait_until is_replaced "$before"
    in_scope "vcgroupfs-pid-$(cat /run/vm/box).scope"
}

is_replaced() {
    [ "$(number pid)" != "$1" ] && vcgroupfs list --json | grep -q '"state":"live"'
}

ends_with_its_scope() {
    local pid scope
    pid=$(cat /run/vm/box)
    scope=vcgroupfs-pid-$pid.scope
    systemctl stop "$scope"
    wait_until is_over "$scope"
    is_unlisted "pid $pid"
    ! shows_view "$pid" || fail "the view is still mounted"
    expect active "$(systemctl is-active box.service)"
    expect "" "$(find /sys/fs/cgroup -name "$scope")"
    expect "" "$(systemctl list-units --all --plain --no-legend 'vcgroupfs-*')"
}

# A shell that is killed as the programs of a session are.
outlives_a_session() {
    mkdir -p /srv/view
    systemd-run --quiet --scope --unit=caller sh -c "vcgroupfs mount --cgroup /system.slice/box.service /srv/view && echo live >/run/vm/live; sleep 4000" &
    wait_until test -s /run/vm/live
    in_scope vcgroupfs-srv-view.scope
    systemctl kill --signal=KILL caller.scope
    wait
    ls /srv/view/* >/dev/null
    vcgroupfs umount /srv/view
    wait_until is_over vcgroupfs-srv-view.scope
}

# Another unit has the name.
has_another_name() {
    local process
    systemd-run --quiet --scope --unit=vcgroupfs-srv-view sleep 4001 &
    wait_until systemctl --quiet is-active vcgroupfs-srv-view.scope
    vcgroupfs mount --cgroup /system.slice/box.service /srv/view
    process=$(number keeper)
    in_scope "vcgroupfs-srv-view-$process.scope"
    vcgroupfs umount /srv/view
    systemctl stop vcgroupfs-srv-view.scope
    wait
}

serves_a_command() {
    vcgroupfs run --name demo -- sleep 4002 &
    wait_until pgrep -x -f 'sleep 4002'
    in_scope vcgroupfs-demo.scope
    contains " $(show vcgroupfs-demo.scope Before) " " demo.scope "
    pkill -x -f 'sleep 4002'
    wait
    wait_until is_over vcgroupfs-demo.scope
}

# A unit's own server stays there.
stays_in_a_service() {
    mkdir -p /srv/view
    systemd-run --quiet --collect --unit=caller vcgroupfs --log-level info mount -f --cgroup /system.slice/box.service /srv/view
    wait_until mountpoint -q /srv/view
    contains "$(cat "/proc/$(show caller.service MainPID)/cgroup")" ":$own_key:/system.slice/caller.service"
    contains "$(vcgroupfs list --json)" '"unit":null'
    systemctl stop caller.service
    ! mountpoint -q /srv/view || fail "still mounted: $(journalctl --no-pager --unit=caller.service)"
}

# without FOLDER: a view is made although systemd can't be asked, with programs of that folder alone.
without() {
    local program
    program=$(command -v vcgroupfs)
    PATH=$1 "$program" mount --cgroup /system.slice/box.service /srv/view
    lacks "$(cat "/proc/$(number keeper)/cgroup")" vm-clients
    contains "$(vcgroupfs list --json)" '"unit":null'
    ls /srv/view/* >/dev/null
    vcgroupfs umount /srv/view
}

works_without_an_answer() {
    without /nonexistent
    mkdir -p /run/vm/silent
    printf '#!/bin/sh\nexec /bin/sleep 4003\n' >/run/vm/silent/busctl
    chmod 755 /run/vm/silent/busctl
    without /run/vm/silent
    ! pgrep -x -f '/bin/sleep 4003' || fail "busctl still runs"
}

check "attach: the view outlives the unit of its caller" outlives_its_caller
check "attach: the scope has limits" has_limits
check "attach: a new server is in the same scope" keeps_its_scope
check "attach: the view ends with its scope" ends_with_its_scope
check "mount: the view outlives its caller's session" outlives_a_session
check "mount: the scope has another name if that is taken" has_another_name
check "run: the server has a scope" serves_a_command
check "mount -f: the server stays in its unit" stays_in_a_service
check "mount: works if systemd doesn't answer" works_without_an_answer
systemctl stop box.service
