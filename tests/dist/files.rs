//! The files by what checks them, and that what they call exists.

use std::fs;
use std::process::Command;

use testkit::{Need, require};

use crate::{dist, program};

fn read(name: &str) -> String {
    fs::read_to_string(dist(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every option that a file gives to a verb is one that the verb has.
#[test]
fn options_in_these_files_exist() {
    let mut seen = 0;
    for name in ["lxc/start-host", "nspawn/vcgroupfs.conf", "oci/vcgroupfs.json", "README.md"] {
        let text = read(name).replace("\", \"", " ").replace('"', " ");
        for line in text.lines().filter(|line| line.contains("vcgroupfs attach")) {
            let help = Command::new(program()).args(["attach", "--help"]).output().expect("the program");
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            let rest = line.split("vcgroupfs attach").nth(1).expect("a command line");
            for word in rest.split([' ', '`', ']', '\'']).filter(|word| word.starts_with("--")) {
                assert!(help.contains(word), "{name}: {word}");
                seen += 1;
            }
        }
    }
    assert!(seen > 1, "{seen}");
}

#[test]
fn scripts_are_plain_sh() {
    require!(Need::Program("shellcheck"));
    let checked = Command::new("shellcheck").args(["--shell", "sh"]).arg(dist("lxc/start-host")).output();
    let checked = checked.expect("shellcheck");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// systemd's own check, on the unit and on nspawn's template with the drop-in.
#[test]
fn units_pass_systemd_analyze_verify() {
    require!(Need::Program("systemd-analyze"));
    let folder = tempfile::tempdir().expect("a directory");
    let with_program = |text: String| text.replace("/usr/bin/vcgroupfs", program());
    let unit = folder.path().join("vcgroupfs.service");
    fs::write(&unit, with_program(read("systemd/vcgroupfs.service"))).expect("the unit");
    // Stands in for systemd's template, which is in a package of its own.
    let template = folder.path().join("systemd-nspawn@.service");
    fs::write(&template, "[Service]\nType=notify\nExecStart=/bin/true\n").expect("a template");
    let drop_in = folder.path().join("systemd-nspawn@c1.service.d");
    fs::create_dir(&drop_in).expect("a directory");
    fs::write(drop_in.join("vcgroupfs.conf"), with_program(read("nspawn/vcgroupfs.conf"))).expect("the drop-in");
    for name in ["vcgroupfs.service", "systemd-nspawn@c1.service"] {
        let mut command = Command::new("systemd-analyze");
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display())).args(["verify", "--man=no", name]);
        let checked = command.current_dir(folder.path()).output().expect("systemd-analyze");
        let complaint = String::from_utf8_lossy(&checked.stderr).into_owned();
        let is_ours = |line: &&str| line.contains(folder.path().to_str().expect("text")) || line.contains("vcgroupfs");
        let ours: Vec<&str> = complaint.lines().filter(is_ours).collect();
        assert!(ours.is_empty(), "{name}: {complaint}");
    }
}
