//! `--help`, `--version`.

use crate::support::Place;

const VERBS: [&str; 10] = ["mount", "umount", "run", "attach", "detach", "list", "explain", "tree", "map", "doctor"];

#[test]
fn every_verb_explains_itself() {
    let place = Place::new();
    let overview = place.vcgroupfs(&["--help"]).ok();
    for verb in VERBS {
        assert!(overview.lines().any(|line| line.trim_start().starts_with(verb)), "{verb}: {overview}");
        let help = place.vcgroupfs(&[verb, "--help"]).ok();
        assert!(help.contains(&format!("Usage: vcgroupfs {verb}")), "{help}");
        assert!(help.contains(&format!("Example: vcgroupfs {verb} ")), "{help}");
        // Every option and argument has a description.
        let short = place.vcgroupfs(&[verb, "-h"]).ok();
        let undescribed: Vec<&str> = short
            .lines()
            .filter(|line| line.trim_start().starts_with("--") || line.trim_start().starts_with("-"))
            .filter(|line| line.trim().split("  ").filter(|part| !part.is_empty()).count() < 2 && line.len() < 30)
            .collect();
        assert!(undescribed.is_empty(), "{verb}: {undescribed:?}");
        assert_eq!(place.vcgroupfs(&["help", verb]).ok(), help, "{verb}");
    }
    place.is_clean();
}

#[test]
fn the_exit_status_is_documented() {
    let place = Place::new();
    let help = place.vcgroupfs(&["--help"]).ok();
    for word in ["0 ok", "1 failed", "2 usage", "3 not supported", "4 not permitted"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let version = place.vcgroupfs(&["--version"]).ok();
    let commit = version.strip_prefix(concat!("vcgroupfs ", env!("CARGO_PKG_VERSION"))).expect(&version).trim_end();
    // Of a release build from a checkout, or of one that was told it by VCGROUPFS_COMMIT.
    let is_commit = |text: &str| text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hash = commit.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    assert!(commit.is_empty() || hash.is_some_and(is_commit), "{version}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    let said = crate::support::said(place.command_of("sh").args([
        "-c",
        "{ \"$0\" tree --pid 1; echo $? >&2; } 2>&1 >&- | tail -n 1; { \"$0\" list --json || echo $? >&2; } | true",
        crate::support::program().to_str().expect("a path"),
    ]));
    assert!(!said.stderr.contains("panicked") && !said.stdout.contains("panicked"), "{said:?}");
}
