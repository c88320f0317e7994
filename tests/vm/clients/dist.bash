# The program and the files for container managers, installed on the host as dist/README.md says.

dist=/run/vm/dist

installs() {
    install -m 755 /run/vm/vcgroupfs /usr/bin/vcgroupfs
    install -D -m 755 $dist/lxc/start-host /usr/share/vcgroupfs/lxc/start-host
}

# sees_its_own CGROUPS TREE: what a container's /proc/self/cgroup says is in its tree, by its path or as the top of it, and nothing of the host.
sees_its_own() {
    local cgroups=$1 tree=$2 path
    path=$(sed -n "s|^[0-9]*:$own_key:||p" <<<"$cgroups")
    [ "${path:-/}" != / ] || fail "it has no cgroup of its own: $cgroups"
    # Of no skeleton's top a list of processes is shown.
    case $tree in
    *"$own_top/cgroup.procs"*) ;;
    *) contains "$tree" "$own_top$path" ;;
    esac
    lacks "$tree" vm-clients.service
}
