//! `limits`: what it says against the kernel, in random trees of cgroups with random limits. A process in one of them is stopped at exactly
//! the effective limit, by the cgroup that sets it.

mod kernel;
mod output;
mod places;
mod scene;
