//! The record of a view, and its format.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cgroup::mountinfo::escape;
use crate::cgroup::{CgroupPath, HierarchyKind};
use crate::policy::{Policy, Rules};
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::status::{ServerState, Status};
use crate::view::{AncestorLimits, Shape, View};

pub(crate) use crate::server::registry::escaped_name::EscapedName;

/// The format of the records. The first one had no number and no escapes, and was locked by flock(2), which every
/// reader can do. The second one had no status and no options.
pub(crate) const FORMAT: u32 = 3;

/// The public information about a view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    /// The process whose lock shows that the view lives: the keeper, or a server without one. A signal to it ends the
    /// view.
    pub(crate) pid: u32,
    #[serde(flatten)]
    pub(crate) status: Status,
    /// When the server was started, in clock ticks since the boot.
    #[serde(default)]
    pub(crate) server_start: Option<u64>,
    /// The directory on which the view is mounted, in its mount namespace.
    pub(crate) directory: EscapedName,
    /// The container of the view, as the user named it.
    pub(crate) target: String,
    pub(crate) shape: String,
    pub(crate) policy: String,
    /// The v1 controllers that the container may write, with the policy `delegate`.
    #[serde(default)]
    pub(crate) delegate_controllers: Vec<String>,
    #[serde(default)]
    pub(crate) aliases: Vec<EscapedName>,
    /// Whether the limits of ancestors are hidden.
    #[serde(default)]
    pub(crate) hides_ancestor_limits: bool,
    /// Each hierarchy with its delegated subtree.
    pub(crate) delegated: Vec<(String, EscapedName)>,
    /// Each hierarchy with the inode number of its delegated subtree. A later cgroup of the same name has another one.
    #[serde(default)]
    pub(crate) boundaries: Vec<(String, u64)>,
    /// When the view was made, in seconds since 1970.
    pub(crate) since: u64,
    /// The process for which it's mounted on a directory (`mount --pid`).
    #[serde(default)]
    pub(crate) process: Option<i32>,
    /// Whether it's a `mount --per-caller`.
    #[serde(default)]
    pub(crate) per_caller: bool,
    /// The container in which it's mounted.
    #[serde(default)]
    pub(crate) container: Option<ContainerRef>,
    /// The number of the mount namespace in which it's mounted, if it's in no container.
    #[serde(default)]
    pub(crate) namespace: Option<u64>,
    /// The number of the mount namespace in which `run` has made a stack. It ends with the command, and the server ends with it.
    #[serde(default)]
    pub(crate) run: Option<u64>,
    /// The options with which it was made. Records of former versions have none.
    #[serde(default)]
    pub(crate) options: Option<RecordedOptions>,
}

/// A container with a view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRef {
    /// The process with which the user named it.
    pub(crate) pid: i32,
    /// The number of its mount namespace. The server holds the namespace open, so that the number isn't reused.
    pub(crate) namespace: u64,
    /// When the process was started, in clock ticks since the boot.
    #[serde(default)]
    pub(crate) start: Option<u64>,
}

impl Record {
    /// Makes the record of a view without a server yet.
    pub(crate) fn new(
        directory: &Path,
        target: String,
        shape: Shape,
        rules: &Rules,
        delegated: Vec<(String, EscapedName)>,
        since: u64,
    ) -> Self {
        Self {
            format: FORMAT,
            pid: 0,
            status: Status::of_server(0),
            server_start: None,
            directory: directory.as_os_str().into(),
            target,
            shape: shape.word().to_owned(),
            policy: rules.policy.word().to_owned(),
            delegate_controllers: controllers(rules),
            aliases: Vec::new(),
            hides_ancestor_limits: false,
            delegated,
            boundaries: Vec::new(),
            since,
            process: None,
            per_caller: false,
            container: None,
            namespace: None,
            run: None,
            options: None,
        }
    }

    /// The shape, if this version knows it.
    pub(crate) fn shape(&self) -> Option<Shape> {
        Shape::from_word(&self.shape)
    }

    /// Whether it's mounted at the same place as another view, and so was mounted there instead of that.
    pub(crate) fn has_place_of(&self, other: &Self) -> bool {
        let namespace = |record: &Self| record.container.as_ref().map(|inside| inside.namespace).or(record.namespace);
        self.container.is_some() == other.container.is_some()
            && namespace(self) == namespace(other)
            && self.directory == other.directory
    }

    /// Whether `view` has the same options. Delegated subtrees count only in the hierarchies that are `named`: the
    /// container's processes may have been migrated further down since.
    pub(crate) fn matches_view(&self, view: &View, named: &[(Option<String>, CgroupPath)]) -> bool {
        let (shape, policy) = (view.shape.word(), view.rules.policy.word());
        let is_named =
            |kind: &HierarchyKind| named.iter().any(|(word, _)| word.as_ref().is_none_or(|word| kind.matches(word)));
        (self.shape.as_str(), self.policy.as_str()) == (shape, policy)
            && self.delegate_controllers == controllers(&view.rules)
            && self.aliases == aliases(view)
            && self.hides_ancestor_limits == (view.ancestor_limits == AncestorLimits::Hidden)
            && delegated(view).filter(|(kind, _)| is_named(kind)).all(|(kind, path)| {
                let own = self.delegated.iter().find(|(own, _)| HierarchyKind::parse(own) == *kind);
                own.map(|(_, path)| path) == path.map(EscapedName::from).as_ref()
            })
    }

