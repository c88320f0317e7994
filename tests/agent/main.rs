//! Pid-namespace agents in real containers, on real cgroups.

mod fixture;
mod hostile;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fixture::{Cgroup, Container, eventually, exists, pool, ready, v1, v2};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use vcgroupfs::agents::{AgentPool, LentCapabilities, MAX_AGENTS, PidNamespace};

/// A whole pid list as seen from the namespace, sorted.
fn list(pool: &AgentPool, ns: &PidNamespace, file: &File) -> Vec<i32> {
    let mut text = Vec::new();
    loop {
        let mut buf = [0; 4096];
        let read = pool.read(ns, file.as_fd(), text.len() as u64, &mut buf).unwrap();
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buf[..read]);
    }
    numbers_of(pool, ns, text)
}

/// The numbers in a list that was read from the namespace, sorted. A list of an old kernel shows those of who opened it: the server has them
/// translated.
fn numbers_of(pool: &AgentPool, ns: &PidNamespace, text: Vec<u8>) -> Vec<i32> {
    let text = String::from_utf8(text).unwrap();
    let mut numbers: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    if testkit::legacy::is_so_anyway() {
        numbers = pool.numbers(ns, &numbers).unwrap();
    }
    numbers.sort_unstable();
    numbers
}

#[test]
fn reads_show_the_numbers_of_the_container() {
    let Some(_guard) = ready() else { return };
    let (mut container, mut other) = (Container::start(), Container::start());
    let pool = pool();
    let ((number, host), (_, foreign)) = (container.sleeper(), other.sleeper());
    for hierarchy in [v2(), v1()].into_iter().filter(|hierarchy| *hierarchy == "unified" || !is_legacy()) {
        let expected = fixture::beside_a_hidden_one(hierarchy, number);
        let cgroup = Cgroup::new(hierarchy);
        cgroup.add(host);
        cgroup.add(foreign);
        assert_eq!(list(&pool, &container.namespace(), &cgroup.procs()), expected);
        let own = PidNamespace::own().unwrap();
        let mut hosts = vec![host, foreign];
        hosts.sort_unstable();
        assert_eq!(list(&pool, &own, &cgroup.procs()), hosts);
    }
}

/// Whether this program runs as on an old kernel.
fn is_legacy() -> bool {
    std::env::var_os("VCGROUPFS_LEGACY").is_some()
}

