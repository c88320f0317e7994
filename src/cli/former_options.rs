//! The options of a view that has failed, for the command that makes it work again.

use std::ffi::OsString;

use crate::cgroup::{CgroupPath, ControllerSet, HierarchyKind, Membership, escaped, shell_word};
use crate::cli::options::{ServeOptions, ViewOptions, parse_cgroup};
use crate::cli::view_state::{is_of_run, target_word};
use crate::error::Error;
use crate::host::HostCgroups;
use crate::message::{say, warn};
use crate::policy::Policy;
use crate::server::logging;
use crate::server::registry::lost_boundaries;
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::Record;
use crate::view::Shape;

/// Options of a command line, to which those of a failed view are added. What is given on the command line stays.
#[derive(Debug)]
pub(super) struct FormerOptions<'a> {
    record: &'a Record,
    recorded: RecordedOptions,
    /// What was taken over, as words of a command line.
    taken: Vec<OsString>,
}

impl<'a> FormerOptions<'a> {
    /// The options of a failed view. Records of former versions only have those that describe the view.
    pub(super) fn of(record: &'a Record) -> Self {
        let recorded = record.options.clone().unwrap_or_else(|| RecordedOptions {
            policy: record.policy.clone(),
            delegate_controllers: record.delegate_controllers.clone(),
            hide_ancestor_limits: record.hides_ancestor_limits,
            pid: record.process,
            per_caller: record.per_caller,
            ..RecordedOptions::default()
        });
        Self { record, recorded, taken: Vec::new() }
    }

    fn take(&mut self, option: &str, value: Option<&str>) {
        self.taken.push(option.into());
        self.taken.extend(value.map(OsString::from));
    }

    /// Adds the options that say how the view looks, who may write what, and how it's served.
    pub(super) fn add_to(&mut self, view: &mut ViewOptions, serving: &mut ServeOptions) {
        let recorded = self.recorded.clone();
        if view.shape.is_none() && !recorded.per_caller {
            view.shape = self.record.shape();
            self.take("--shape", Some(&self.record.shape));
        }
        if view.policy.is_none()
            && let Some(policy) = Policy::from_word(&recorded.policy)
        {
            view.policy = Some(policy);
            self.take("--policy", Some(policy.word()));
        }
        let controllers = recorded.delegate_controllers.join(",");
        if view.delegate_controllers.is_none() && view.policy() == Policy::Delegate && !controllers.is_empty() {
            view.delegate_controllers = Some(ControllerSet::parse(&controllers));
            self.take("--delegate-controllers", Some(&controllers));
        }
        // A shape that was given may have neither.
        let is_full = view.shape == Some(Shape::Full);
        if view.aliases.is_empty() && !is_full {
            view.aliases.clone_from(&recorded.aliases);
            recorded.aliases.iter().for_each(|alias| self.take("--alias", Some(alias)));
        }
        let flags = [
            ("--hide-ancestor-limits", recorded.hide_ancestor_limits && !is_full, &mut view.hide_ancestor_limits),
            ("--coherent", recorded.coherent, &mut serving.coherent),
            ("--no-passthrough", recorded.no_passthrough, &mut serving.no_passthrough),
        ];
        for (option, was_given, is_given) in flags {
            if was_given && !*is_given {
                *is_given = true;
                self.take(option, None);
            }
        }
    }

    /// Says for which containers the view was mounted.
    pub(super) fn report_container(&mut self, is_per_caller: bool) {
        if is_per_caller {
            self.take("--per-caller", None);
        }
        if let Some(pid) = self.recorded.pid {
            self.take("--pid", Some(&pid.to_string()));
        }
    }

    /// Adds the cgroups that were named.
    pub(super) fn add_cgroups(&mut self, view: &mut ViewOptions) {
        if view.cgroups.is_empty() {
            let named = self.recorded.cgroup.clone();
            view.cgroups = named.iter().filter_map(|cgroup| parse_cgroup(&cgroup.shown()).ok()).collect();
            named.iter().for_each(|cgroup| self.take("--cgroup", Some(&cgroup.shown())));
        }
    }

