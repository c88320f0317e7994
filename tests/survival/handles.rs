//! What is open, or held in another way, over the end of a server.

use testkit::probe::names::*;
use testkit::probe::{Op, Outcome};
use testkit::{OWNER, ViewOptions};

use crate::single::Single;

/// How files are read: by the kernel itself, or by the server.
fn readings() -> [ViewOptions; 2] {
    [ViewOptions::new(), ViewOptions::new().flag("--no-passthrough")]
}

const SELECTORS: [&str; 2] = ["name=systemd", "unified"];

#[test]
fn a_reader_keeps_its_position() {
    require_survival!();
    for (selector, options) in SELECTORS.into_iter().flat_map(|selector| readings().map(|options| (selector, options)))
    {
        let mut single = Single::new(selector, options);
        single.expect(&[mkdir("$CG/a"), mkdir("$CG/b")]);
        for number in 0..4 {
            let name = format!("C{number}");
            single.expect(&[spawn(&name), write_file("$CG/a/cgroup.procs", &format!("${name}"))]);
        }
        let whole = single.view.run(&read_file("$CG/a/cgroup.procs"));
        let whole = whole.text().expect("a list").to_owned();
        assert_eq!(whole.lines().count(), 4, "{whole:?}");
        single.expect(&[open("f", "$CG/a/cgroup.procs", &["O_RDONLY"])]);
        let mut pieces = String::new();
        loop {
            let piece = single.view.run(&read("f", 2));
            let piece = piece.text().unwrap_or_else(|| panic!("{piece:?} after {pieces:?}"));
            pieces.push_str(piece);
            if piece.is_empty() {
                break;
            }
            single.view.restart();
        }
        assert_eq!(pieces, whole, "{selector}");
        // From the beginning it's what there is then.
        single.expect(&[write_file("$CG/b/cgroup.procs", "$C0")]);
        single.view.restart();
        let now = single.view.run(&pread("f", 4096, 0));
        if selector == "unified" {
            assert_eq!(now.text().map(|text| text.lines().count()), Some(3), "{now:?}");
        }
    }
}

/// A file that was opened by one who might write to it is written by one who might not open it.
#[test]
fn a_writer_has_the_rights_of_who_opened() {
    require_survival!();
    for selector in SELECTORS {
        let mut single = Single::new(selector, ViewOptions::new());
        single.expect(&[mkdir("$CG/a"), mkdir("$CG/b"), spawn("C0")]);
        let lists = if selector == "unified" { &["cgroup.procs"][..] } else { &["cgroup.procs", "tasks"] };
        for (number, list) in lists.iter().enumerate() {
            let value = if selector == "unified" { "cgroup.max.depth" } else { "notify_on_release" };
            single.expect(&[
                open("list", &format!("$CG/a/{list}"), &["O_WRONLY"]),
                open("value", &format!("$CG/a/{value}"), &["O_RDWR"]),
                Op::Thread { name: format!("T{number}") },
                seteuid(OWNER),
            ]);
            let refused = single.same(&open("no", &format!("$CG/a/{value}"), &["O_RDWR"]));
            assert_eq!(refused.errno(), Some("EACCES"));
            single.view.restart();
            single.expect(&[write("list", "$C0"), write("value", "1")]);
            assert_eq!(single.same(&read_file(&format!("$CG/a/{value}"))).text(), Some("1\n"));
            single.expect(&[seteuid(0), write_file(&format!("$CG/b/{list}"), "$C0"), close("list"), close("value")]);
        }
    }
}

/// The other way round: what the opener might not do, nobody may by his file.
#[test]
fn a_writer_has_no_more_rights_than_who_opened() {
    require_survival!();
    for selector in SELECTORS {
        let mut single = Single::new(selector, ViewOptions::new());
        // A process of root's, which only root may migrate on v1; on v2 the common ancestor is root's.
        single.expect(&[mkdir("$CG/a"), spawn("C0"), chown("$CG/a/cgroup.procs", OWNER)]);
        single.expect(&[seteuid(OWNER), open("f", "$CG/a/cgroup.procs", &["O_WRONLY"]), seteuid(0)]);
        single.view.restart();
        let rejected = single.same(&write("f", "$C0"));
        assert_eq!(rejected.errno(), Some("EACCES"), "{selector}: {rejected:?}");
    }
}

