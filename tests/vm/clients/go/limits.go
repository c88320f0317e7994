// Prints what Go's runtime makes of the limits that it finds: how many threads it runs at once, and how many CPUs the machine has.
//
// The runtime of Go 1.25 looks for the cgroup by /proc/self/mountinfo and /proc/self/cgroup, and reads its quota (cpu.cfs_quota_us, cpu.max).
// It never goes below 2.
package main

import (
	"fmt"
	"runtime"
)

func main() {
	fmt.Println(runtime.GOMAXPROCS(0), runtime.NumCPU())
}
