//! The flags of a view's mounts: those of what they cover, so that whoever remounts them, in a user namespace or where they're locked, may do so
//! as before.

use std::collections::BTreeSet;

use testkit::{ContainerOptions, Need, hierarchies, require};

use crate::scene::{Host, MOUNT_METHODS, Scene};

/// The flags that systemd gives to cgroup mounts, and to their tmpfs.
const USUAL: &str = "nosuid,nodev,noexec,relatime";
const USUAL_TMPFS: &str = "nosuid,nodev,noexec";

/// How the mounts of a container are: a script, and the flags of the place and of the hierarchies then.
const KINDS: [(&str, &str, &str); 4] = [
    ("true", "relatime", "relatime"),
    (
        "for place in $(grep -o ' /sys/fs/cgroup[^ ]*' /proc/self/mountinfo); do
             mount -o remount,bind,nosuid,nodev,noexec,relatime $place
         done",
        USUAL,
        USUAL,
    ),
    (
        "mount -o remount,bind,ro,noexec,noatime,nodiratime /sys/fs/cgroup
         for place in $(grep -o ' /sys/fs/cgroup/[^ ]*' /proc/self/mountinfo); do
             mount -o remount,bind,nodev,strictatime $place
         done",
        "noexec,noatime,nodiratime",
        "nodev",
    ),
    ("umount -R /sys/fs/cgroup", USUAL_TMPFS, USUAL),
];

/// Remounts each mount below `/sys/fs/cgroup` as BenchExec does it in a user namespace, with the flags of each line of mountinfo, and then as
/// systemd 247 does it for a service (`bind_remount_recursive`), with those of the first line with that mount point.
const REMOUNTS: &str = r#"
seen=
while read -r id parent device root point options rest; do
    case "$point" in /sys/fs/cgroup*) ;; *) continue ;; esac
    # What is covered as a whole.
    [ -e "$point" ] || continue
    mount -o "remount,bind,ro,$(flags "$options")" "$point" || { echo "$point $options"; exit 1; }
    case "$seen" in *" $point "*) ;; *) seen="$seen $point " first="$first $point=$options" ;; esac
done < /proc/self/mountinfo
for one in $first; do
    mount -o "remount,bind,ro,$(flags "${one#*=}")" "${one%%=*}" || { echo "first: $one"; exit 1; }
done
"#;

/// mount(8) takes no atime flag for the wish to have none changed.
const FLAGS: &str = r#"
flags() {
    flags=$(echo ",$1," | sed 's/,r[ow],/,/; s/^,//; s/,$//')
    case ",$flags," in *,noatime,* | *,relatime,*) ;; *) flags="$flags,strictatime" ;; esac
    echo "${flags#,}"
}
"#;

fn scene(method: crate::scene::MountMethod, prepare: &str) -> Scene {
    Scene::new(method, ContainerOptions { prepare: prepare.into(), ..ContainerOptions::default() })
}

/// The flags of the mounts on a mount point, the last one last, without read-only.
fn flags(scene: &Scene, point: &str) -> Vec<String> {
    let mounts = scene.mounts();
    let at = mounts.iter().filter(|mount| mount.split(' ').nth(2) == Some(point));
    let options = at.map(|mount| mount.split(' ').nth(3).expect("options").to_owned());
    options
        .map(|options| options.trim_start_matches("ro").trim_start_matches("rw").trim_start_matches(',').to_owned())
        .collect()
}

#[track_caller]
fn can_be_remounted(scene: &Scene, what: &str) {
    for unshare in ["unshare --mount", "unshare --mount --user --map-root-user"] {
        let script = format!("{unshare} sh -c '{}'", format!("{FLAGS}{REMOUNTS}").replace('\'', r"'\''"));
        let said = scene.sh(&script);
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{what}, {unshare}: {}", said.stderr);
    }
}

#[test]
fn mounts_have_the_flags_of_those_they_cover() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::LegacySyscalls);
    require!(Need::Hierarchy("memory"), Need::Hierarchy("name=systemd"), Need::Hierarchy("unified"));
    for method in MOUNT_METHODS {
        for (prepare, place, below) in KINDS {
            let scene = scene(method, prepare);
            can_be_remounted(&scene, "before");
            scene.attach(&[]).ok();
            assert_eq!(flags(&scene, "/sys/fs/cgroup").last().map(String::as_str), Some(place), "{method:?} {prepare}");
            for hierarchy in hierarchies() {
                let point = hierarchy.in_view("/sys/fs/cgroup".as_ref()).display().to_string();
                let flags: BTreeSet<String> = flags(&scene, &point).into_iter().collect();
                assert_eq!(flags, [below.to_owned()].into(), "{method:?} {prepare}: {point}");
            }
            can_be_remounted(&scene, "after");
            scene.detach().ok();
        }
    }
}

#[test]
fn mounts_on_a_unified_host_have_the_flags_of_those_they_cover() {
    require!(Need::Root, Need::Fuse, Need::UserNamespaces, Need::LegacySyscalls, Need::Hierarchy("unified"));
    for method in MOUNT_METHODS {
        for (options, expected) in [("relatime", "relatime"), (USUAL, USUAL), ("noexec,noatime", "noexec,noatime")] {
            let script = format!(
                "mount --bind /sys/fs/cgroup/unified $EMPTY; umount -R /sys/fs/cgroup; mount --move $EMPTY /sys/fs/cgroup
                 mount -o remount,bind,{options} /sys/fs/cgroup"
            );
            let scene = scene(method, &script).on(Host::Unified);
            assert_eq!(scene.attach(&[]).code, 0);
            let step = format!("/sys/fs/cgroup{}", scene.cgroup.path());
            for point in ["/sys/fs/cgroup", &step, "/sys/fs/cgroup/cgroup.controllers"] {
                assert_eq!(flags(&scene, point).last().map(String::as_str), Some(expected), "{method:?} {point}");
            }
            can_be_remounted(&scene, "after");
            scene.detach().ok();
        }
        let scene = scene(method, "umount -R /sys/fs/cgroup").on(Host::Unified);
        assert_eq!(scene.attach(&[]).code, 0);
        assert_eq!(flags(&scene, "/sys/fs/cgroup").last().map(String::as_str), Some(USUAL), "{method:?}");
        scene.detach().ok();
    }
}
