//! What an agent costs: `cargo test --release --test agent -- --ignored --nocapture measure`.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::fixture::{Cgroup, Container, V1, V2, eventually, exists, pool, ready};

/// Median time of `rounds` calls.
fn median(rounds: usize, mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let Some(_guard) = ready() else { return };
    let mut container = Container::start();
    println!("image: {:?}", median(20, || drop(pool())));
    let (pool, ns) = (pool(), container.namespace());
    let (number, host) = container.sleeper();
    let mut buf = [0; 4096];
    for hierarchy in [V2, V1] {
        let cgroup = Cgroup::new(hierarchy);
        cgroup.add(host);
        let procs = cgroup.procs();
        let direct = median(5000, || assert!(procs.read_at(&mut buf, 0).is_ok()));
        let agent = median(5000, || assert!(pool.read(&ns, procs.as_fd(), 0, &mut buf).is_ok()));
        let ratio = agent.as_secs_f64() / direct.as_secs_f64();
        println!("{hierarchy} read: direct {direct:?}, agent {agent:?}, ratio {ratio:.1}");

        let other = Cgroup::new(hierarchy);
        let back = other.procs();
        let text = host.to_string();
        let direct = median(1000, || {
            back.write_at(text.as_bytes(), 0).unwrap();
            procs.write_at(text.as_bytes(), 0).unwrap();
        });
        let text = number.to_string();
        let agent = median(1000, || {
            pool.write(&ns, back.as_fd(), text.as_bytes(), false).unwrap();
            pool.write(&ns, procs.as_fd(), text.as_bytes(), false).unwrap();
        });
        let (direct, agent) = (direct / 2, agent / 2);
        let ratio = agent.as_secs_f64() / direct.as_secs_f64();
        println!("{hierarchy} migration: direct {direct:?}, agent {agent:?}, ratio {ratio:.1}");
    }
    println!("open_proc: {:?}", median(2000, || drop(pool.open_proc(&ns, number).unwrap())));
    let cgroup = Cgroup::new(V2);
    let procs = cgroup.procs();
    let mut times = Vec::new();
    for _ in 0..50 {
        if let Some((agent, inside)) = container.agents().first() {
            container.run(&format!("kill -9 {inside}"));
            eventually("the agent is dead", || !exists(*agent));
        }
        let start = Instant::now();
        pool.read(&ns, procs.as_fd(), 0, &mut buf).unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("first read, with the start of the agent: {:?}", times[times.len() / 2]);
}
