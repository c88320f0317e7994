# Docker, runc, crun and podman inside a container.

attaches_delegating() {
    local name=$1
    shift
    vcgroupfs attach --policy delegate --delegate-controllers all --place "vcgroupfs-$name" "$@" "machine:$name"
    is_up "$name"
}

# A small root filesystem, a busybox with nothing around it, below /box of a container.
box() {
    inside_sh "$1" 'mkdir -p /box/bin /box/proc /box/sys /box/dev /box/tmp
        cp /bin/busybox /box/bin && for name in sh cat sleep ls grep; do ln -sf busybox /box/bin/$name; done'
}

# starts_docker NAME [OPTION...]: without a network of its own.
starts_docker() {
    local name=$1
    shift
    box "$name"
    # On a slow machine dockerd gives up on its containerd too early.
    inside "$name" systemd-run --quiet --collect --unit=dockerd --property=Delegate=yes --property=Restart=on-failure \
        --property=RestartSec=1 dockerd --bridge=none --iptables=false --ip-forward=false --storage-driver=vfs "$@"
    if ! wait_until inside "$name" docker info; then
        inside "$name" journalctl --no-pager --lines=20 --unit=dockerd.service
        return 1
    fi
    inside_sh "$name" 'tar -C /box -c . | docker import - box'
    contains "$(inside "$name" docker info 2>/dev/null)" "Cgroup Driver: cgroupfs"
}

# There's no alias with the shape `rooted`, and runc makes no parents of cpusets.
starts_docker_rooted() {
    starts_docker "$1"
    ! has_v1 cpuset || inside "$1" mkdir -p /sys/fs/cgroup/cpuset/docker
}

boots_with_a_user_namespace() {
    local name=$1
    shift
    touch "/run/vm/degraded-$name"
    boots "$name" --private-users=identity "$@"
    systemctl -M "$name" --failed --plain --no-legend
}

stops_docker() {
    inside "$1" systemctl stop dockerd.service
}

in_docker() {
    local name=$1
    shift
    inside "$name" docker run --rm "$@" 2>&1 | grep -v '^WARNING: '
}

docker_runs() {
    local name=$1 said
    said=$(in_docker "$name" box cat /proc/self/cgroup)
    contains "$said" "$any:$(path_in "$name" "$any")/docker/"
    contains "$said" "name=systemd:$(path_in "$name" name=systemd)/docker/"
}

docker_limits() {
    local name=$1
    ! has_v1 memory || expect 67108864 "$(in_docker "$name" -m 64M box cat /sys/fs/cgroup/memory/memory.limit_in_bytes)"
    expect 20 "$(in_docker "$name" --pids-limit 20 box cat /sys/fs/cgroup/pids/pids.max)"
}

# Docker asks the root of a hierarchy whether there are such files.
docker_cpus() {
    local name=$1
    expect 50000 "$(in_docker "$name" --cpus 0.5 box cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)"
    ! has_v1 cpuset || expect 0 "$(in_docker "$name" --cpuset-cpus 0 box cat /sys/fs/cgroup/cpuset/cpuset.cpus)"
}

docker_execs_and_stops() {
    local name=$1 id
    id=$(inside "$name" docker run --detach box sleep 1000 2>/dev/null)
    contains "$(inside "$name" docker exec "$id" cat /proc/self/cgroup)" "/docker/$id"
    contains "$(inside "$name" docker stats --no-stream "$id")" "${id:0:12}"
    inside "$name" docker pause "$id"
    contains "$(inside "$name" docker ps)" Paused
    inside "$name" docker unpause "$id"
    inside "$name" docker stop --time 1 "$id"
    inside "$name" docker rm "$id"
    [ ! -e "/sys/fs/cgroup/$any$(path_in "$name" "$any")/docker/$id" ] || fail "its cgroup is left"
}

docker_privileged() {
    contains "$(in_docker "$1" --privileged box cat /proc/self/cgroup)" "/docker/"
}

# The number of a disk of the machine's, which a container may make a node of and not open.
disk=254:0

