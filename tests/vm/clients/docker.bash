# Docker, runc, crun and podman inside a container.

# The controllers of this machine's v1 hierarchies.
v1_controllers() {
    sed -n 's/^[1-9][0-9]*:\([^=:]*\):.*/\1/p' /proc/self/cgroup | paste -sd,
}

attaches_delegating() {
    local name=$1
    shift
    vcgroupfs attach --policy delegate --delegate-controllers "$(v1_controllers)" --place "vcgroupfs-$name" "$@" "machine:$name"
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
    inside "$name" systemd-run --quiet --collect --unit=dockerd --property=Delegate=yes dockerd --bridge=none --iptables=false \
        --ip-forward=false --storage-driver=vfs "$@"
    wait_until inside "$name" docker info
    inside_sh "$name" 'tar -C /box -c . | docker import - box'
    contains "$(inside "$name" docker info 2>/dev/null)" "Cgroup Driver: cgroupfs"
}

# There's no alias with the shape `rooted`, and runc makes no parents of cpusets.
starts_docker_rooted() {
    starts_docker "$1"
    inside "$1" mkdir -p /sys/fs/cgroup/cpuset/docker
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
    contains "$said" "memory:$(path_in "$name" memory)/docker/"
    contains "$said" "name=systemd:$(path_in "$name" name=systemd)/docker/"
}

docker_limits() {
    local name=$1
    expect 67108864 "$(in_docker "$name" -m 64M box cat /sys/fs/cgroup/memory/memory.limit_in_bytes)"
    expect 20 "$(in_docker "$name" --pids-limit 20 box cat /sys/fs/cgroup/pids/pids.max)"
}

# Docker asks the root of a hierarchy whether there are such files.
docker_cpus() {
    local name=$1
    expect 50000 "$(in_docker "$name" --cpus 0.5 box cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)"
    expect 0 "$(in_docker "$name" --cpuset-cpus 0 box cat /sys/fs/cgroup/cpuset/cpuset.cpus)"
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
    [ ! -e "/sys/fs/cgroup/memory$(path_in "$name" memory)/docker/$id" ] || fail "its cgroup is left"
}

docker_privileged() {
    contains "$(in_docker "$1" --privileged box cat /proc/self/cgroup)" "/docker/"
}

# Without a user namespace runc restricts devices, which is for the host to do.
docker_wants_devices() {
    local said
    said=$(in_docker "$1" box true || :)
    contains "$said" "devices.deny: permission denied"
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
)" "memory:$(path_in "$name" memory)/docker/$runtime"
}
