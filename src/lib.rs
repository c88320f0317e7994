//! vcgroupfs: a userspace filesystem that stands in for `/sys/fs/cgroup` inside a container.
//!
//! It shows a namespaced view of the host's cgroup tree, hands every operation that its policy allows to the real
//! cgroupfs, and rejects everything else with an errno and a named rule. The library exists for the `vcgroupfs` program
//! and its tests; it promises no stable interface.
//!
//! ```text
//!  container                    host
//!  ---------   FUSE    ------------------------------------------------------
//!  systemd  <--------> server: fuse -> fs -> {view, policy} -> host -> real cgroupfs
//!  docker                 |  passes descriptors                /proc
//!  jvm                    v
//!                      mount-helper: joins the container's namespaces; agent, attach, detach
//! ```
//!
//! A request comes in at [`fuse`], which knows the protocol and nothing else. It asks [`fs`], which holds the
//! operations of a filesystem and knows no FUSE. That looks up where the node stands in [`view`], asks [`policy`]
//! whether the operation may be done there, and hands what is allowed to [`fs::Host`], a trait whose real
//! implementation is in [`host`]. Pid numbers are translated by the kernel, for a process that [`agents`] keeps in the
//! caller's pid namespace.
//!
//! | module | what it is |
//! |---|---|
//! | [`cgroup`] | the vocabulary: paths, controllers, hierarchies, interface files, memberships, mountinfo. Pure |
//! | [`policy`] | decisions: a node and an operation in, a verdict out; the one table of rules and errnos. Pure |
//! | [`view`] | which name is shown where: shapes, skeleton, alias. Pure |
//! | [`fs`] | the filesystem over a view, a policy and a host: inode table, operations, caches |
//! | [`host`] | the real host: its hierarchies, its cgroupfs, its processes, watches on it |
//! | [`agents`] | the server's side of mount-helper: agents in the pid namespaces of callers, mounts in containers |
//! | [`fuse`] | the adapter to FUSE, mounting, and the session; the only place that knows `fuser` |
//! | `container` | a running container: its name, a handle to it, the mounts of its view, attaching and detaching |
//! | `provision` | the cgroups that the program makes itself |
//! | `server` | the life of a server: start, records, log, signals, end |
//! | `doctor` | what programs recognise of their cgroups and which limits they read: models over facts, which `doctor::probe` collects |
//! | [`cli`] | the command line, a file or folder per verb: it parses, calls and prints, and alone knows exit codes |
//! | [`error`] | errors: the problem, its cause and a remedy, in the user's words |
//! | [`message`] | messages to the user on standard error |
//! | `subprocess` | programs of the host that answer a question, within a time |
//! | [`activity`] | what a view has done: counters, the last rejections, and the requests that somebody watches, in shared memory |
//! | [`records`] | what a server records for the one after it, in memory that they share |
//! | [`limit`] | limits for what a container can cause: lines of the log, processor time. It reads clocks |
//! | [`sys`] | system calls that no dependency wraps: a package of its own, shared with mount-helper, that has the only unsafe code |
//!
//! Imports run one way. `cgroup`, `limit`, `subprocess` and `sys` use no other module; `activity` uses `policy` and `sys`; `records` uses
//! `activity` and `sys`; `message`, `policy` and `doctor`
//! (but for `doctor::probe`) use `cgroup`; `view` uses `policy`; `fs` uses `view`, and of `sys` only the numbers of
//! capabilities; `agents` uses `sys`; `host` uses `fs` (for the trait), `agents` and `sys`; `fuse` uses `fs`; `error`
//! uses `cgroup`, `fuse`, `agents` and `host`; `container`, `provision` and `server` use these; `cli` uses all of them.
//! `cgroup`, `policy` and `view` do no input or output.
//!
//! `docs/ARCHITECTURE.md` follows a request through the layers, `docs/SEMANTICS.md` lists what each operation does, and
//! `SECURITY.md` says what is defended against whom.
// A server that panics wedges containers, and `eprintln!` and its like panic where their output is closed or the disk full.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::unreachable, clippy::unimplemented, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), deny(clippy::disallowed_macros, clippy::string_slice))]

pub mod activity;
pub mod agents;
pub mod cgroup;
pub mod cli;
mod container;
mod doctor;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod host;
pub mod limit;
pub mod message;
pub mod policy;
mod provision;
pub mod records;
mod server;
mod subprocess;
pub mod view;

pub use sys;
