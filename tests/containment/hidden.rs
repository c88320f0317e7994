//! Hidden cgroups don't exist, for every operation, by every path, for every caller.

use testkit::Session;
use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};

use crate::rules::{DELEGATED, PROBED_IN_ROOT, skeleton_shows};
use crate::scene::{BOUNDARY, EVERYBODY, LONGER_SIBLING, Mode, SIBLING, Scene, hierarchies};

/// Every operation on a cgroup `$X`.
fn everything() -> Vec<Op> {
    let path = || "$X".to_string();
    let file = || "$X/cgroup.procs".to_string();
    vec![
        stat("$X"),
        stat("$X/cgroup.procs"),
        stat("$X/."),
        Op::Statfs { path: path() },
        Op::Access { path: path(), mode: String::new() },
        Op::Access { path: file(), mode: "r".into() },
        readdir("$X"),
        read_file("$X/cgroup.procs"),
        open("f", "$X", &["O_PATH"]),
        open("f", "$X", &["O_RDONLY", "O_DIRECTORY"]),
        open("f", "$X/cgroup.procs", &["O_RDWR"]),
        write_file("$X/cgroup.procs", "0"),
        mkdir("$X/made"),
        rmdir("$X"),
        Op::Unlink { path: file() },
        rename("$X", "$X-renamed"),
        Op::Rename { from: path(), to: "$X-renamed".into(), flags: vec!["noreplace".into()] },
        Op::Link { from: file(), to: "$X-link".into() },
        chmod("$X", 0o777),
        chmod("$X/cgroup.procs", 0o666),
        chown("$X", 0),
        Op::Utimens { path: path(), sec: None },
        Op::Truncate { path: file(), len: 0 },
        Op::Getxattr { path: path(), name: "user.a".into() },
        Op::Setxattr { path: path(), name: "user.a".into(), value: "x".into() },
        Op::Listxattr { path: path() },
        Op::Removexattr { path: path(), name: "user.a".into() },
        Op::Creat { path: "$X/x".into(), mode: 0o644 },
        Op::Mknod { path: "$X/x".into(), kind: "fifo".into() },
    ]
}

fn names(session: &mut Session, dir: &str, kind: &str) -> Vec<String> {
    let listed = session.expect(&readdir(dir));
    let all = listed.as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|entry| entry.as_str()?.strip_suffix(kind)?.strip_suffix(' ').map(String::from)).collect()
}

/// Everything that is visible and should be hidden, or the other way round.
pub(crate) fn breaches(mode: Mode) -> Vec<String> {
    let mut found = Vec::new();
    for who in EVERYBODY {
        let scene = Scene::with(who, |cgroup| Some(mode.mount(cgroup, DELEGATED)));
        let view = scene.view();
        // Another container's cgroup, directly below the root.
        let uncle = Scene::new(who);
        let mut session = scene.session();
        for &selector in hierarchies() {
            let hierarchy = testkit::hierarchy(selector).expect("a hierarchy of the scene");
            let root = view.hierarchy(&hierarchy).display().to_string();
            let paths = mode.paths(view, &scene.cgroup, selector);
            paths.tell(&mut session);
            session.set("ROOT", &root);
            let ours = scene.cgroup.name();
            let mut check = |what: String, right: bool| {
                if !right {
                    found.push(format!("{mode:?} {who:?} {selector}: {what}"));
                }
            };

            let strangers = [
                format!("{root}/{ours}/{LONGER_SIBLING}"),
                format!("{root}/{ours}/{SIBLING}"),
                format!("{root}/{ours}/{SIBLING}/nephew"),
                format!("{root}/{ours}/{BOUNDARY}/../{LONGER_SIBLING}"),
                format!("{root}/{ours}/to-remove"),
                format!("{root}/{}", uncle.cgroup.name()),
                format!("{root}/{}/{BOUNDARY}", uncle.cgroup.name()),
            ];
            for path in strangers {
                session.set("X", &path);
                if mode.shape == "full" {
                    check(format!("{path} isn't shown"), session.run(&stat("$X")).is_ok());
                    continue;
                }
                for op in everything() {
                    let outcome = session.run(&op);
                    check(format!("{path} {op:?}: {outcome:?}"), outcome.errno() == Some("ENOENT"));
                }
            }
            // They do exist, and this caller can see them elsewhere.
            for path in [LONGER_SIBLING, SIBLING] {
                session.set("X", scene.cgroup.dir(selector).join(path).display());
                check(format!("{path} isn't there at all"), session.run(&stat("$X")).is_ok());
            }

            match mode.shape {
                "host-path" => {
                    check("the root has other directories".into(), names(&mut session, "$ROOT", "directory") == [ours]);
                    check(
                        "an ancestor has other directories".into(),
                        names(&mut session, "$ANCESTOR", "directory") == [BOUNDARY],
                    );
                    let shows = |file: &String| skeleton_shows(selector == "unified", file);
                    let files = names(&mut session, "$ANCESTOR", "file");
                    check(format!("an ancestor has the files {files:?}"), files.iter().all(shows));
                    let files = names(&mut session, "$ROOT", "file");
                    let shows = |file: &String| shows(file) || PROBED_IN_ROOT.contains(&file.as_str());
                    check(format!("the root has the files {files:?}"), files.iter().all(shows));
                }
                "rooted" => {
                    let seen = session.run(&readdir("$ROOT"));
                    session.set("X", scene.bare(selector).boundary.display());
                    check("the root isn't the boundary".into(), seen == session.run(&readdir("$X")) && seen.is_ok());
                    alias(&mut session, &format!("{root}/{ours}/{BOUNDARY}"), &mut check);
                }
                _ => {
                    let seen = names(&mut session, "$ANCESTOR", "directory");
                    let all = [BOUNDARY, LONGER_SIBLING, SIBLING].iter().all(|name| seen.iter().any(|one| one == name));
                    check(format!("an ancestor shows only {seen:?}"), all);
                }
            }
        }
    }
    found
}

/// The host's path of the boundary leads to the root of a rooted view.
fn alias(session: &mut Session, path: &str, check: &mut impl FnMut(String, bool)) {
    session.set("X", path);
    for (a, b) in [("$X", "$ROOT"), ("$X/below", "$ROOT/below"), ("$X/cgroup.procs", "$ROOT/cgroup.procs")] {
        let same = session.run(&Op::SameInode { a: a.into(), b: b.into() });
        check(format!("{a} isn't {b}: {same:?}"), same == Outcome::Ok(true.into()));
    }
    let read = session.run(&read_file("$X/below/cgroup.procs"));
    check(format!("the alias can't be read: {read:?}"), read.is_ok());
    let (seen, direct) = (session.run(&readdir("$X")), session.run(&readdir("$ROOT")));
    check("the alias lists something else".into(), seen == direct && seen.is_ok());
    for made in [session.run(&mkdir("$X/below/by-alias")), session.run(&mkdir("$ROOT/below/directly"))].windows(2) {
        check(format!("the alias has other rules: {made:?}"), made[0] == made[1]);
    }
}
