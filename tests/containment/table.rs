//! Runs the table.

use testkit::probe::names::{rename, write_file};
use testkit::probe::{Op, Outcome};
use testkit::{Caller, Session};

use crate::rules::{Action, Answer, DELEGATED, RULES, Want, Zone, answer, is_visible};
use crate::scene::{EVERYBODY, Mode, Paths, Scene, Who, hierarchies};

/// Checks all lines of the table for one hierarchy, zone by zone.
fn lines(selector: &'static str) -> impl Iterator<Item = (Zone, Action, Want, Want)> {
    RULES.iter().filter(move |(hierarchies, ..)| hierarchies.contains(&selector)).flat_map(
        |(_, zones, actions, strict, delegate)| {
            zones.iter().flat_map(move |zone| actions.iter().map(move |action| (*zone, *action, *strict, *delegate)))
        },
    )
}

/// Performs an action as a caller.
fn attempt(session: &mut Session, zone: Zone, action: Action, owner: u32) -> Outcome {
    let outcome = session.run(&action.op(zone, owner));
    // What a later line relies on is put back.
    match action {
        Action::Migrate(_) if outcome.is_ok() => {
            session.expect(&write_file("$HOME/cgroup.procs", "$P"));
        }
        Action::RenameSelf if outcome.is_ok() => {
            session.expect(&rename("$PARENT/renamed-itself", "$BOUNDARY"));
        }
        _ => {}
    }
    outcome
}

/// Whether the machine has the file at all: optional controllers and pressure information may be missing.
fn is_native(bare: &Paths, zone: Zone, action: Action) -> bool {
    let dir = match zone {
        Zone::Ancestor => &bare.ancestor,
        Zone::Sibling => &bare.sibling,
        Zone::Boundary | Zone::Below => &bare.boundary,
    };
    action.file().is_none_or(|file| dir.join(file).exists())
}

/// Runs the table in a view for all callers, and tells what isn't as it has to be.
pub(crate) fn breaches(mode: Mode) -> Vec<String> {
    let mut found = Vec::new();
    for who in EVERYBODY {
        let scene = Scene::with(who, |cgroup| Some(mode.mount(cgroup, DELEGATED)));
        let view = scene.view();
        let twin = Scene::new(who);
        let mut viewed = scene.session_with_process(who.caller());
        let mut native = twin.session_with_process(who.caller());
        // Root of a user namespace isn't root.
        let mut root = (who != Who::MappedRoot).then(|| twin.session_with_process(Caller::Root));
        for &selector in hierarchies() {
            let unified = selector == "unified";
            let paths = mode.paths(view, &scene.cgroup, selector);
            let bare = twin.bare(selector);
            paths.tell(&mut viewed);
            bare.tell(&mut native);
            if let Some(root) = &mut root {
                bare.tell(root);
            }
            for (zone, action, strict, delegate) in lines(selector) {
                // In a rooted view `$ANCESTOR` is a step of the alias, of which only lookups are specified.
                if !is_native(&bare, zone, action) || (!mode.keeps_host_paths() && zone == Zone::Ancestor) {
                    continue;
                }
                // Attributes of users: Linux 5.7.
                let natively = root.as_mut().unwrap_or(&mut native);
                if action == Action::Setxattr
                    && attempt(natively, zone, action, who.subtree_owner_inside()).errno() == Some("EOPNOTSUPP")
                {
                    continue;
                }
                let want = if mode.is_delegate() { delegate } else { strict };
                let mut expected = answer(mode, who, unified, zone, action, want);
                // There it takes CAP_SYS_ADMIN to migrate others, and not that of a user namespace.
                let migrates = matches!(action, Action::Migrate(_)) && expected == Answer::Success;
                let is_old = mode.legacy || testkit::legacy::is_so_anyway();
                let takes_admin = is_old && selector == "devices" && migrates && who != Who::HostRoot;
                if takes_admin {
                    expected = Answer::Error("EPERM", Some("write"));
                }
                let got = attempt(&mut viewed, zone, action, who.subtree_owner_inside());
                let name = format!("{mode:?} {who:?} {selector} {zone:?} {action:?}");
                if expected == Answer::Success && action.file() == Some("memory.pressure") {
                    // The file may be there while pressure information is switched off.
                    if !attempt(&mut native, zone, action, who.subtree_owner_inside()).is_ok() {
                        continue;
                    }
                }
                if !fits(expected, &got) {
                    found.push(format!("{name}: expected {expected:?}, got {got:?}"));
                }
                // What this very kernel denies has no counterpart.
                let denied = testkit::legacy::is_so_anyway()
                    && selector == "devices"
                    && matches!(action, Action::Migrate(_))
                    && who != Who::HostRoot;
                if expected != Answer::Success && !denied {
                    let outside = zone.is_outside() || action == Action::RenameSelf;
                    let by_dac = who == Who::Stranger || (outside && !who.overrides_outside());
                    let control = control(&mut native, &mut root, zone, action, who, by_dac);
                    if !control.is_ok() {
                        found.push(format!("{name}: is denied natively too: {control:?}"));
                    }
                }
                modes(&mut viewed, &mut native, (mode, who, unified, zone, action, want), &mut found);
            }
        }
    }
    found
}

