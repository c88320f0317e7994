# The suite `readers`: tests/readers, or the cases of it that `case` is a part of, with every container manager and every program that there is.

disk=/run/vm/readers
mkdir -p $disk
mount -o ro /dev/vdb $disk || echo "test readers: the disk ... FAILED"
# What a cgroup is to limit on v2, the root lets it have.
if [ "$setup" = unified ]; then
    for controller in cpu memory pids; do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; done
fi
export VCGROUPFS_REQUIRE=all VCGROUPFS_TEST_READERS=$disk/programs VCGROUPFS_PROGRAM=/run/vm/vcgroupfs VCGROUPFS_VM=$setup
$disk/debug/deps/readers --color=never --test-threads=1 --include-ignored "${parts[@]}" >/run/vm/readers.out 2>/run/vm/readers.table </dev/null
sed 's/^/# /' /run/vm/readers.table
# The harness' own lines, without the text that it says is a failure's.
cat /run/vm/readers.out
! grep -q '^test result: FAILED' /run/vm/readers.out || echo "readers" >>"$failures"
grep -q '^test result: ' /run/vm/readers.out || echo "readers: the suite didn't come to its end" >>"$failures"
