//! `metrics`, read by the rules of Prometheus' text format.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use testkit::wait_until;

use crate::scene::{Watched, run, run_as_stranger};

/// What the command prints. Views of other tests end meanwhile, so it may fail for these.
fn text(arguments: &[&str]) -> String {
    String::from_utf8(run(arguments).stdout).expect("text")
}

type Labels = BTreeMap<String, String>;

/// The samples of a text, by name and labels.
struct Parsed(Vec<(String, Labels, f64)>);

impl Parsed {
    /// Reads a text, and checks every rule of the format.
    #[track_caller]
    fn new(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line doesn't end");
        let (mut types, mut helps, mut samples) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut families: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(helps.insert(name.to_owned()) && !help.is_empty(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                families.push(name.to_owned());
            } else {
                let (name, labels, value) = sample(line);
                let family = families.last().expect("a type before the first sample");
                let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} is among {family}"));
                let suffixes: &[&str] =
                    if types[family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "{line}");
                samples.push((name, labels, value));
            }
        }
        assert_eq!(helps, types.keys().cloned().collect());
        let all: BTreeSet<_> = samples.iter().map(|(name, labels, _)| (name, labels)).collect();
        assert_eq!(all.len(), samples.len(), "samples are there twice");
        let parsed = Self(samples);
        types.iter().filter(|(_, kind)| *kind == "histogram").for_each(|(name, _)| parsed.check_histogram(name));
        parsed
    }

    fn check_histogram(&self, name: &str) {
        let mut by_labels: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (_, labels, value) in self.0.iter().filter(|(found, ..)| *found == format!("{name}_bucket")) {
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("le");
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
            by_labels.entry(labels).or_default().push((bound, *value));
        }
        assert!(!by_labels.is_empty());
        for (labels, buckets) in by_labels {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{labels:?}: {buckets:?}");
            let last = buckets.last().expect("a bucket");
            assert_eq!(last.0, f64::INFINITY);
            let get = |suffix: &str| {
                self.0
                    .iter()
                    .find(|(found, own, _)| *found == format!("{name}{suffix}") && *own == labels)
                    .map(|one| one.2)
            };
            assert_eq!(get("_count"), Some(last.1));
            assert!(get("_sum").expect("a sum") > 0.0);
        }
    }

    /// The value of a sample of a view, with these labels beside those of all.
    fn get(&self, target: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is_it = |own: &Labels| {
            own["directory"] == target
                && labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value))
        };
        self.0.iter().find(|(found, own, _)| found == name && is_it(own)).map(|(.., value)| *value)
    }
}

/// Reads a line: a name, labels in braces, a value.
fn sample(line: &str) -> (String, Labels, f64) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    let is_name = |text: &str| text.chars().all(|one| one.is_ascii_alphanumeric() || one == '_') && !text.is_empty();
    assert!(is_name(name), "{line}");
    let (mut labels, mut rest) = (Labels::new(), rest);
    while let Some((label, value)) = rest.split_once("=\"") {
        assert!(is_name(label), "{line}");
        let (mut text, mut letters) = (String::new(), value.char_indices());
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("a value doesn't end: {line}")) {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, other @ ('\\' | '"'))) => text.push(other),
                    other => panic!("{other:?} in {line}"),
                },
                (_, other) => text.push(other),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = value[end + 1..].trim_start_matches(',');
        if rest.starts_with('}') {
            break;
        }
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("no value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

#[test]
fn what_happens_is_counted() {
    require_watched!();
    let scene = Watched::new();
    let target = scene.target();
    let get = |name: &str, labels: &[(&str, &str)]| Parsed::new(&text(&["metrics"])).get(&target, name, labels);
    let requests = |operation: &str, result: &str| {
        get("vcgroupfs_requests_total", &[("operation", operation), ("result", result)]).unwrap_or(0.0)
    };
    assert_eq!(requests("mkdir", "rejected"), 0.0);
    (0..3).for_each(|number| scene.reject(&format!("n{number}")));
    fs::create_dir(scene.own().join("made")).expect("mkdir");
    fs::create_dir(scene.own().join("made")).expect_err("it's there");
    fs::remove_dir(scene.own().join("made")).expect("rmdir");
    fs::metadata(scene.own().join("nothing")).expect_err("it isn't there");
    wait_until("they are counted", || requests("rmdir", "done") == 1.0 && requests("mkdir", "rejected") == 3.0);
    assert_eq!(requests("mkdir", "done"), 1.0);
    assert!(requests("lookup", "failed") > 0.0 && requests("lookup", "done") > 0.0);
    assert_eq!(get("vcgroupfs_rejections_total", &[("rule", "outside-subtree")]), Some(3.0));
    assert_eq!(get("vcgroupfs_request_duration_seconds_count", &[("operation", "rmdir")]), Some(1.0));
    assert_eq!([get("vcgroupfs_view_up", &[]), get("vcgroupfs_view_readable", &[])], [Some(1.0); 2]);
    let about = [("policy", "strict"), ("shape", "host-path"), ("state", "live")];
    assert_eq!(get("vcgroupfs_view_info", &about), Some(1.0));
    for role in ["server", "keeper"] {
        let memory = get("vcgroupfs_resident_memory_bytes", &[("role", role)]).expect("memory");
        assert!((100e3..1e9).contains(&memory), "{role}: {memory}");
    }
    assert!(get("vcgroupfs_watched_directories", &[]).expect("watches") > 0.0);
    assert_eq!(get("vcgroupfs_log_lines_lost_total", &[]), Some(0.0));
    assert_eq!(get("vcgroupfs_open_files", &[]), Some(0.0));
    // One that is open for writing is the server's, also after that was killed.
    let file = fs::File::options().write(true).open(scene.own().join("cgroup.procs")).expect("a file");
    wait_until("it's counted", || get("vcgroupfs_open_files", &[]) == Some(1.0));
    scene.kill_server();
    wait_until("it's counted again", || get("vcgroupfs_open_files", &[]) == Some(1.0));
    assert_eq!(get("vcgroupfs_server_restarts_total", &[]), Some(1.0));
    assert_eq!(requests("mkdir", "rejected"), 3.0);
    drop(file);
    wait_until("it's closed", || get("vcgroupfs_open_files", &[]) == Some(0.0));
    scene.upgrade();
    assert_eq!(requests("mkdir", "rejected"), 3.0);
}

#[test]
fn json_has_the_same() {
    require_watched!();
    let scene = Watched::new();
    scene.reject("x");
    scene.rejections(|all| all.len() == 1);
    let all: Vec<Value> = serde_json::from_str(&text(&["metrics", "--json"])).expect("JSON");
    let own = |one: &&Value| {
        one["labels"]["directory"] == scene.target().as_str() && one["name"] == "vcgroupfs_rejections_total"
    };
    let own = all.iter().find(own).expect("a sample");
    assert_eq!((&own["labels"]["rule"], own["value"].as_f64()), (&"outside-subtree".into(), Some(1.0)));
}

#[test]
fn without_root_the_counters_are_missing() {
    require_watched!();
    let scene = Watched::new();
    let output = run_as_stranger(&["metrics"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(4) && said.contains("run it as root"), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        text.contains(&format!("vcgroupfs_view_up{{target=\"cgroup {}\"", scene.cgroup.path()))
            || text.contains(&scene.target())
    );
    assert!(!text.contains("vcgroupfs_requests_total"), "{text}");
}