/// These tests once more, but for those that take long, and what they make.
#[test]
fn on_an_old_kernel() {
    if is_legacy() {
        return;
    }
    testkit::require!(testkit::Need::LegacySyscalls);
    let Some(_guard) = ready() else { return };
    let mut command = Command::new("env");
    command.args(["--default-signal=CHLD", "VCGROUPFS_LEGACY=1"]).arg(&testkit::Programs::find().legacy);
    command.arg(std::env::current_exe().unwrap());
    for long in
        ["stopped", "killing", "many_threads", "idle", "agents_leak_no_descriptors_and_no_processes", "replaced"]
    {
        command.args(["--skip", long]);
    }
    // Nobody learns how a child ended here, where SIGCHLD is ignored.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let said = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    let _ = child.wait();
    for part in ["test devices_ask_for_an_administrator ... ok", "test result: ok. "] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn numbers_are_translated() {
    let Some(_guard) = ready() else { return };
    let (mut container, mut other) = (Container::start(), Container::start());
    let pool = pool();
    let mut pairs: Vec<(i32, i32)> = (0..70).map(|_| container.sleeper()).collect();
    let (_, foreign) = other.sleeper();
    // More than go in a message, one that isn't in there, and one that there isn't.
    let hosts: Vec<i32> = pairs.iter().map(|(_, host)| *host).chain([foreign, i32::MAX]).collect();
    pairs.sort_unstable();
    let translated = |hosts: &[i32]| {
        let mut numbers = pool.numbers(&container.namespace(), hosts).unwrap();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(translated(&hosts), pairs.iter().map(|(number, _)| *number).collect::<Vec<_>>());
    assert_eq!(translated(&[foreign]), [0; 0]);
    assert_eq!(translated(&[i32::MAX]), [0; 0]);
    assert_eq!(translated(&[]), [0; 0]);
    assert_eq!(pool.numbers(&PidNamespace::own().unwrap(), &[foreign]), Ok(vec![foreign]));
}

/// An agent that has CAP_SYS_ADMIN is there for one request.
#[test]
fn devices_ask_for_an_administrator() {
    testkit::require!(testkit::Need::Hierarchy("devices"));
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    let cgroup = Cgroup::new("devices");
    let procs = cgroup.procs();
    let path = format!("/proc/{host}/cgroup");
    let migrate = |admin| {
        let seen = fs::read(&path).unwrap();
        let memberships = File::open(&path).unwrap();
        let lent = LentCapabilities { nice: false, admin };
        pool.migrate(&ns, procs.as_fd(), number.to_string().as_bytes(), lent, (memberships.as_fd(), &seen))
    };
    for _ in 0..3 {
        let by_anybody = migrate(false);
        let asks = is_legacy() || testkit::legacy::is_so_anyway();
        assert_eq!(by_anybody, if asks { Err(Errno::EPERM) } else { Ok(true) });
        assert_eq!(migrate(true), Ok(true));
        assert_eq!(cgroup.members(), [host]);
        let permitted =
            |agent: i32| fixture::status(agent, "CapPrm").and_then(|set| u64::from_str_radix(&set, 16).ok());
        eventually("nobody there has the capability any more", || {
            container.agents().iter().all(|(agent, _)| {
                permitted(*agent).is_none_or(|set| set & vcgroupfs::sys::capability::CAP_SYS_ADMIN == 0)
            })
        });
        fs::write(cgroup.0.with_file_name("cgroup.procs"), host.to_string()).unwrap();
    }
}

#[test]
fn long_lists_are_read_in_pieces() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let pool = pool();
    let cgroup = Cgroup::new(v2());
    let mut numbers = Vec::new();
    for _ in 0..40 {
        let (number, host) = container.sleeper();
        cgroup.add(host);
        numbers.push(number);
    }
    let (ns, file) = (container.namespace(), cgroup.procs());
    let mut text = Vec::new();
    loop {
        let mut buf = [0; 7];
        match pool.read(&ns, file.as_fd(), text.len() as u64, &mut buf).unwrap() {
            0 => break,
            read => text.extend_from_slice(&buf[..read]),
        }
    }
    assert_eq!(numbers_of(&pool, &ns, text), numbers);
}

#[test]
fn writes_migrate_by_the_number_inside() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    for hierarchy in [v2(), v1(), "freezer", "name=systemd"] {
        let cgroup = Cgroup::new(hierarchy);
        let procs = cgroup.procs();
        let text = format!("{number}\n");
        assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Ok(text.len()));
        assert_eq!(cgroup.members(), [host], "{hierarchy}");
        // The host has this number, the container hasn't.
        for (bytes, errno) in [
            (host.to_string(), Errno::ESRCH),
            ("-1".to_owned(), Errno::EINVAL),
            ("x".to_owned(), Errno::EINVAL),
            ("x".repeat(4097), Errno::E2BIG),
        ] {
            let result = pool.write(&ns, procs.as_fd(), bytes.as_bytes(), true);
            assert_eq!(result, Err(errno), "{hierarchy} {bytes:.9}");
        }
        assert_eq!(cgroup.members(), [host], "{hierarchy}");
    }
}

#[test]
fn cpuset_asks_for_sys_nice_in_the_writer() {
    let Some(_guard) = ready() else { return };
    testkit::require!(testkit::Need::Hierarchy("cpuset"));
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    let cgroup = Cgroup::new("cpuset");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read(cgroup.0.with_file_name(file)).unwrap();
        fs::write(cgroup.0.join(file), value).unwrap();
    }
    let procs = cgroup.procs();
    let text = number.to_string();
    for _ in 0..2 {
        assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), true), Ok(text.len()));
        assert_eq!(cgroup.members(), [host]);
        // The sleeper has capabilities that the agent hasn't: an opener with CAP_SYS_NICE isn't
        // enough.
        let back = File::options().write(true).open(cgroup.0.with_file_name("cgroup.procs")).unwrap();
        let result = pool.write(&ns, back.as_fd(), text.as_bytes(), false);
        assert_eq!(result, Err(Errno::EPERM));
        assert_eq!(pool.write(&ns, back.as_fd(), text.as_bytes(), true), Ok(text.len()));
        assert_eq!(cgroup.members(), Vec::<i32>::new());
    }
}

