//! A container that keeps the server waiting keeps nobody else waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::unistd::Pid;
use testkit::probe::names::*;

use super::is_possible;
use super::scene::{Scene, place, wait_until};

/// More than run at once for all of them together.
const WRITERS: usize = 12;

/// How many slow requests of a kind run at once for a container.
const AT_ONCE: usize = 4;

/// The agents that a server has started.
fn agents(server: u32) -> Vec<i32> {
    let is_agent = |pid: &u32| testkit::status_field(*pid, "Name").as_deref() == Some("vcgroupfs-agent");
    testkit::children_of(server).into_iter().filter(is_agent).map(u32::cast_signed).collect()
}

fn slow_requests(server: u32) -> usize {
    testkit::threads_named(server, "slow request")
}

#[test]
fn a_stopped_agent_stops_its_own_container() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new();
    let containers = [scene.container("a"), scene.container("b")];
    let server = scene.view.server();
    let session = |number: usize| {
        let (own, other) = if number == 0 { ("a", "b") } else { ("b", "a") };
        scene.session(&containers[number], place(), own, other)
    };
    let mut first = session(0);
    for number in 0..WRITERS {
        first.expect(&mkdir(&format!("$OWN/w{number}")));
    }
    // Those who ask are there before: they have as long as the server waits for an agent.
    let writers: Vec<_> = (0..WRITERS).map(|_| session(0)).collect();
    let mut second = session(1);
    wait_until("an agent that is stopped", || {
        // One that nobody asks for a second has ended.
        first.expect(&write_file("$OWN/cgroup.procs", "1"));
        agents(server).first().is_some_and(|agent| testkit::stop(Pid::from_raw(*agent)))
    });
    let finished = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (number, mut writer) in writers.into_iter().enumerate() {
            let finished = &finished;
            scope.spawn(move || {
                // They fail, or succeed by another agent.
                writer.run(&write_file(&format!("$OWN/w{number}/cgroup.procs"), "1"));
                finished.fetch_add(1, Ordering::AcqRel);
            });
        }
        wait_until("a request that waits", || slow_requests(server) >= AT_ONCE);
        second.expect(&mkdir("$OWN/job"));
        second.expect(&spawn("P"));
        second.expect(&write_file("$OWN/job/cgroup.procs", "$P"));
        assert_eq!(finished.load(Ordering::Acquire), 0, "the others still wait for their agent");
        // Besides those that wait: what the first made its cgroups with, and what the second needs.
        let threads = slow_requests(server);
        assert!(threads <= 3 * AT_ONCE, "{threads}");
    });
}
