# Docker as it is, in systemd in nspawn without a user namespace: the question that this project began with.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/docker.bash
. "$here/docker.bash"

# nspawn closes the devices of a container; what Docker gives its containers, the host has to give it.
check "nspawn: a container without a user namespace boots" boots d2 --property=DevicePolicy=auto --property=DeviceAllow=
check "attach: controllers are delegated to it" attaches_delegating d2 --alias docker
check "devices: the kernel asks the writer for CAP_SYS_ADMIN" devices_take_an_administrator d2
check "docker: starts there" starts_docker d2
check "docker run there" docker_runs d2
check "docker run -m, --pids-limit there" docker_limits d2
check "docker run --cpus, --cpuset-cpus there" docker_cpus d2
check "docker exec, stats, pause, stop there" docker_execs_and_stops d2
check "docker run --privileged there" docker_privileged d2
check "docker run there: devices are restricted" docker_restricts_devices d2
check "runc there" bundle_runs d2 runc
check "systemd beside Docker there: services" services d2
check "systemd beside Docker there: no complaints" no_complaints d2
check "docker: ends there" stops_docker d2
check "detach: all is as before there" detaches d2
check "attach: controllers are delegated to it, rooted" attaches_delegating d2 --shape rooted
check "docker: starts there, rooted" starts_docker_rooted d2
check "docker run --cpus, --cpuset-cpus there, rooted" docker_cpus d2
check "docker run there, rooted: devices are restricted" docker_restricts_devices d2
check "nspawn: that container ends" ends d2