#[test]
fn errors_of_the_system_call_come_back_as_they_are() {
    let Some(_guard) = ready() else { return };
    let container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    let read_only = File::open(cgroup.0.join("cgroup.procs")).unwrap();
    assert_eq!(pool.write(&ns, read_only.as_fd(), b"1", false), Err(Errno::EBADF));
    let directory = File::open(&cgroup.0).unwrap();
    assert_eq!(pool.read(&ns, directory.as_fd(), 0, &mut [0; 9]), Err(Errno::EISDIR));
    assert_eq!(pool.read(&ns, read_only.as_fd(), u64::MAX, &mut [0; 9]), Err(Errno::EINVAL));
    assert_eq!(pool.read(&ns, read_only.as_fd(), 0, &mut []), Ok(0));
}

#[test]
fn a_read_is_64_kib_at_most() {
    let Some(_guard) = ready() else { return };
    let container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let program = fs::read(fixture::program()).unwrap();
    let file = File::open(fixture::program()).unwrap();
    let mut buf = vec![0; 100_000];
    assert_eq!(pool.read(&ns, file.as_fd(), 1, &mut buf), Ok(65536));
    assert!(buf[..65536] == program[1..65537] && buf[65536..].iter().all(|byte| *byte == 0));
    let end = program.len() as u64;
    assert_eq!(pool.read(&ns, file.as_fd(), end - 3, &mut buf), Ok(3));
    assert_eq!(pool.read(&ns, file.as_fd(), end, &mut buf), Ok(0));
}

#[test]
fn processes_are_found_by_the_number_inside() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    let directory = pool.open_proc(&ns, number).unwrap();
    let read = || {
        let file = openat(&directory, "stat", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut buf = [0; 64];
        let read = nix::unistd::read(file, &mut buf)?;
        Ok::<_, Errno>(String::from_utf8_lossy(&buf[..read]).into_owned())
    };
    // It's there before it becomes what it is to be.
    eventually("it's the sleeper", || read().unwrap().starts_with(&format!("{host} (sleep)")));
    for none in [host, 0, -1, i32::MIN, i32::MAX] {
        assert_eq!(pool.open_proc(&ns, none).err(), Some(Errno::ENOENT), "{none}");
    }
    // A thread that isn't its process's first: of this very process, by its own namespace.
    let own = PidNamespace::own().unwrap();
    let tid = nix::unistd::gettid().as_raw();
    assert_ne!(tid, std::process::id() as i32);
    pool.open_proc(&own, tid).unwrap();

    container.run(&format!("kill -9 {number}; wait {number}"));
    eventually("the directory is dead", || matches!(read(), Err(Errno::ENOENT | Errno::ESRCH)));
    assert_eq!(pool.open_proc(&ns, number).err(), Some(Errno::ENOENT));
}