# With its default options a container of Docker's opens no disk, though it's root; with --privileged it does.
docker_restricts_devices() {
    local name=$1 open said
    open="mknod /disk b ${disk/:/ } && exec cat /disk"
    said=$(in_docker "$name" box cat /sys/fs/cgroup/devices/devices.list)
    contains "$said" "c 1:3 rwm"
    lacks "$said" "a *:* rwm"
    contains "$(in_docker "$name" box sh -c "$open" | head -c 1000)" "Operation not permitted"
    expect "a *:* rwm" "$(in_docker "$name" --privileged box cat /sys/fs/cgroup/devices/devices.list)"
    lacks "$(in_docker "$name" --privileged box sh -c "$open 2>&1 | head -c 512 | wc -c")" "not permitted"
}

# Who may write devices.deny: what the kernel says in the view is what it says on the host.
devices_take_an_administrator() {
    local name=$1 path=/sys/fs/cgroup/devices said
    path=$path$(path_in "$name" devices)/probe
    inside "$name" mkdir "$path"
    said=$(inside_sh "$name" "setpriv --bounding-set=-sys_admin /bin/bash -c 'echo a >$path/devices.deny' 2>&1 || :")
    contains "$said" "Operation not permitted"
    said=$(setpriv --bounding-set=-sys_admin /bin/bash -c "echo a >$path/devices.deny" 2>&1 || :)
    contains "$said" "Operation not permitted"
    inside_sh "$name" "echo 'b $disk rwm' >$path/devices.deny"
    said=$(inside_sh "$name" "echo 'b $disk rwm' >$path/devices.allow 2>&1; echo a >$path/devices.deny; cat $path/devices.list")
    expect "" "$said"
    # What the boundary has is the host's.
    contains "$(inside_sh "$name" "echo a >${path%/probe}/devices.deny" 2>&1 || :)" "Permission denied"
    inside "$name" rmdir "$path"
}

# With the strict policy nothing can be limited, and a runtime that makes no cgroups runs containers.
docker_without_cgroups() {
    local name=$1
    box "$name"
    inside_sh "$name" 'printf "#!/bin/sh\nexec crun --cgroup-manager=disabled \"\$@\"\n" >/usr/local/bin/crun-disabled
        chmod +x /usr/local/bin/crun-disabled'
    starts_docker "$name" --add-runtime crun-disabled=/usr/local/bin/crun-disabled --default-runtime crun-disabled
    contains "$(in_docker "$name" box cat /proc/self/cgroup)" \
        "name=systemd:$(path_in "$name" name=systemd)/system.slice/dockerd.service"
    stops_docker "$name"
}

podman_without_cgroups() {
    local name=$1
    box "$name"
    inside_sh "$name" 'tar -C /box -c . | podman --storage-driver=vfs import --quiet - box'
    contains "$(inside "$name" podman --storage-driver=vfs run --rm --cgroups=disabled --network=none box cat /proc/self/cgroup)" \
        "name=systemd:$(path_in "$name" name=systemd)/system.slice/run-"
}

podman_runs() {
    local name=$1
    inside_sh "$name" 'tar -C /box -c . | podman --storage-driver=vfs import --quiet - box'
    expect 67108864 "$(inside "$name" podman --storage-driver=vfs --cgroup-manager=cgroupfs run --rm -m 64M --network=none box \
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes)"
}

# bundle_runs NAME RUNTIME: a runtime by itself.
bundle_runs() {
    local name=$1 runtime=$2
    contains "$(inside "$name" /bin/bash -eus - "$runtime" <<'END'
rm -rf /run/bundle && mkdir /run/bundle && cd /run/bundle
"$1" spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's|"sh"|"cat", "/proc/self/cgroup"|' -e 's|"path": "rootfs"|"path": "/box"|' \
    -e "s|\"linux\": {|\"linux\": { \"cgroupsPath\": \"/docker/$1\",|" config.json
"$1" run box
END
)" "$any:$(path_in "$name" "$any")/docker/$runtime"
}
