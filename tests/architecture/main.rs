//! The rules that the sources keep and no lint checks: imports run one way, one folder knows FUSE, and one has the unsafe code. What else
//! could panic is for clippy: `src/lib.rs` denies it.

mod circles;
mod machines;
mod source;

use circles::{Circle, circles};
use source::{Source, sources};

/// What a folder or file of `src` may import of the others: cli -> container, provision, server -> fuse, host -> agents; fs -> view -> policy ->
/// cgroup, and sys at the bottom.
const IMPORTS: [(&str, &[&str]); 19] = [
    ("cgroup", &[]),
    ("limit", &[]),
    ("message", &["cgroup"]),
    ("subprocess", &[]),
    ("activity", &["policy", "sys"]),
    ("records", &["activity", "sys"]),
    ("policy", &["cgroup"]),
    ("view", &["cgroup", "policy"]),
    ("fs", &["activity", "cgroup", "limit", "policy", "records", "view", "sys"]),
    ("agents", &["limit", "sys"]),
    ("host", &["activity", "cgroup", "limit", "policy", "records", "view", "fs", "agents", "sys"]),
    ("fuse", &["activity", "cgroup", "policy", "records", "view", "fs", "sys"]),
    ("error", &["cgroup", "fuse", "agents", "host"]),
    ("doctor", &["cgroup"]),
    ("doctor/probe", &["cgroup", "doctor", "error", "host", "server", "sys"]),
    ("provision", &BELOW_CLI),
    ("container", &BELOW_CLI),
    ("server", &BELOW_CLI),
    (
        "cli",
        &[
            "activity",
            "cgroup",
            "container",
            "doctor",
            "doctor/probe",
            "error",
            "message",
            "policy",
            "provision",
            "records",
            "server",
            "view",
            "fs",
            "agents",
            "host",
            "fuse",
            "sys",
        ],
    ),
];

/// What the rooms below the command line import: they know each other, but not it.
const BELOW_CLI: [&str; 16] = [
    "activity",
    "cgroup",
    "container",
    "error",
    "fs",
    "fuse",
    "agents",
    "host",
    "message",
    "policy",
    "provision",
    "records",
    "server",
    "subprocess",
    "sys",
    "view",
];

/// Where a request passes.
const REQUEST_PATH: [&str; 9] = [
    "src/cgroup/",
    "src/fs/",
    "src/fuse/",
    "src/view/",
    "src/policy/",
    "src/host/",
    "src/agents/",
    "mount-helper/src/",
    "sys/src/",
];

/// What a file may hold in lines, what none may, and how many may be in between: a few lines more are no reason to tear one apart.
const LINES: usize = 500;
const LINES_AT_MOST: usize = 600;
const EXCEPTIONS: usize = 3;

fn report(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Sources of the programs, without their tests.
fn shipped() -> Vec<&'static Source> {
    let shipped: Vec<_> = sources()
        .iter()
        .filter(|source| ["src/", "mount-helper/src/", "sys/src/"].iter().any(|folder| source.path.starts_with(folder)))
        .filter(|source| !source.is_test)
        .collect();
    assert!(shipped.len() > 40, "only {} files were found", shipped.len());
    shipped
}

#[test]
fn imports_run_one_way() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    for source in shipped() {
        let Some(path) = source.path.strip_prefix("src/").filter(|path| !["lib.rs", "main.rs"].contains(path)) else {
            continue;
        };
        let is_in = |room: &str| path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/') || rest == ".rs");
        let room = IMPORTS.iter().filter(|(room, _)| is_in(room)).max_by_key(|(room, _)| room.len());
        let (room, allowed) = room.unwrap_or_else(|| panic!("{}: its room isn't in the table", source.path));
        let folder = room.split('/').next().unwrap_or(room);
        for (line, imported) in source.imports() {
            seen += 1;
            if imported != folder && !allowed.contains(&imported.as_str()) {
                breaches.push(format!("{}:{line}: {room} imports {imported}", source.path));
            }
        }
    }
    assert!(seen > 60, "only {seen} imports were found");
    report(&breaches);
}

