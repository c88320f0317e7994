# The unit of the mount for all containers: it's reloaded, restarted and killed while a container uses the mount.
# shellcheck source=tests/vm/clients/nspawn.bash
. "$here/nspawn.bash"
# shellcheck source=tests/vm/clients/dist.bash
. "$here/dist.bash"

mount_point=/var/lib/vcgroupfs/cgroup

# A container with the mount, which looks around all the time, and says what fails.
starts_bound_box() {
    installs
    install -m 644 $dist/systemd/vcgroupfs.service /etc/systemd/system/
    systemctl daemon-reload
    systemctl start vcgroupfs
    cat >/run/vm/looks <<'EOF'
mount --bind "$1" /sys/fs/cgroup
exec 9<"$2$(sed -n "s|^[0-9]*:$3:||p" /proc/self/cgroup)/cgroup.procs"
touch /run/vm/looking
while [ -e /run/vm/looking ]; do
    find /sys/fs/cgroup -maxdepth 3 >/dev/null 2>>/run/vm/failed
    echo >>/run/vm/looked
    sleep 0.2
done
cat <&9 >/run/vm/held 2>>/run/vm/failed
touch /run/vm/over
EOF
    rm -f /run/vm/{failed,looked,held,over}
    systemd-run --quiet --collect --unit=box --property=Delegate=yes unshare --mount --pid --fork --mount-proc \
        sh /run/vm/looks $mount_point "$own_top" "$own_key"
    wait_until test -e /run/vm/looking
}

# goes_on: it still looks around, and nothing has failed.
goes_on() {
    : >/run/vm/looked
    wait_until test -s /run/vm/looked
    expect "" "$(cat /run/vm/failed)"
}

main_process() {
    systemctl show vcgroupfs --property=MainPID --value
}

reloads() {
    local before
    before=$(main_process)
    systemctl reload vcgroupfs
    expect "$before" "$(main_process)"
    goes_on
}

restarts() {
    local before
    before=$(main_process)
    systemctl restart vcgroupfs
    [ "$(main_process)" != "$before" ] || fail "the main process is the same"
    goes_on
    systemctl restart vcgroupfs
    goes_on
    # What was open before is still open.
    rm /run/vm/looking
    wait_until test -e /run/vm/over
    expect "" "$(cat /run/vm/failed)"
    [ -s /run/vm/held ] || fail "nothing is in the list that it had open"
}

is_back() {
    [ "$(systemctl is-active vcgroupfs)" = active ] && [ "$(main_process)" != "$1" ]
}

comes_back() {
    local before
    starts_bound_box
    before=$(main_process)
    systemctl kill --signal=KILL vcgroupfs
    wait_until is_back "$before"
    goes_on
    rm /run/vm/looking
    wait_until test -e /run/vm/over
}

# Nothing is left, and nobody waits.
stops_the_unit() {
    systemctl stop vcgroupfs
    expect inactive "$(systemctl is-active vcgroupfs || :)"
    [ ! -e $mount_point ] || fail "the directory is still there"
    lacks "$(cat /proc/self/mountinfo)" fuse.vcgroupfs
    expect "" "$(vcgroupfs list 2>/dev/null | tail -n +2)"
}

# Before Linux 6.9 what is in hand at that moment fails.
kernel=$(uname -r | sed 's/^\([0-9]*\)\.\([0-9]*\).*/\1 \2/')
if [ "${kernel% *}" -gt 6 ] || { [ "${kernel% *}" = 6 ] && [ "${kernel#* }" -ge 9 ]; }; then
    check "dist/systemd: a container has the mount" starts_bound_box
    check "dist/systemd: reload, and the container goes on" reloads
    check "dist/systemd: restart, and the container goes on" restarts
    check "dist/systemd: kill -9 of all, and a container goes on" comes_back
    check "dist/systemd: stop, and nothing is left" stops_the_unit
fi