    /// Adds the name of the cgroup for a container that is in the root of a hierarchy.
    pub(super) fn add_place(&mut self, place: &mut Option<String>) {
        if place.is_none()
            && let Some(name) = self.recorded.place.clone()
        {
            self.take("--place", Some(&name));
            *place = Some(name);
        }
    }

    /// Adds the options of the log.
    pub(super) fn add_log(&mut self, log: &logging::Options) -> logging::Options {
        match log.take_over(&self.recorded.log) {
            Ok((log, words)) => {
                self.taken.extend(words);
                log
            }
            // The view is worth more than its log.
            Err(error) => {
                warn(&error.to_string());
                log.clone()
            }
        }
    }

    /// Says which options were taken over.
    pub(super) fn report(&self, whose: &str) {
        let words: Vec<String> = self.taken.iter().map(escaped).collect();
        let why = self.record.status.reason.as_deref().unwrap_or("nobody serves it");
        let how =
            if words.is_empty() { "as the command line says".to_owned() } else { format!("with {}", words.join(" ")) };
        say(format_args!("the view of {whose} has failed ({why}); it's made again {how}"));
    }
}

/// Returns the command that makes a live view anew, with the options that it had; `None` for one of `run`, which ends
/// with its command. A cgroup that was removed can't be named again, so with `is_lost` the view is made for where
/// the process is now.
pub(super) fn renewal(record: &Record, is_lost: bool) -> Option<String> {
    if is_of_run(record) {
        return None;
    }
    let mut former = FormerOptions::of(record);
    former.add_to(&mut ViewOptions::default(), &mut ServeOptions::default());
    if record.container.is_some() {
        former.add_place(&mut None);
    } else {
        former.report_container(record.per_caller);
    }
    if !is_lost || former.recorded.pid.is_none() && record.container.is_none() {
        former.add_cgroups(&mut ViewOptions::default());
    }
    former.taken.extend(former.recorded.log.words());
    let words: Vec<String> = former.taken.iter().map(shell_word).collect();
    let words = words.join(" ");
    Some(match &record.container {
        Some(_) => {
            let target = target_word(record);
            format!("vcgroupfs detach {target} && vcgroupfs attach {words} {target}")
        }
        None => {
            let directory = shell_word(record.directory.as_ref());
            format!("vcgroupfs umount {directory} && vcgroupfs mount {words} {directory}")
        }
    })
}

/// Returns the delegated subtrees of a failed view for a process that is in them. Its cgroups may be further down by
/// now. One that was removed isn't the container's any more, even if another one has its name.
pub(super) fn delegated_of(
    record: &Record,
    host: &HostCgroups,
    own: &[Membership],
) -> Vec<(Option<String>, CgroupPath)> {
    let lost = lost_boundaries(host, record);
    let is_kept = |(word, path): &(String, CgroupPath)| {
        let kind = HierarchyKind::parse(word);
        let member = own.iter().find(|member| member.kind == kind).and_then(|member| member.location.path());
        member.is_some_and(|member| member.is_within(path)) && lost.iter().all(|lost| lost.kind != kind)
    };
    delegated(record).filter(is_kept).map(|(word, path)| (Some(word), path)).collect()
}

/// Returns the delegated subtrees of a failed view.
///
/// # Errors
/// If one was removed.
pub(super) fn all_delegated(record: &Record, host: &HostCgroups) -> Result<Vec<(Option<String>, CgroupPath)>, Error> {
    match lost_boundaries(host, record).first() {
        Some(lost) => {
            let what =
                format!("the cgroup for which the view was made doesn't exist any more in hierarchy {}", lost.kind);
            Err(Error::failed(what).advise("name the container with --pid or --cgroup"))
        }
        None => Ok(delegated(record).map(|(word, path)| (Some(word), path)).collect()),
    }
}

fn delegated(record: &Record) -> impl Iterator<Item = (String, CgroupPath)> {
    record
        .delegated
        .iter()
        .filter_map(|(word, path)| Some((word.clone(), CgroupPath::parse(path.as_ref().as_os_str()).ok()?)))
}
