//! Containers that kill, stop, inspect and attack their agent.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use std::os::fd::AsFd;

use super::fixture::{Cgroup, Container, eventually, exists, pool, pool_of_copies, ready, status, v2};
use super::list;
use vcgroupfs::agents::{AgentPool, HelperImage};

#[test]
fn killed_agents_are_replaced() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    let cgroup = Cgroup::new(v2());
    let procs = cgroup.procs();
    let text = number.to_string();
    for _ in 0..10 {
        assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Ok(text.len()));
        let (agent, inside) = container.agent(|| assert_eq!(list(&pool, &ns, &cgroup.procs()), [number]));
        container.run(&format!("kill -9 {inside}"));
        eventually("the agent is dead", || !exists(agent));
    }
    assert_eq!(cgroup.members(), [host]);
}

#[test]
fn a_request_that_never_reached_its_agent_gets_another() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, _) = container.sleeper();
    let cgroup = Cgroup::new(v2());
    let procs = cgroup.procs();
    let (_, inside) = container.stop_agent(|| drop(list(&pool, &ns, &procs)));
    thread::scope(|scope| {
        let text = number.to_string();
        let (pool, ns, procs) = (&pool, &ns, &procs);
        let writer = scope.spawn(move || pool.write(ns, procs.as_fd(), text.as_bytes(), false));
        // The request is sent once its thread waits for the answer.
        testkit::wait_in_kernel(std::process::id(), &["poll"]);
        assert_eq!(cgroup.members(), Vec::<i32>::new());
        container.run(&format!("kill -9 {inside}"));
        assert_eq!(writer.join().unwrap(), Ok(number.to_string().len()));
    });
    // By another descriptor: v1 keeps what one has shown for a second.
    assert_eq!(list(&pool, &ns, &cgroup.procs()), [number]);
}

#[test]
fn killing_at_any_time_fails_a_request_at_worst() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, _) = container.sleeper();
    let cgroup = Cgroup::new(v2());
    let text = number.to_string();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let (procs, mut results) = (cgroup.procs(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                results.push(pool.write(&ns, procs.as_fd(), text.as_bytes(), false));
            }
            results
        });
        let mut kills = 0;
        eventually("30 agents are killed", || {
            for (_, inside) in container.agents() {
                kills += i32::from(container.run(&format!("kill -9 {inside}")).1 == 0);
            }
            kills >= 30
        });
        stop.store(true, Ordering::Relaxed);
        for result in requests.join().unwrap() {
            match result {
                Ok(_) | Err(Errno::EIO) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    // No agent is killed any more.
    eventually("a request is carried out again", || {
        pool.write(&ns, cgroup.procs().as_fd(), text.as_bytes(), false) == Ok(text.len())
    });
    assert_eq!(list(&pool, &ns, &cgroup.procs()), [number]);
}

#[test]
fn stopped_agents_cost_the_deadline_and_are_gone() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let (number, _) = container.sleeper();
    let cgroup = Cgroup::new(v2());
    let procs = cgroup.procs();
    let (agent, _) = container.stop_agent(|| drop(list(&pool, &ns, &procs)));
    let text = number.to_string();
    assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Err(Errno::EIO));
    eventually("the stopped agent is gone", || !exists(agent));
    // A request that came before that has waited long enough.
    assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Err(Errno::EIO));
    let ns = container.namespace();
    assert_eq!(list(&pool, &ns, &procs), Vec::<i32>::new(), "and hasn't written afterwards");
    assert_eq!(pool.write(&ns, procs.as_fd(), text.as_bytes(), false), Ok(text.len()));
}

#[test]
fn stopped_agents_end_with_the_server() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    let (agent, _) = container.stop_agent(|| drop(list(&pool, &ns, &cgroup.procs())));
    drop(pool);
    eventually("the stopped agent is gone", || !exists(agent));
}