/// A list that grows is read to its end by each who opens it, by whichever server. The kernel tries an open once more, not twice.
#[test]
fn a_growing_list_is_read_while_servers_end() {
    require_survival!();
    for selector in SELECTORS {
        let mut single = Single::new(selector, ViewOptions::new().flag("--no-passthrough"));
        single.expect(&[mkdir("$CG/a")]);
        let list = if selector == "unified" { "$CG/a/cgroup.procs" } else { "$CG/a/tasks" };
        for number in 0..12 {
            let name = format!("C{number}");
            let ops =
                [spawn(&name), write_file(list, &format!("${name}")), stat(list), read_file(list), read_file(list)];
            single.kernel.run(&ops[0]);
            single.view.session().begin(&ops);
            single.view.restart();
            let outcomes = single.view.session().finish(&ops);
            assert!(outcomes.iter().all(Outcome::is_ok), "{selector} {number}: {outcomes:?}");
            let lines = outcomes[4].text().map(|text| text.lines().count());
            assert_eq!(lines, Some(number + 1), "{selector} {number}: {outcomes:?}");
        }
    }
}

/// What was open stays so when its cgroup is removed, and the next server can't find it any more.
#[test]
fn files_of_a_removed_cgroup_are_gone_for_all() {
    require_survival!();
    for (selector, options) in SELECTORS.into_iter().flat_map(|selector| readings().map(|options| (selector, options)))
    {
        let mut single = Single::new(selector, options);
        let value = if selector == "unified" { "cgroup.max.depth" } else { "notify_on_release" };
        for is_dead in [false, true] {
            single.expect(&[mkdir("$CG/a"), open("d", "$CG/a", &["O_RDONLY", "O_DIRECTORY"])]);
            single.expect(&[
                open("r", &format!("$CG/a/{value}"), &["O_RDONLY"]),
                open("w", &format!("$CG/a/{value}"), &["O_RDWR"]),
                read("r", 1),
            ]);
            if is_dead {
                // By the host, when nobody could tell the view.
                single.kernel.run(&rmdir("$CG/a"));
                let real = single.view.real().join("a");
                single.view.while_dead(|| std::fs::remove_dir(&real).expect("rmdir by the host"));
            } else {
                single.expect(&[rmdir("$CG/a")]);
                single.view.restart();
            }
            for op in [pread("r", 100, 0), read("r", 1), write("w", "1"), pread("w", 100, 0), fstat("r")] {
                let (kernel, view) = single.both(&op);
                assert_eq!(view.is_ok(), kernel.is_ok(), "{selector} {op:?}: kernel {kernel:?}, view {view:?}");
                assert_eq!(view.errno(), kernel.errno(), "{selector} {op:?}");
            }
            single.same(&mkdir("/proc/self/fd/$FDD/x"));
            single.same(&stat("$CG/a"));
            single.expect(&[close("r"), close("w"), close("d")]);
        }
    }
}

/// A process stays where it is, by whatever way it came there.
#[test]
fn working_directories_stay() {
    require_survival!();
    let mut single = Single::new("unified", ViewOptions::new());
    single.expect(&[mkdir("$CG/a"), mkdir("$CG/a/b")]);
    let name = single.view.cgroup.name().to_owned();
    let alias = format!("$TOP/{name}/cg/a");
    let view = &mut single.view;
    let places = ["$CG", "$CG/a", "$CG/a/b", alias.as_str(), "$TOP/..", "$TOP"];
    let mut inodes = Vec::new();
    for (number, place) in places.iter().enumerate() {
        view.session().expect(&open(&format!("d{number}"), place, &["O_RDONLY", "O_DIRECTORY"]));
        inodes.push(view.session().expect(&fstat(&format!("d{number}"))));
    }
    for _ in 0..2 {
        view.restart();
        for (number, place) in places.iter().enumerate() {
            let fd = format!("d{number}");
            assert_eq!(view.session().expect(&fstat(&fd)), inodes[number], "{place}");
            let below = format!("/proc/self/fd/$FD{}", fd.to_uppercase());
            let seen = view.session().expect(&readdir(&below));
            assert_eq!(seen, view.session().expect(&readdir(place)), "{place}");
            view.session().expect(&stat(&format!("{below}/.")));
        }
    }
    view.session().expect(&mkdir("/proc/self/fd/$FDD2/made"));
    assert!(view.real().join("a/b/made").is_dir());
    assert!(view.session().expect(&readdir(&alias)).to_string().contains("b directory"));
}
