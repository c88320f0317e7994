# systemd in nspawn without a cgroup namespace, on v2.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/readers.bash
. "$here/readers.bash"

# Nothing of the host, and nothing of another container.
hidden_on_v2() {
    local name=$1 other=$2 process
    # A process that is younger than the container's has a number that none of these has.
    sleep 4715 &
    process=$!
    inside_do "$name" hidden_on_v2_inside "$(path_in "$name" '')" "machine-$other" "$process"
    lacks "$(cat "/proc/$process/cgroup")" "machine-$name"
    kill "$process"
}

hidden_on_v2_inside() {
    local own=$1 other=$2 process=$3 seen path
    seen=$(find /sys/fs/cgroup)
    contains "$seen" "$own/system.slice"
    lacks "$seen" "$other"
    lacks "$seen" vm-clients.service
    for path in /sys/fs/cgroup/system.slice "/sys/fs/cgroup/machine.slice/$other.scope"; do
        contains "$(fails ls -d "$path")" "No such file"
        fails mkdir "$path/x"
    done
    for path in /sys/fs/cgroup /sys/fs/cgroup/machine.slice; do
        contains "$(fails mkdir "$path/x")" "Read-only file system"
        contains "$(fails put $$ "$path/cgroup.procs")" "Read-only file system"
    done
    contains "$(fails put "$process" "/sys/fs/cgroup$own/cgroup.procs")" "No such process"
}

# What a service of the container gets of its limit.
memory_max() {
    inside "$1" systemd-run --quiet --wait --pipe --collect --property=MemoryMax=100M /bin/sh -c \
        'echo "limit: $(cat /sys/fs/cgroup$(sed -n "s/^0:://p" /proc/self/cgroup)/memory.max)"'
}

limits_work() {
    expect "limit: 104857600" "$(memory_max "$1")"
}

limits_are_rejected() {
    local said
    said=$(memory_max "$1")
    contains "$said" "limit: "
    lacks "$said" 104857600
    is_up "$1"
}

check "nspawn: a container boots systemd" boots u1 "${reader_binds[@]}"
check "nspawn: a second one" boots u2
check "attach: to a systemd that runs" attaches u1
check "systemd: services start, reload, restart, stop" services u1
check "systemd: scopes and slices" scopes u1
check "systemd: a user's session" sessions u1
check "systemd-cgls, systemd-cgtop" listings u1
check "containment: nothing of the host or of another container" hidden_on_v2 u1 u2
check "strict: MemoryMax= is rejected, and systemd is well" limits_are_rejected u1
check "systemd: no complaint in the journal" no_complaints u1
check "detach: all is as before" detaches u1
check "attach: delegating" attaches u1 --policy delegate
check "delegate: MemoryMax=" limits_work u1
check "delegate: JVM" jvm_on_v2 u1
check "delegate: Rust" rust_on_v2 u1
check "delegate: Go" go_on_v2 u1
check "delegate: .NET" dotnet_on_v2 u1
check "delegate: services" services u1
check "attach: before systemd starts" boots_on_a_view u3 --policy delegate
check "systemd, started on a view: MemoryMax=" limits_work u3
check "systemd, started on a view: no complaint since its boot" no_complaints u3
