# What the checks share. Sourced by `main`.

# Containers are from the machine's own disk, each with a layer of its own over it.
lower=/run/lower
machines=/run/containers
failures=/run/vm/failures
out=/run/vm/out
# Seconds after which a check is ended.
limit=300

# check NAME COMMAND...: runs it, and prints a line as `cargo test` does. A command of it that fails ends it.
check() {
    local name=$1 status watchdog job start=$SECONDS
    shift
    case $name in *"${case_part-}"*) ;; *) return ;; esac
    (set -eu && "$@") >"$out" 2>&1 </dev/null &
    job=$!
    (sleep "$limit" && echo "ended after $limit s" >>"$out" && kill -KILL "$job") 2>/dev/null &
    watchdog=$!
    wait "$job" 2>/dev/null
    status=$?
    kill "$watchdog" 2>/dev/null
    wait "$watchdog" 2>/dev/null
    echo "# $((SECONDS - start)) s"
    if [ "$status" = 0 ]; then
        echo "test $name ... ok"
        return 0
    fi
    echo "test $name ... FAILED"
    { printf -- '---- %s (%s)\n' "$name" "$status" && cat "$out"; } >>"$failures"
    # At once, too, for who reads the console while the others run.
    sed 's/^/# /' "$out"
    return 1
}

note() {
    echo "VM-NOTE $*"
}

# Fails with a text.
fail() {
    echo "$*"
    return 1
}

# expect WHAT IS: fails if both aren't the same.
expect() {
    [ "$1" = "$2" ] || fail "expected '$1', got '$2'"
}

# contains TEXT PART
contains() {
    case $1 in *"$2"*) ;; *) fail "no '$2' in: $1" ;; esac
}

# lacks TEXT PART
lacks() {
    case $1 in *"$2"*) fail "'$2' is in: $1" ;; esac
}

# fails COMMAND...: it must fail; prints what it said.
fails() {
    if "$@" 2>&1; then fail "this should have failed: $*"; fi
}

# wait_until COMMAND...: until it succeeds, a minute at least.
wait_until() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || fail "in vain waited for: $*" || return
        sleep 0.5
    done
}

# machine NAME [OPTION...]: boots a container without a cgroup namespace; returns when its systemd has.
machine() {
    local name=$1
    machine_files "$name"
    shift
    start_machine "$name" "$@" --boot
    wait_until is_up "$name"
}

# Its files: the disk's, and what it writes in memory.
machine_files() {
    local folder=$machines/$1
    if ! mountpoint -q $lower; then
        mkdir -p $lower
        mount --bind / $lower
    fi
    mkdir -p "$folder"
    mount -t tmpfs -o mode=755 tmpfs "$folder"
    mkdir -p "$folder"/{upper/etc,work,root}
    : >"$folder/upper/etc/machine-id"
    mount -t overlay -o "lowerdir=$lower,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
}

# start_machine NAME OPTION...
start_machine() {
    local name=$1
    shift
    systemd-run --quiet --unit="nspawn-$name" -E SYSTEMD_NSPAWN_USE_CGNS=0 -E SYSTEMD_SECCOMP=0 \
        systemd-nspawn --quiet --directory="$machines/$name/root" --machine="$name" --private-network --capability=all \
        --link-journal=no "$@"
}

# With a user namespace some of systemd's own units fail, as they do without a view.
is_up() {
    case $(systemctl -M "$1" is-system-running) in
    running) ;;
    degraded) [ -e "/run/vm/degraded-$1" ] ;;
    *) return 1 ;;
    esac
}

stop_machine() {
    local name=$1
    machinectl terminate "$name"
    wait_until is_gone "$name"
    umount "$machines/$name/root"
    umount "$machines/$name"
}

is_gone() {
    ! machinectl show "$1" && ! systemctl is-active -q "nspawn-$1"
}

leader() {
    machinectl show "$1" -p Leader --value
}

# The path of a container's process 1 in a v1 hierarchy; `name=systemd` without its init.scope.
path_in() {
    local path
    path=$(sed -n "s|^[0-9]*:$2:||p" "/proc/$(leader "$1")/cgroup")
    echo "${path%/init.scope}"
}

# inside NAME COMMAND...: as a service of the container.
inside() {
    local name=$1
    shift
    timeout 120 systemd-run -M "$name" --quiet --wait --pipe --collect -E PATH -E HOME=/root "$@"
}

# inside_sh NAME SCRIPT
inside_sh() {
    inside "$1" /bin/bash -euc "$2"
}

# inside_do NAME FUNCTION ARGUMENT...: a function of these files, which may use those of this one.
inside_do() {
    local name=$1
    shift
    inside "$name" /bin/bash -eus - "$@" <<<"$(declare -f fail expect contains lacks fails put wait_until "$1")
\"\$@\""
}

# is_unlisted PATTERN: no view whose line in the list has it is served.
is_unlisted() {
    local list
    list=$(vcgroupfs list) || return
    ! grep -e "$1" <<<"$list"
}

# has_v1 CONTROLLER: whether the machine has it in a hierarchy of v1.
has_v1() {
    grep -q "^[0-9]*:\([^:]*,\)\?$1\(,[^:]*\)\?:" /proc/self/cgroup
}

# put TEXT FILE
put() {
    printf '%s\n' "$1" >"$2"
}

# The mounts of a container at and below /sys/fs/cgroup, without their numbers.
cgroup_mounts() {
    cut -d' ' -f3- "/proc/$(leader "$1")/mountinfo" | grep ' /sys/fs/cgroup' | sed 's/shared:[0-9]*/shared/'
}

# Puts a time into the container's journal, from which on `complaints` looks.
mark() {
    journalctl -M "$1" --sync 2>/dev/null || inside "$1" journalctl --sync
    inside "$1" date '+%Y-%m-%d %H:%M:%S.%6N' >"/run/vm/mark-$1"
}

# Warnings in the container's journal since the mark, or since the boot, but for those of the services by which checks are made, and
# for what is known.
complaints() {
    local since=() said
    [ ! -e "/run/vm/mark-$1" ] || since=(--since "$(cat "/run/vm/mark-$1")")
    said=$(inside "$1" journalctl --no-pager --quiet --boot --output=cat --priority=warning "${since[@]}") || return
    grep -v -e '^$' -e '^run-u[0-9]*.service: ' -e "$known" <<<"$said" || :
}

# The machine's kernel has no tun. Where there is v2 systemd asks for file handles of cgroups, which are longer on a FUSE, and attaches BPF
# programs to some, which can't be done there: see README.md of the project.
# On a slow machine dockerd gives up on its containerd, and is started once more.
known="dockerd.service: Failed with result 'exit-code'\|stat device /dev/net/tun\|/sys/fs/cgroup/.*, ignoring: Value too large\|BPF program to cgroup .*: Bad file descriptor"