#[test]
fn an_agent_has_nothing_to_take() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    // Stopped, so that the second of idleness isn't over too early. This is the container's right.
    let (mut agent, mut inside) = (0, 0);
    eventually("the request's file is closed", || {
        (agent, inside) = container.stop_agent(|| drop(list(&pool, &ns, &cgroup.procs())));
        // It closes the file of a request after it has replied, and may be stopped in between.
        let is_closed = fs::read_dir(format!("/proc/{agent}/fd")).is_ok_and(|files| files.count() == 5);
        if !is_closed {
            container.run(&format!("kill -9 {inside}"));
            eventually("the agent is dead", || !exists(agent));
        }
        is_closed
    });
    container.run(&format!("A=/proc/{inside}"));

    for (field, expected) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000800000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Groups", ""),
        ("PPid", &std::process::id().to_string()),
    ] {
        // Linux 4.3 brought ambient capabilities, 4.10 tells of NoNewPrivs.
        if status(1, field).is_some() {
            assert_eq!(status(agent, field).as_deref(), Some(expected), "{field}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{agent}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");

    let (text, _) = container.run("grep Cap /proc/self/status; cat $A/comm");
    // As many as this test, and so the server, has.
    let all = format!("CapEff:\t{}", status(std::process::id().cast_signed(), "CapEff").unwrap());
    assert!(text.contains(&all) && text.ends_with("vcgroupfs-agent"), "{text}");
    for (line, expected) in [
        ("ls -A $A/root/ $A/cwd/", format!("/proc/{inside}/cwd/:\n\n/proc/{inside}/root/:")),
        ("ls -A $A/root/..", String::new()),
        ("ls -A $A/fd/0/ $A/fd/1/.. | grep -v :", String::new()),
        ("cat $A/environ | wc -c", "0".to_owned()),
        ("ls $A/fd | tr '\\n' ' '", "0 1 2 3 4".to_owned()),
        ("readlink $A/fd/0 $A/fd/1 $A/fd/2", "/\n/\n/".to_owned()),
        ("readlink $A/fd/3 | sed s/:.*//", "socket".to_owned()),
        ("readlink $A/fd/4 | sed s/:.*//", "pipe".to_owned()),
        ("cat $A/mounts | grep -vc 'tmpfs ro,'", "0".to_owned()),
        ("cat $A/mounts | wc -l", "1".to_owned()),
    ] {
        assert_eq!(container.run(line).0, expected, "{line}");
    }
    for kind in ["mnt", "net", "ipc", "uts"] {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let agents = link(&agent.to_string());
        assert_ne!(agents, link("self"), "{kind}");
        assert_ne!(agents, link(&container.init.to_string()), "{kind}");
    }
    assert_eq!(container.run("touch $A/root/x").1, 1);
}

#[test]
fn an_agents_program_can_not_be_changed() {
    let Some(_guard) = ready() else { return };
    for pool in [pool(), pool_of_copies()] {
        a_program_can_not_be_changed(&pool);
    }
}

fn a_program_can_not_be_changed(pool: &AgentPool) {
    let mut container = Container::start();
    let ns = container.namespace();
    let cgroup = Cgroup::new(v2());
    let (agent, inside) = container.stop_agent(|| drop(list(pool, &ns, &cgroup.procs())));
    // Held open without reading or writing, and tried again when nobody executes it any more, when
    // ETXTBSY doesn't protect it.
    container.run(&format!("exec 9</proc/{inside}/exe; kill -9 {inside}"));
    eventually("the agent is dead", || !exists(agent));
    let (text, _) = container.run("head -c 4 /proc/self/fd/9 | tail -c 3");
    assert_eq!(text, "ELF");
    for line in [
        ": 2>&1 >> /proc/self/fd/9",
        "true >> /proc/self/fd/9",
        "chmod 0 /proc/self/fd/9",
        "touch /proc/self/fd/9",
        "chown 1 /proc/self/fd/9",
        "truncate -s 0 /proc/self/fd/9",
    ] {
        let (text, status) = container.run(&format!("( {line} )"));
        assert!(status != 0 && text.contains("Read-only file system"), "{line}: {text}");
    }
    let (_, inside) = container.stop_agent(|| drop(list(pool, &ns, &cgroup.procs())));
    // The kernel asks first whether it runs, and then whether its mount is read-only.
    let refusals = ["Read-only file system", "Text file busy"];
    let (text, status) = container.run(&format!("( true >> /proc/{inside}/exe )"));
    assert!(status != 0 && refusals.iter().any(|refusal| text.contains(refusal)), "{text}");
    // Nothing lies beside it.
    let (text, status) = container.run(&format!("ls /proc/{inside}/exe/.."));
    assert!(status != 0 && text.contains("Not a directory"), "{text}");
}

/// An upgrade puts another file in the program's place, or takes it away.
#[test]
fn agents_start_when_their_program_has_been_replaced() {
    let Some(_guard) = ready() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("vcgroupfs");
    fs::copy(super::fixture::program(), &program).unwrap();
    let pool = AgentPool::new(HelperImage::from_program(&program).unwrap());
    let container = Container::start();
    let cgroup = Cgroup::new(v2());
    cgroup.add(container.init);
    for replace in [true, false] {
        if replace {
            fs::write(folder.path().join("new"), "#!/bin/false\n").unwrap();
            fs::rename(folder.path().join("new"), &program).unwrap();
        } else {
            fs::remove_file(&program).unwrap();
        }
        let ns = container.namespace();
        assert_eq!(list(&pool, &ns, &cgroup.procs()), [1], "replaced: {replace}");
        // The next one is another agent.
        let agents = container.agents();
        for (agent, _) in agents {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), nix::sys::signal::Signal::SIGKILL).unwrap();
            eventually("the agent is dead", || !exists(agent));
        }
    }
}

#[test]
fn an_agent_is_not_dumpable() {
    let Some(_guard) = ready() else { return };
    testkit::require!(testkit::Need::Program("capsh"));
    let mut container = Container::start();
    let (pool, ns) = (pool(), container.namespace());
    let cgroup = Cgroup::new(v2());
    let (_, inside) = container.stop_agent(|| drop(list(&pool, &ns, &cgroup.procs())));
    // uid 0 with all of the agent's capabilities but not CAP_SYS_PTRACE can look into a process of
    // the same kind, if that is dumpable.
    let peers = format!(
        "sleep 300 >/dev/null & until [ \"$(readlink /proc/$!/fd/1)\" = /dev/null ]; do :; done; \
         readlink /proc/$!/fd/1 /proc/{inside}/fd/1"
    );
    let (text, status) = container.run(&format!("capsh --drop=cap_sys_ptrace -- -c '{peers}'"));
    assert_eq!((text.as_str(), status), ("/dev/null", 1));
}
