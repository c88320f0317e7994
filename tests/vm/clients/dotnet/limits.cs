// Prints what the .NET runtime makes of the limits that it finds: the CPUs that it counts on, and how much memory it may use: all that the
// machine has or, where it finds a limit, three quarters of that.
//
// It asks statfs of /sys/fs/cgroup which version there is, and finds its cgroup by /proc/self/mountinfo and /proc/self/cgroup. It reads
// cpu.cfs_quota_us and memory.limit_in_bytes, or cpu.max and memory.max.
using System;

static class Limits {
    // A line each: the compiler can't read the types of this runtime that sums of strings involve.
    static void Main() {
        Console.WriteLine(Environment.ProcessorCount);
        Console.WriteLine(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);
    }
}
