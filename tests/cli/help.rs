//! `--help`, `--version`.

use crate::support::Sandbox;

const VERBS: [&str; 11] =
    ["mount", "umount", "run", "attach", "detach", "list", "explain", "tree", "map", "limits", "doctor"];

#[test]
fn every_verb_explains_itself() {
    let sandbox = Sandbox::new();
    let overview = sandbox.vcgroupfs(&["--help"]).ok();
    for verb in VERBS {
        assert!(overview.lines().any(|line| line.trim_start().starts_with(verb)), "{verb}: {overview}");
        let help = sandbox.vcgroupfs(&[verb, "--help"]).ok();
        assert!(help.contains(&format!("Usage: vcgroupfs {verb}")), "{help}");
        assert!(help.contains(&format!("Example: vcgroupfs {verb} ")), "{help}");
        // Every option and argument has a description.
        let short = sandbox.vcgroupfs(&[verb, "-h"]).ok();
        let undescribed: Vec<&str> = short
            .lines()
            .filter(|line| line.trim_start().starts_with("--") || line.trim_start().starts_with("-"))
            .filter(|line| line.trim().split("  ").filter(|part| !part.is_empty()).count() < 2 && line.len() < 30)
            .collect();
        assert!(undescribed.is_empty(), "{verb}: {undescribed:?}");
        assert_eq!(sandbox.vcgroupfs(&["help", verb]).ok(), help, "{verb}");
    }
    sandbox.is_clean();
}

#[test]
fn the_exit_status_is_documented() {
    let sandbox = Sandbox::new();
    let help = sandbox.vcgroupfs(&["--help"]).ok();
    for word in ["0 ok", "1 failed", "2 usage", "3 not supported", "4 not permitted"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let version = sandbox.vcgroupfs(&["--version"]).ok();
    let commit = version.strip_prefix(concat!("vcgroupfs ", env!("CARGO_PKG_VERSION"))).expect(&version).trim_end();
    // Of a release build from a checkout, or of one that was told it by VCGROUPFS_COMMIT.
    let is_commit = |text: &str| text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = commit.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    assert!(commit.is_empty() || hash.is_some_and(is_commit), "{version}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let sandbox = Sandbox::new();
    let said = crate::support::said(sandbox.command_of("sh").args([
        "-c",
        "{ \"$0\" tree --pid 1; echo $? >&2; } 2>&1 >&- | tail -n 1; { \"$0\" list --json || echo $? >&2; } | true",
        crate::support::program().to_str().expect("a path"),
    ]));
    assert!(!said.stderr.contains("panicked") && !said.stdout.contains("panicked"), "{said:?}");
}
