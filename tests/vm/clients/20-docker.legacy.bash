# Docker in systemd in nspawn.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/docker.bash
. "$here/docker.bash"
# shellcheck source=tests/vm/clients/readers.bash
. "$here/readers.bash"

check "nspawn: a container with a user namespace boots" boots_with_a_user_namespace d1 "${reader_binds[@]}"
check "attach: controllers are delegated" attaches_delegating d1 --alias docker --alias libpod_parent
check "docker: starts" starts_docker d1
check "docker run" docker_runs d1
check "docker run -m, --pids-limit" docker_limits d1
check "docker run --cpus, --cpuset-cpus" docker_cpus d1
check "docker exec, stats, pause, stop" docker_execs_and_stops d1
check "docker run --privileged" docker_privileged d1
check "runc" bundle_runs d1 runc
check "crun" bundle_runs d1 crun
check "podman run -m" podman_runs d1
check "systemd beside Docker: services" services d1
check "systemd beside Docker: no complaint" no_complaints d1
check "docker: ends, and the view" stops_docker d1
check "detach: controllers are as before" detaches d1
check "attach: controllers are delegated, rooted" attaches_delegating d1 --shape rooted
check "docker: starts, rooted" starts_docker_rooted d1
check "docker run --cpus, --cpuset-cpus, rooted" docker_cpus d1
check "docker run -m, --pids-limit, rooted" docker_limits d1
check "limits of the machine are set" limited d1
if has_v1 memory; then
    check "Node.js, rooted" nodejs d1
    check "JVM, rooted" jvm d1
    check ".NET, rooted" dotnet d1
fi
check "nspawn: the container with Docker ends" ends d1
