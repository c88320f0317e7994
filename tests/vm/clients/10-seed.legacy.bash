# The seed case: systemd in nspawn, without a cgroup namespace, and a view attached to it.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/docker.bash
. "$here/docker.bash"
# shellcheck source=tests/vm/clients/readers.bash
. "$here/readers.bash"

check "nspawn: a container boots systemd" boots c1 "${reader_binds[@]}"
check "nspawn: a second one" boots c2
check "attach: to a systemd that runs" attaches c1
check "doctor: who recognises it" recognised c1
check "systemd: services start, reload, restart, stop" services c1
check "systemd: scopes and slices" scopes c1
check "systemd: a user's session" sessions c1
check "systemd-cgls, systemd-cgtop" listings c1
check "containment: nothing of the host or of another container" hidden c1 c2
check "containment: the host's limits stay" limits_stay c1
check "limits of a machine are set" limited c1
check "Rust" rust c1
check "Go" go c1
if has_v1 memory; then
    check "JVM" jvm c1
    check ".NET" dotnet c1
else
    check "JVM, without v1 memory" jvm_without_memory c1
    check ".NET, without v1 memory" dotnet_without_memory c1
fi
check "libcgroup" libcgroup c1 machine.slice/machine-c1.scope
check "docker, strict: a runtime without cgroups" docker_without_cgroups c1
check "podman, strict: --cgroups=disabled" podman_without_cgroups c1
check "nspawn: in nspawn" nests c1
check "systemd: no complaint in the journal" no_complaints c1
check "detach: all is as before" detaches c1
check "systemd: no complaint after detach" no_complaints c1
check "attach: once more" attaches c1
check "nspawn: the container ends, and its view" ends c1
check "attach: before systemd starts" boots_on_a_view c3
check "systemd, started on a view: services" services c3
check "systemd, started on a view: scopes and slices" scopes c3
check "systemd, started on a view: no complaint since its boot" no_complaints c3
ends c3 >/dev/null 2>&1
ends c2 >/dev/null 2>&1