#[test]
fn namespaces_that_are_not_below_are_refused() {
    testkit::require!(testkit::Need::ThreadSelf);
    let Some(_guard) = ready() else { return };
    const INNER: &str = "VCGROUPFS_TEST_INNER";
    if let Ok(outer) = std::env::var(INNER) {
        // In a pid namespace of its own, with the /proc of the one above.
        let ns = PidNamespace::open(outer.parse().unwrap()).unwrap();
        let file = File::open("/dev/null").unwrap();
        let result = pool().read(&ns, file.as_fd(), 0, &mut [0; 9]);
        assert_eq!(result, Err(Errno::EACCES));
        assert_eq!(pool().read(&PidNamespace::own().unwrap(), file.as_fd(), 0, &mut [0; 9]), Ok(0));
        println!("inner part done");
        return;
    }
    let mut inner = Command::new("env")
        .args(["--default-signal=CHLD", "unshare", "--pid", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "namespaces_that_are_not_below_are_refused", "--nocapture"])
        .env(INNER, std::process::id().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // What it prints is the result: its status can't be had with SIGCHLD ignored.
    let text = std::io::read_to_string(inner.stdout.take().unwrap()).unwrap();
    let _ = inner.wait();
    assert!(text.contains("inner part done"), "{text}");
}

#[test]
fn idle_agents_end() {
    let Some(_guard) = ready() else { return };
    let container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    let procs = cgroup.procs();
    for _ in 0..2 {
        list(&pool, &ns, &procs);
        // The time is what is tested: this is a part of the second after which an idle agent ends.
        std::thread::sleep(Duration::from_millis(700));
        let start = Instant::now();
        list(&pool, &ns, &procs); // the second starts anew
        let agents = container.agents();
        eventually("the agent ends", || container.agents().is_empty());
        assert!(start.elapsed() >= Duration::from_secs(1), "it ended too early: {:?}", start.elapsed());
        eventually("the agent is no zombie", || !agents.iter().any(|(host, _)| exists(*host)));
    }
}

#[test]
fn agents_do_not_keep_a_container_from_ending() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    container.stop_agent(|| drop(list(&pool, &ns, &cgroup.procs())));
    // That of a container whose agent is a zombie never comes.
    container.end();
    // The namespace is held open, but nothing can be started in it any more.
    assert_eq!(pool.read(&ns, cgroup.procs().as_fd(), 0, &mut [0; 9]), Err(Errno::EIO));
}

#[test]
fn agents_end_with_the_pool() {
    let Some(_guard) = ready() else { return };
    let container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    let (host, inside) = container.agent(|| drop(list(&pool, &ns, &cgroup.procs())));
    drop(pool);
    eventually("the agent ends", || !exists(host));
    assert!(inside > 1);
}

#[test]
fn many_threads_use_agents_in_many_namespaces() {
    let Some(_guard) = ready() else { return };
    let mut containers = [Container::start(), Container::start()];
    let pool = pool();
    let cgroup = Cgroup::new(v2());
    let sleepers = containers.each_mut().map(Container::sleeper);
    for (_, host) in sleepers {
        cgroup.add(host);
    }
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (container, (number, _)) = (&containers[thread % 2], sleepers[thread % 2]);
            let (pool, ns, procs) = (&pool, container.namespace(), cgroup.procs());
            scope.spawn(move || {
                for _ in 0..200 {
                    assert_eq!(list(pool, &ns, &procs), fixture::beside_a_hidden_one(v2(), number));
                    let text = number.to_string();
                    assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Ok(text.len()));
                    pool.open_proc(&ns, number).unwrap();
                }
            });
        }
    });
    for container in &containers {
        container.agent(|| drop(list(&pool, &container.namespace(), &cgroup.procs())));
    }
}

#[test]
fn agents_leak_no_descriptors_and_no_processes() {
    let Some(_guard) = ready() else { return };
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || fixture::children(std::process::id());
    let cgroup = Cgroup::new(v2());
    let procs = cgroup.procs();
    eventually("what earlier tests left is gone", || children().is_empty());
    let files_before = files();
    let pool = pool();
    let with_pool = files();
    for _ in 0..5 {
        let container = Container::start();
        let ns = container.namespace();
        for _ in 0..50 {
            list(&pool, &ns, &procs);
            let _ = pool.open_proc(&ns, 1).unwrap();
            let _ = pool.open_proc(&ns, 77).unwrap_err();
        }
        assert!(files() <= with_pool + 2 * MAX_AGENTS + 4);
    }
    // The time is what is tested: after two seconds agents count as unused.
    std::thread::sleep(Duration::from_millis(2100));
    let own = PidNamespace::own().unwrap();
    list(&pool, &own, &procs); // drops what has been unused for long
    drop(own);
    assert_eq!(files(), with_pool + 2, "only the socket and the lifeline of one agent are left");
    drop(pool);
    assert_eq!(files(), files_before);
    eventually("no child is left", || children().is_empty());
    assert!(procs.as_raw_fd() > 2);
}
