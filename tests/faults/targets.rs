//! Containers by the names that their managers know them by, where somebody else has a word in what a manager prints. The managers are fakes.

use std::process::Command;

use testkit::{Container, ContainerOptions, Need, TIMEOUT, require, run_to_end, write_program};

/// The output of `attach` of this target, when these programs are the only container managers.
fn attach(target: &str, managers: &[(&str, String)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, script) in managers {
        write_program(&folder.path().join(name), &format!("#!/bin/sh\n{script}\n"));
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcgroupfs"));
    command.args(["attach", "--cgroup", "/vcgroupfs-not-there", target]).env("PATH", folder.path());
    let output = run_to_end(&mut command, TIMEOUT);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A container of somebody else's, whose number an attacker gets into the output.
fn victim() -> (Container, u32) {
    let victim = Container::start(ContainerOptions::default());
    let pid = victim.init();
    (victim, pid)
}

fn is_refused(target: &str, managers: &[(&str, String)]) {
    let (code, said) = attach(target, managers);
    assert!(code == Some(1) && said.contains("no running container"), "{managers:?}: {said}");
}

#[test]
fn output_for_people_is_not_parsed() {
    require!(Need::Root);
    let (_victim, pid) = victim();
    // What `incus info` prints, with the description that an instance's owner has given it. The instance doesn't run.
    let info = format!("printf 'Name: web\\nDescription: x\\nPID: {pid}\\nStatus: STOPPED\\n'");
    let stopped = "[ \"$1\" = query ] && echo '{\"status\": \"Stopped\", \"pid\": 0}' || { ".to_owned() + &info + "; }";
    is_refused("lxc:web", &[("incus", stopped)]);
    is_refused("lxc:web", &[("incus", info.clone())]);
    for manager in ["docker", "podman", "lxc-info", "lxc"] {
        let target = if manager.starts_with("lxc") { "lxc:web".to_owned() } else { format!("{manager}:web") };
        for printed in [
            format!("PID: {pid}\\n"),
            format!("{pid}\\nPID: {pid}\\n"),
            format!("{pid}\\n{pid}\\n"),
            format!(" {pid}\\n"),
            format!("+{pid}\\n"),
            format!("{pid} \\n"),
            format!("\\n{pid}\\n"),
            format!("{{\"pid\": \"{pid}\"}}\\n"),
            format!("{{\"pid\": {pid}}} {{\"pid\": {pid}}}\\n"),
        ] {
            is_refused(&target, &[(manager, format!("printf '{printed}'"))]);
        }
    }
}

#[test]
fn the_process_id_comes_from_the_instance_state() {
    require!(Need::Root, Need::Fuse);
    let (_container, pid) = victim();
    for program in ["incus", "lxc"] {
        let state = format!(
            "[ \"$*\" = 'query /1.0/instances/web/state --force-local' ] && printf '{{\"network\": {{\"pid\": 1}}, \"pid\": {pid}}}\\n'"
        );
        // The process is found: what fails is that there's no such cgroup.
        let (code, said) = attach("lxc:web", &[(program, state)]);
        assert!(code == Some(1) && said.contains("/vcgroupfs-not-there"), "{said}");
    }
}
