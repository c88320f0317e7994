# Docker on the host: containers get their views by `attach docker:NAME`, or by one mount for all callers.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/dist.bash
. "$here/dist.bash"

# A limit, where a container finds it, and another one: of memory, or without v1 memory of processes.
limit_options=(-m 64M) limit_is=67108864 update_options=(--memory 96M --memory-swap 96M) update_is=100663296
case $setup-$any in
unified-*) limit_key='' limit_top=/sys/fs/cgroup limit_name=memory.max ;;
*-memory) limit_key=memory limit_top=/sys/fs/cgroup/memory limit_name=memory.limit_in_bytes ;;
*-pids)
    limit_options=(--pids-limit 64) limit_is=64 update_options=(--pids-limit 96) update_is=96
    limit_key=pids limit_top=/sys/fs/cgroup/pids limit_name=pids.max
    ;;
esac

# A busybox with nothing around it. The machine has no network.
starts_host_docker() {
    local box=/run/vm/box name
    mkdir -p $box/{bin,proc,sys,dev,tmp}
    cp /bin/busybox $box/bin
    for name in sh cat sleep find mkdir; do ln -sf busybox "$box/bin/$name"; done
    systemd-run --quiet --collect --unit=host-dockerd --property=Delegate=yes dockerd --bridge=none --iptables=false --ip-forward=false \
        --storage-driver=vfs --data-root=/run/vm/docker
    wait_until docker info
    tar -C $box -c . | docker import - box
}

stops_host_docker() {
    systemctl stop host-dockerd.service
}

# A container with limits, in the host's cgroup namespace.
starts_web() {
    docker run --detach --name web --cgroupns=host --network=none "${limit_options[@]}" --cpus 1 -v /run/vm/go-limits:/bin/go-limits:ro box sleep 100000
    expect true "$(docker inspect --format '{{.State.Running}}' web)"
}

attaches_docker() {
    vcgroupfs attach docker:web
    contains "$(vcgroupfs list)" docker:web
    # On v1 Docker mounts the container's own cgroups.
    [ "$setup" = unified ] || contains "$(vcgroupfs list)" " rooted "
    sees_its_own "$(docker exec web cat /proc/self/cgroup)" "$(docker exec web find /sys/fs/cgroup)"
}

# The limit of a container, from the file that it finds by its /proc/self/cgroup.
limit_script="cat \"$limit_top\$(busybox sed -n 's/^[0-9]*:$limit_key://p' /proc/self/cgroup)/$limit_name\""

docker_reads_limits() {
    expect "$limit_is" "$(docker exec web sh -c "$limit_script")"
}

# Go's runtime goes down to two threads at the least.
docker_go() {
    expect "2 3" "$(docker exec web go-limits)"
}

# Docker goes on as before.
docker_goes_on() {
    contains "$(docker stats --no-stream web)" web
    docker pause web
    contains "$(docker ps)" Paused
    docker unpause web
    docker update "${update_options[@]}" web
    expect "$update_is" "$(docker exec web sh -c "$limit_script")"
}

detaches_docker() {
    vcgroupfs detach docker:web
    lacks "$(docker exec web cat /proc/self/mountinfo)" fuse.vcgroupfs
    vcgroupfs attach docker:web
}

stops_web() {
    docker rm --force web
    wait_until is_unlisted docker:web
}

# One with a cgroup namespace needs none on v2.
refuses_a_namespace() {
    local said
    docker run --detach --name own --cgroupns=private --network=none box sleep 100000
    said=$(fails vcgroupfs attach docker:own)
    docker rm --force own
    contains "$said" "cgroup namespace"
}

starts_the_service() {
    installs
    install -m 644 $dist/systemd/vcgroupfs.service /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --now vcgroupfs
    mountpoint /var/lib/vcgroupfs/cgroup
}

# run_bound OPTION... COMMAND...: a container with the mount for all callers.
run_bound() {
    docker run --rm --cgroupns=host --network=none --mount type=bind,src=/var/lib/vcgroupfs/cgroup,dst=/sys/fs/cgroup "$@"
}

bound_sees_its_own() {
    local said
    said=$(run_bound box sh -c 'cat /proc/self/cgroup; echo; find /sys/fs/cgroup')
    sees_its_own "${said%%$'\n\n'*}" "${said#*$'\n\n'}"
}

bound_reads_limits() {
    expect "$limit_is" "$(run_bound "${limit_options[@]}" box sh -c "$limit_script")"
}

# Two at once, each of which sees itself.
bound_beside_another() {
    local one said
    one=$(run_bound --detach --name one box sleep 100000)
    said=$(run_bound box find /sys/fs/cgroup)
    lacks "$said" "$one"
    contains "$(docker exec one find /sys/fs/cgroup)" "$one"
    docker rm --force one
}

# Without the unit there's nothing to bind, and no container.
stops_the_service() {
    systemctl disable --now vcgroupfs
    expect inactive "$(systemctl is-active vcgroupfs || :)"
    contains "$(fails run_bound box true)" "bind source path does not exist"
}

check "docker on the host: starts" starts_host_docker
check "docker on the host: run --cgroupns=host" starts_web
check "attach: docker:NAME" attaches_docker
check "docker on the host: a container reads its limits" docker_reads_limits
check "Go, in a container of the host's Docker" docker_go
check "docker on the host: stats, pause, update" docker_goes_on
check "detach: docker:NAME" detaches_docker
check "docker on the host: the container ends, and the view" stops_web
[ "$setup" != unified ] || check "attach: a cgroup namespace on v2 needs no view" refuses_a_namespace
check "dist/systemd: the unit starts" starts_the_service
check "docker --mount: nothing of the host" bound_sees_its_own
check "docker --mount: a container reads its limits" bound_reads_limits
check "docker --mount: one beside another" bound_beside_another
check "dist/systemd: the unit stops, and its mount" stops_the_service
check "docker on the host: ends" stops_host_docker
