//! What a container may see and change: every shape, policy, caller, zone and class of interface file, by the table in
//! `rules.rs`. Whatever is denied is also tried on a twin of the cgroups on the bare cgroupfs, where it has to succeed, so that
//! nothing is denied for a reason other than the view.

mod hidden;
mod rules;
mod scene;
mod table;
mod undelegated;

use testkit::{Need, require};

use scene::Mode;

/// Whether the machine has what a mode needs; says what is missing.
fn is_possible(mode: Mode) -> bool {
    let needs = [
        Need::Root,
        Need::Fuse,
        Need::UserNamespaces,
        Need::Hierarchy("memory"),
        Need::Hierarchy("devices"),
        Need::Hierarchy("name=systemd"),
    ];
    testkit::missing(&needs).is_none() && (!mode.legacy || testkit::missing(&[Need::LegacySyscalls]).is_none())
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} breaches:\n{}", found.len(), found.join("\n"));
}

macro_rules! modes {
    ($($name:ident: $shape:literal, $policy:literal, $legacy:literal;)+) => {
        $(mod $name {
            use crate::scene::Mode;

            const MODE: Mode = Mode { shape: $shape, policy: $policy, legacy: $legacy };

            #[test]
            fn writes_get_what_the_table_says() {
                if crate::is_possible(MODE) {
                    crate::report(&crate::table::breaches(MODE));
                }
            }

            #[test]
            fn siblings_are_hidden_from_every_operation() {
                if crate::is_possible(MODE) {
                    crate::report(&crate::hidden::breaches(MODE));
                }
            }

            #[test]
            fn undelegated_hierarchies_and_files_are_read_only() {
                if crate::is_possible(MODE) {
                    crate::report(&crate::undelegated::breaches(MODE));
                }
            }
        })+
    };
}

modes! {
    host_path_strict: "host-path", "strict", false;
    host_path_delegate: "host-path", "delegate", false;
    rooted_strict: "rooted", "strict", false;
    rooted_delegate: "rooted", "delegate", false;
    full_strict: "full", "strict", false;
    full_delegate: "full", "delegate", false;
    old_kernel_host_path_strict: "host-path", "strict", true;
    old_kernel_host_path_delegate: "host-path", "delegate", true;
    old_kernel_rooted_strict: "rooted", "strict", true;
    old_kernel_rooted_delegate: "rooted", "delegate", true;
    old_kernel_full_strict: "full", "strict", true;
    old_kernel_full_delegate: "full", "delegate", true;
}

/// On the bare cgroupfs nothing is denied to root and nothing is hidden: the same checks have to fail there.
#[test]
fn the_bare_cgroupfs_breaches_everything() {
    require!(Need::Root, Need::Hierarchy("memory"), Need::Hierarchy("devices"), Need::Hierarchy("name=systemd"));
    let (denials, breaches) = table::on_the_bare_cgroupfs();
    assert!(denials > 50, "only {denials} denials in the table");
    assert_eq!(breaches, denials, "some denials of the table aren't a view's doing");
}