/// The filesystem takes constants of `sys`, and makes no system call.
#[test]
fn the_filesystem_imports_only_the_capabilities_of_sys() {
    let mut breaches = Vec::new();
    for source in shipped().iter().filter(|source| source.path.starts_with("src/fs/")) {
        for (line, text) in source.code() {
            if text.contains("crate::sys") && !text.contains("crate::sys::capability::") {
                breaches.push(format!("{}:{line}: {}", source.path, text.trim()));
            }
        }
    }
    report(&breaches);
}

#[test]
fn no_files_import_each_other() {
    let own: Vec<&Source> = sources().iter().filter(|source| !source.is_test).collect();
    let found: Vec<Circle> = ["src/", "mount-helper/src/", "sys/src/", "testkit/src/"]
        .iter()
        .flat_map(|folder| circles(&own, folder))
        .collect();
    let breaches = found.iter().map(|circle| format!("a circle:\n{}", circle.imports.join("\n")));
    report(&breaches.collect::<Vec<_>>());
}

#[test]
fn one_folder_knows_fuse_and_one_the_helper() {
    let mut breaches = Vec::new();
    let mut seen = [0, 0];
    for source in shipped() {
        // `sys` has what fuser has only as unsafe functions.
        let homes: [(&str, &[&str]); 2] =
            [("fuser", &["src/fuse/", "sys/src/fuse.rs"]), ("mount_helper", &["src/agents/"])];
        for (index, (word, homes)) in homes.into_iter().enumerate() {
            for line in source.lines_with_word(word) {
                seen[index] += 1;
                // The program is the helper as well, by the name that it's started with.
                if !homes.iter().any(|home| source.path.starts_with(home)) && !source.path.ends_with("src/main.rs") {
                    breaches.push(format!("{}:{line}: {word}", source.path));
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 1), "{seen:?}");
    report(&breaches);
}

#[test]
fn unsafe_code_has_one_place() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    for source in sources() {
        for line in source.lines_with_word("unsafe") {
            seen += 1;
            // The probe maps files and uses io_uring, and the stand-in for an old kernel listens to seccomp(2), for the tests.
            let places = ["testkit/src/legacy/listener.rs", "testkit/src/probe/map.rs", "testkit/src/probe/ring.rs"];
            if !source.path.starts_with("sys/src/") && !places.contains(&source.path.as_str()) {
                breaches.push(format!("{}:{line}", source.path));
            }
        }
    }
    assert!(seen > 5, "only {seen} found");
    report(&breaches);
}

/// Clippy's `indexing_slicing` says nothing of maps and of `VecDeque`.
#[test]
fn requests_index_no_collections() {
    let mut breaches = Vec::new();
    let is_on_request_path = |source: &Source| REQUEST_PATH.iter().any(|folder| source.path.starts_with(folder));
    for source in shipped().iter().filter(|source| is_on_request_path(source)) {
        for (line, text) in source.code() {
            if let Some(column) = source::indexing(text) {
                breaches.push(format!("{}:{line}: {}", source.path, &text[column..]));
            }
        }
    }
    report(&breaches);
}

#[test]
fn the_pure_folders_do_no_input_or_output() {
    const FORBIDDEN: [&str; 8] =
        ["std::fs", "std::io", "std::net", "std::process", "std::env", "std::thread", "libc::open", "tracing::"];
    let mut breaches = Vec::new();
    for source in shipped() {
        if !["src/cgroup/", "src/policy/", "src/view/"].iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (line, text) in source.code() {
            for word in FORBIDDEN {
                if text.contains(word) {
                    breaches.push(format!("{}:{line}: {word}", source.path));
                }
            }
            let other_nix = source::word_positions(text, "nix").any(|end| {
                let behind = &text[end..];
                // `std::os::unix` is another word.
                behind.starts_with("::") && !behind.starts_with("::errno")
            });
            if other_nix {
                breaches.push(format!("{}:{line}: {}", source.path, text.trim()));
            }
        }
    }
    report(&breaches);
}

#[test]
fn files_stay_small() {
    let long: Vec<&Source> = sources().iter().filter(|source| source.length > LINES).collect();
    let lines: Vec<String> = long.iter().map(|source| format!("{}: {} lines", source.path, source.length)).collect();
    let is_too_long = long.iter().any(|source| source.length > LINES_AT_MOST);
    assert!(!is_too_long && long.len() <= EXCEPTIONS, "too long, or too many:\n{}", lines.join("\n"));
}
