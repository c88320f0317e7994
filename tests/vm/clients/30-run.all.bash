# `run` and `attach --place` on a host that systemd manages: it makes the cgroups.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"

takes_a_scope() {
    local said
    said=$(vcgroupfs run --name demo -- sh -c "cat /proc/self/cgroup; mkdir $own_top/system.slice/demo.scope/job && echo made
        mkdir $own_top/system.slice/x" 2>&1 || :)
    contains "$said" ":$own_key:/system.slice/demo.scope"
    contains "$said" made
    contains "$said" "Permission denied"
    lacks "$said" "makes no scope"
    wait_until is_over demo.scope
    [ ! -e "$own_top/system.slice/demo.scope" ] || fail "its cgroup is left"
    expect "" "$(find /sys/fs/cgroup -name 'demo*')"
}

is_over() {
    [ "$(systemctl is-active "$1")" = inactive ]
}

# While it runs, the unit is delegated, and has the controllers that systemd delegates.
scope_is_delegated() {
    local key=$any
    [ "$setup" != unified ] || key=
    vcgroupfs run --name held -- sleep 1000 &
    wait_until pgrep -x -f 'sleep 1000'
    expect Delegate=yes "$(systemctl show held.scope --property=Delegate)"
    contains "$(cat "/proc/$(pgrep -x -f 'sleep 1000')/cgroup")" ":$key:/system.slice/held.scope"
    [ "$setup" != unified ] || contains "$(cat $own_top/system.slice/held.scope/cgroup.controllers)" memory
    contains "$(fails vcgroupfs run --name held -- true)" "choose another --name"
    # systemd ends it as any other unit, and nothing is left.
    systemctl stop held.scope
    wait
    expect "" "$(find /sys/fs/cgroup -name 'held*')"
    is_unlisted "run held"
}

# .NET reads the limits of its own cgroup, and doesn't look where it doesn't recognise one.
reads_its_limits() {
    mkfifo /run/reader.go
    vcgroupfs run --name reader --stack -- sh -c 'read -r go </run/reader.go; exec /run/vm/dotnet/dotnet /run/vm/dotnet/limits.dll' \
        >/run/reader.said 2>&1 &
    wait_until systemctl --quiet is-active reader.scope
    systemctl set-property --runtime reader.scope MemoryMax=512M CPUQuota=100%
    echo go >/run/reader.go
    wait
    if has_v1 memory || [ "$setup" = unified ]; then
        expect $'1\n402653184' "$(cat /run/reader.said)"
    else
        # That controller is elsewhere, and then it knows of the CPUs alone.
        expect 1 "$(head -n 1 /run/reader.said)"
    fi
}

# In the root of each hierarchy, where systemd puts nobody.
homeless() {
    local top
    unshare --mount --pid --fork --mount-proc sleep 2000 &
    wait_until pgrep -x -f 'sleep 2000'
    for top in $(sed -n 's|^[^ ]* [^ ]* [^ ]* / \(/sys/fs/cgroup[^ ]*\) .* - cgroup2\? .*|\1|p' /proc/self/mountinfo); do
        pgrep -f 'sleep 2000' | while read -r pid; do echo "$pid" >"$top/cgroup.procs"; done
    done
}

places() {
    local pid said controller
    homeless
    pid=$(pgrep -x -f 'sleep 2000')
    vcgroupfs attach --place nest "$pid"
    said=$(cat "/proc/$pid/cgroup")
    echo "$said"
    contains "$said" ":$own_key:/system.slice/nest.scope"
    contains "$said" ":$any:/system.slice/nest.scope"
    # Those that systemd doesn't manage.
    for controller in cpuset freezer; do
        ! has_v1 $controller || contains "$said" ":$controller:/nest"
    done
    expect Delegate=yes "$(systemctl show nest.scope --property=Delegate)"
    vcgroupfs detach "$pid"
    expect "" "$(grep -v ':/$' "/proc/$pid/cgroup" || :)"
    wait_until is_over nest.scope
    expect "" "$(find /sys/fs/cgroup -name 'nest*')"
    kill "$pid"
}

check "run: takes a scope of systemd's" takes_a_scope
check "run: the scope is delegated, and ends" scope_is_delegated
check "run --stack: a program reads its limits" reads_its_limits
[ "$setup" = unified ] || check "attach --place: takes a scope of systemd's" places
