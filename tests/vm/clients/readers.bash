# Programs that read their limits: they find the container's, not the machine's.

# Options of nspawn's by which those that Debian hasn't got are in a container.
reader_binds=(--bind-ro=/run/vm/vcgroupfs-probe:/usr/bin/vcgroupfs-probe --bind-ro=/run/vm/go-limits:/usr/bin/go-limits
    --bind-ro=/run/vm/dotnet:/opt/dotnet)
dotnet_limits=(/opt/dotnet/dotnet /opt/dotnet/limits.dll)

limited() {
    local scope=machine-$1.scope
    systemctl set-property --runtime "$scope" MemoryMax=512M CPUQuota=100% TasksMax=500
}

jvm() {
    local said
    said=$(inside "$1" java -XshowSettings:system -version 2>&1)
    echo "$said"
    contains "$said" "Memory Limit: 512.00M"
    contains "$said" "Effective CPU Count: 1"
}

# Node.js 18 asks the root of the hierarchy alone, and of v1 alone; later versions their own cgroup.
nodejs() {
    expect 536870912 "$(inside "$1" node -p 'process.constrainedMemory()')"
}

rust() {
    expect 1 "$(inside "$1" vcgroupfs-probe --parallelism)"
}

# Two threads at the least, on a machine with three CPUs.
go() {
    expect "2 3" "$(inside "$1" go-limits)"
}

# It leaves a quarter of the memory to others.
dotnet() {
    expect $'1\n402653184' "$(inside "$1" "${dotnet_limits[@]}")"
}

# On v2 they read the limits of their own cgroup: those of a service.
with_limits() {
    local name=$1
    shift
    inside "$name" systemd-run --quiet --wait --pipe --collect --property=MemoryMax=512M --property=CPUQuota=100% "$@"
}

jvm_on_v2() {
    local said
    said=$(with_limits "$1" java -XshowSettings:system -version 2>&1)
    echo "$said"
    contains "$said" "Memory Limit: 512.00M"
    contains "$said" "Effective CPU Count: 1"
}

rust_on_v2() {
    expect 1 "$(with_limits "$1" vcgroupfs-probe --parallelism)"
}

go_on_v2() {
    expect "2 3" "$(with_limits "$1" go-limits)"
}

dotnet_on_v2() {
    expect $'1\n402653184' "$(with_limits "$1" "${dotnet_limits[@]}")"
}

# Without v1 memory, the JVM looks for nothing, and .NET for the CPUs alone.
jvm_without_memory() {
    contains "$(inside "$1" java -XshowSettings:system -version 2>&1)" "No metrics available"
}

dotnet_without_memory() {
    local kilobytes
    kilobytes=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
    expect $'1\n'$((kilobytes * 1024)) "$(inside "$1" "${dotnet_limits[@]}")"
}

# cgget and lscgroup of libcgroup.
libcgroup() {
    local name=$1 own=$2
    case $any in
    memory) expect 536870912 "$(inside "$name" cgget -n -v -r memory.limit_in_bytes "$own")" ;;
    pids) expect 500 "$(inside "$name" cgget -n -v -r pids.max "$own")" ;;
    esac
    contains "$(inside "$name" lscgroup "$any:$own")" "$own"
    lacks "$(inside "$name" lscgroup)" vm-clients.service
}
