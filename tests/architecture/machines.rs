//! The filters that `tests/vm/init` passes to the test programs name tests that exist. A filter that matches nothing fails no machine: the tests
//! that it left out run where they can't, and those that it chose don't run at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of the script's variables: those that are assigned, and those of its loops.
fn variables(script: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in script.lines() {
        if let Some((name, values)) = line.trim().strip_prefix("for ").and_then(|rest| rest.split_once(" in ")) {
            found.entry(name).or_default().extend(values.split(';').next().into_iter().flat_map(str::split_whitespace));
        }
        for (at, _) in line.match_indices('=') {
            let (before, after) = (&line[..at], &line[at + 1..]);
            let name = before.rsplit(char::is_whitespace).next().unwrap_or_default();
            let is_name = !name.is_empty() && name.bytes().all(|one| one.is_ascii_lowercase());
            let quote = after.chars().next().filter(|one| "'\"".contains(*one));
            let value = match quote {
                Some(quote) => after[1..].split(quote).next(),
                None => after.split(char::is_whitespace).next(),
            };
            if is_name {
                found.entry(name).or_default().extend(value.into_iter().flat_map(str::split_whitespace));
            }
        }
    }
    found
}

/// What a word may become. What the machine says itself (`$(…)`, `$1`) isn't known here.
fn expand(word: &str, variables: &BTreeMap<&str, BTreeSet<&str>>) -> BTreeSet<String> {
    let Some((before, after)) = word.split_once('$') else { return BTreeSet::from([word.to_owned()]) };
    let end = after.find(|one: char| !one.is_ascii_lowercase()).unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    let own = format!("${name}");
    let values = variables.get(name).into_iter().flatten().filter(|value| **value != own);
    values.flat_map(|value| expand(&format!("{before}{value}{rest}"), variables)).collect()
}

/// The filters of each call of `suite`, by the test program. No program: the filter is passed to all.
fn filters(script: &str) -> BTreeSet<(Option<String>, String)> {
    let variables = variables(script);
    let mut found = BTreeSet::new();
    for line in script.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
        let (programs, words) = match words.iter().position(|word| *word == "suite") {
            Some(at) if at + 1 < words.len() => {
                (expand(words[at + 1], &variables).into_iter().map(Some).collect(), &words[at + 2..])
            }
            None if line.contains("--skip ") => (vec![None], &words[1..]),
            _ => continue,
        };
        let words = words.iter().take_while(|word| **word != ";;" && !word.starts_with('#'));
        for word in words.filter(|word| !word.starts_with("--") && **word != "$@") {
            for filter in expand(word, &variables) {
                found.extend(programs.iter().map(|program| (program.clone(), filter.clone())));
            }
        }
    }
    found
}

/// The names in the invocation of a macro of the file: the first word of each line.
fn arguments<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let invocation = text.split(&format!("\n{name}! {{\n")).nth(1).and_then(|rest| rest.split("\n}").next());
    let lines = invocation.into_iter().flat_map(str::lines);
    lines.filter_map(|line| line.trim().split([':', ',', ' ']).next()).collect()
}

/// The tests of a file, with the modules that they are in.
fn tests_of_file(text: &str, module: &str, found: &mut BTreeSet<String>) {
    let (mut modules, mut in_macro, mut is_test) = (Vec::<(usize, &str)>::new(), None, false);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bare = line.trim_start().trim_start_matches("$(");
        let indent = line.len() - line.trim_start().len();
        modules.retain(|(outer, _)| *outer < indent);
        if indent == 0 && !line.starts_with('}') {
            in_macro = line.strip_prefix("macro_rules! ").and_then(|rest| rest.split(' ').next());
        }
        if let Some(name) = bare.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            modules.push((indent, name));
        }
        is_test |= bare.contains("#[test]");
        let Some((_, rest)) = bare.split_once("fn ").filter(|_| is_test) else { continue };
        is_test = false;
        let name = rest.split('(').next().unwrap_or_default();
        let path: String = modules.iter().map(|(_, name)| format!("{name}::")).collect();
        let path = format!("{module}{path}{name}");
        match in_macro.filter(|_| path.contains("$name")) {
            Some(called) => found.extend(arguments(text, called).iter().map(|name| path.replace("$name", name))),
            None => drop(found.insert(path)),
        }
    }
}

fn tests_of_folder(folder: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a test program").flatten().map(|entry| entry.path()) {
        let name = entry.file_stem().and_then(|name| name.to_str()).expect("a name");
        let inner = if name == "main" { module.to_owned() } else { format!("{module}{name}::") };
        match entry.extension() {
            _ if entry.is_dir() => tests_of_folder(&entry, &inner, found),
            Some(end) if end == "rs" => tests_of_file(&read(&entry), &inner, found),
            _ => (),
        }
    }
}

/// The tests of a test program, as its harness lists them.
fn tests_of(program: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let tests = root().join("tests");
    let file = tests.join(program).with_extension("rs");
    if file.is_file() {
        tests_of_file(&read(&file), "", &mut found);
    } else {
        tests_of_folder(&tests.join(program), "", &mut found);
    }
    found
}

#[test]
fn the_filters_of_machines_match_tests() {
    let filters = filters(&read(&root().join("tests/vm/init")));
    let programs: BTreeSet<&String> = filters.iter().filter_map(|(program, _)| program.as_ref()).collect();
    let tests: BTreeMap<&String, BTreeSet<String>> =
        programs.into_iter().map(|program| (program, tests_of(program))).collect();
    assert!(filters.len() > 10 && tests.len() > 3, "{filters:?} {:?}", tests.keys());
    let matches = |program: &Option<String>, filter: &String| {
        let mut candidates = tests.iter().filter(|(name, _)| program.as_ref().is_none_or(|program| program == **name));
        candidates.any(|(_, tests)| tests.iter().any(|test| test.contains(filter.as_str())))
    };
    let idle = filters.iter().filter(|(program, filter)| !matches(program, filter));
    let idle: Vec<_> =
        idle.map(|(program, filter)| format!("tests/vm/init: no test of {program:?} is {filter}")).collect();
    crate::report(&idle);
}