    /// Describes its options, which distinguish it from other views of the same container, with the escapes of all
    /// printed output.
    pub(crate) fn description(&self) -> String {
        let mut words = vec![format!("shape {}", self.shape), format!("policy {}", self.policy)];
        if !self.delegate_controllers.is_empty() {
            words.push(format!("with controllers {}", self.delegate_controllers.join(",")));
        }
        words.extend(self.aliases.iter().map(|alias| format!("alias {}", alias.printed())));
        if self.hides_ancestor_limits {
            words.push("without limits of ancestors".to_owned());
        }
        let mut paths: Vec<&EscapedName> = self.delegated.iter().map(|(_, path)| path).collect();
        paths.dedup();
        if let [path] = paths.as_slice() {
            words.push(format!("of {}", path.printed()));
        }
        words.join(", ")
    }
}

/// The v1 controllers that rules delegate.
fn controllers(rules: &Rules) -> Vec<String> {
    let named = rules.delegate_controllers.iter().map(str::to_owned);
    named.filter(|_| rules.policy == Policy::Delegate).collect()
}

pub(crate) fn aliases(view: &View) -> Vec<EscapedName> {
    let mut names: Vec<EscapedName> = view.aliases.iter().map(|alias| alias.as_os_str().into()).collect();
    names.sort();
    names
}

/// Each hierarchy of a view with its delegated subtree.
pub(crate) fn delegated(view: &View) -> impl Iterator<Item = (&HierarchyKind, Option<&CgroupPath>)> {
    view.hierarchies.iter().map(|hierarchy| (&hierarchy.kind, hierarchy.delegated.as_ref()))
}

/// The result of reading a record's text.
#[derive(Debug)]
pub(crate) enum ParsedRecord {
    Record(Record),
    /// A record in the first format, brought up to date.
    Format1(Record),
    /// A record in a format that this version doesn't know.
    Newer,
    /// No record.
    Nonsense,
}

/// Reads the text of a record, in each format.
pub(crate) fn parse(text: &[u8]) -> ParsedRecord {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(text) else { return ParsedRecord::Nonsense };
    let format = match value.get("format") {
        None => 1,
        Some(number) => number.as_u64().unwrap_or(0),
    };
    if format > u64::from(FORMAT) {
        return ParsedRecord::Newer;
    }
    let is_format1 = format == 1;
    if is_format1 {
        upgrade_format1(&mut value);
    }
    if format < 3 {
        upgrade_format2(&mut value);
    }
    match serde_json::from_value(value) {
        Ok(record) if is_format1 => ParsedRecord::Format1(record),
        Ok(record) => ParsedRecord::Record(record),
        Err(_) => ParsedRecord::Nonsense,
    }
}

/// Adds the escapes that the first format lacks.
fn upgrade_format1(value: &mut serde_json::Value) {
    let escape_in = |text: &mut serde_json::Value| {
        if let serde_json::Value::String(text) = text {
            *text = escape(text.as_bytes());
        }
    };
    value.get_mut("directory").into_iter().for_each(escape_in);
    for alias in value.get_mut("aliases").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        escape_in(alias);
    }
    for pair in value.get_mut("delegated").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        pair.get_mut(1).into_iter().for_each(escape_in);
    }
}

/// Adds the number and the status that the former formats lack.
fn upgrade_format2(value: &mut serde_json::Value) {
    let Some(record) = value.as_object_mut() else { return };
    record.insert("format".to_owned(), FORMAT.into());
    // The server held the lock itself.
    if let Some(pid) = record.get("pid").cloned() {
        record.insert("server".to_owned(), pid);
        record.insert("state".to_owned(), ServerState::Live.word().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_former_versions_have_a_status() {
        let text = br#"{"format":2,"pid":7,"directory":"/a\\040b","target":"pid 8","shape":"rooted","policy":"strict","delegated":[],"since":1}"#;
        let ParsedRecord::Record(record) = parse(text) else { panic!("it isn't read") };
        assert_eq!(record.status, Status::of_server(7));
        assert_eq!(record.directory.shown(), "/a b");
        assert_eq!(record.options, None);
        let text = br#"{"pid":7,"directory":"/a\\040b","target":"pid 8","shape":"rooted","policy":"strict","delegated":[],"since":1}"#;
        let ParsedRecord::Format1(record) = parse(text) else { panic!("it isn't read") };
        assert_eq!((record.status, record.directory.shown().as_str()), (Status::of_server(7), "/a\\040b"));
    }

    #[test]
    fn a_record_comes_back_and_a_later_one_is_known() {
        let rules = Rules::default();
        let mut record = Record::new(Path::new("/x"), "pid 8".to_owned(), Shape::Rooted, &rules, Vec::new(), 1);
        record.options = Some(RecordedOptions { place: Some("box".to_owned()), ..RecordedOptions::default() });
        record.status.state = ServerState::Starting;
        record.status.reason = Some("killed by SIGKILL".to_owned());
        let text = serde_json::to_vec(&record).unwrap();
        let ParsedRecord::Record(read) = parse(&text) else { panic!("it isn't read") };
        assert_eq!((read.options, read.status), (record.options, record.status));
        let later = format!("{{\"format\":{}}}", FORMAT + 1);
        assert!(matches!(parse(later.as_bytes()), ParsedRecord::Newer));
    }
}