/// The same on the bare cgroupfs, by the same caller; as root if the kernel itself denies it to him.
fn control(
    native: &mut Session,
    root: &mut Option<Session>,
    zone: Zone,
    action: Action,
    who: Who,
    by_dac: bool,
) -> Outcome {
    let outcome = attempt(native, zone, action, who.subtree_owner_inside());
    match root {
        Some(root) if by_dac && !outcome.is_ok() => attempt(root, zone, action, who.subtree_owner_inside()),
        None if by_dac && !outcome.is_ok() => match outcome.errno() {
            // The kernel denies it by owner and mode, and would not for other reasons.
            Some("EACCES" | "EPERM") => Outcome::Ok(serde_json::Value::Null),
            _ => outcome,
        },
        _ => outcome,
    }
}

fn fits(expected: Answer, got: &Outcome) -> bool {
    match (expected, got) {
        (Answer::Success, Outcome::Ok(_)) => true,
        (Answer::Error(name, wanted), Outcome::Err { errno, stage }) => {
            name == errno && wanted.is_none_or(|wanted| stage == wanted || stage.is_empty())
        }
        _ => false,
    }
}

/// No write bits on what the policy rejects, the kernel's mode on everything else; and access(2) agrees, except for those who
/// override modes, whom the kernel answers by itself.
fn modes(
    viewed: &mut Session,
    native: &mut Session,
    (mode, who, unified, zone, action, want): (Mode, Who, bool, Zone, Action, Want),
    found: &mut Vec<String>,
) {
    let (Action::Write(file, _) | Action::OpenForWrite(file) | Action::Migrate(file)) = action else {
        return;
    };
    if !is_visible(mode, unified, zone, action) {
        return;
    }
    let path = Action::Read(file).op(zone, 0);
    let Op::ReadFile { path } = path else { return };
    let stat = Op::Stat { path: path.clone() };
    let bits = |outcome: &Outcome| match outcome {
        Outcome::Ok(value) => value["mode"].as_str().and_then(|text| u32::from_str_radix(text, 8).ok()),
        _ => None,
    };
    let (Some(shown), Some(real)) = (bits(&viewed.run(&stat)), bits(&native.run(&stat))) else {
        found.push(format!("{mode:?} {who:?} {zone:?} {file}: no mode"));
        return;
    };
    let right = if want == Want::No { real & !0o222 } else { real };
    if shown != right {
        found.push(format!("{mode:?} {who:?} {zone:?} {file}: mode {shown:o} instead of {right:o}"));
    }
    if matches!(who, Who::Owner | Who::Stranger) {
        let writable = viewed.run(&Op::Access { path, mode: "w".into() }).is_ok();
        let may = !zone.is_outside() && who == Who::Owner && want != Want::No;
        if writable != may {
            found.push(format!("{mode:?} {who:?} {zone:?} {file}: access(2) says {writable}"));
        }
    }
}

/// How many denials the table has for root, and how many of them the bare cgroupfs doesn't have.
pub(crate) fn on_the_bare_cgroupfs() -> (usize, usize) {
    let mode = Mode { shape: "full", policy: "strict", legacy: false };
    let scene = Scene::new(Who::HostRoot);
    let mut session = scene.session_with_process(Caller::Root);
    let (mut denials, mut breaches) = (0, 0);
    for &selector in hierarchies() {
        let bare = scene.bare(selector);
        bare.tell(&mut session);
        for (zone, action, strict, _) in lines(selector).filter(|(zone, action, ..)| is_native(&bare, *zone, *action)) {
            let expected = answer(mode, Who::HostRoot, selector == "unified", zone, action, strict);
            if expected != Answer::Success {
                denials += 1;
                breaches += usize::from(!fits(expected, &attempt(&mut session, zone, action, 0)));
            }
        }
    }
    (denials, breaches)
}
