//! The documents are true where a program can tell: commands and options have their lines, links lead somewhere, and the README stays short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const README_LINES: usize = 200;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(&root().join("docs/commands").join(name))
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vcgroupfs")).args(arguments).output().expect("the program");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The commands that the program has, but for `help`.
fn verbs() -> Vec<String> {
    let overview = help(&["--help"]);
    let lines = overview.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let verbs: Vec<String> = names.map(str::to_owned).collect();
    assert!(verbs.len() > 8, "{verbs:?}");
    verbs
}

/// The long options that a command's help describes, but for `--help`.
fn options_of_help(verb: &str) -> BTreeSet<String> {
    let text = help(&[verb, "--help"]);
    let lines = text.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    words.filter(|word| *word != "--help" && *word != "--").map(str::to_owned).collect()
}

/// The options that a text describes: those at the beginning of a list's items.
fn options_of_text(text: &str) -> BTreeSet<String> {
    let items = text.lines().filter_map(|line| line.strip_prefix("* `-")).map(|rest| format!("-{rest}"));
    items
        .flat_map(|item| {
            let (described, _) = item.split_once(':').unwrap_or((&item, ""));
            let words = described.split([' ', '`', ',']).filter(|word| word.starts_with("--"));
            words.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// The sections of a page, by the word that a link has behind '#'.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if line.starts_with('#') && !is_code {
            sections.push((anchor(line.trim_start_matches('#')), String::new()));
        } else if let Some((_, section)) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// The anchor that the usual renderers make of a heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn every_command_has_a_page_with_its_options_and_no_others() {
    let overview = page("README.md");
    let shared: Vec<_> =
        sections(&overview).into_iter().map(|(anchor, text)| (anchor, options_of_text(&text))).collect();
    for verb in verbs() {
        assert!(overview.contains(&format!("| [`{verb}`]({verb}.md) |")), "{verb} isn't in the list of commands");
        let text = page(&format!("{verb}.md"));
        assert!(text.starts_with(&format!("# vcgroupfs {verb}\n")), "{verb}.md begins otherwise");
        let own = options_of_text(&text);
        let linked = shared.iter().filter(|(anchor, _)| text.contains(&format!("README.md#{anchor}")));
        let linked: BTreeSet<String> = linked.flat_map(|(_, options)| options.clone()).collect();
        let real = options_of_help(&verb);
        assert!(real.len() > 2, "{verb}: {real:?}");
        let documented: BTreeSet<String> = own.union(&linked).cloned().collect();
        let missing: Vec<_> = real.difference(&documented).collect();
        let invented: Vec<_> = documented.difference(&real).collect();
        assert!(missing.is_empty() && invented.is_empty(), "{verb}.md: missing {missing:?}, invented {invented:?}");
    }
}

#[test]
fn no_page_is_of_a_command_that_is_gone() {
    let verbs = verbs();
    for entry in fs::read_dir(root().join("docs/commands")).expect("the pages") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        let verb = name.strip_suffix(".md").expect("a page");
        assert!(verb == "README" || verbs.iter().any(|one| one == verb), "{name}");
    }
}

/// Options that a document gives to the program somewhere are options of the program.
#[test]
fn options_in_examples_exist() {
    let verbs = verbs();
    let mut seen = 0;
    for path in documents() {
        for line in read(&path).lines().flat_map(|line| line.split('`').map(str::to_owned).collect::<Vec<_>>()) {
            let line = line.trim_start().trim_start_matches("$ ");
            let Some(rest) = line.strip_prefix("vcgroupfs ") else { continue };
            let words: Vec<&str> = rest.split(" -- ").next().unwrap_or_default().split_whitespace().collect();
            let Some(verb) = words.iter().find(|word| verbs.iter().any(|verb| verb == *word)) else { continue };
            let real = options_of_help(verb);
            for word in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let name = word.trim_end_matches(']').split('=').next().unwrap_or_default();
                assert!(real.contains(name), "{}: {verb} {word}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if name != "target" && name != ".git" {
                    waiting.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

#[test]
fn links_lead_somewhere() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    for path in documents() {
        let text = read(&path);
        for rest in text.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            seen += 1;
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            let is_there = match wanted {
                "" => file.exists(),
                _ => file.is_file() && sections(&read(&file)).iter().any(|(anchor, _)| anchor == wanted),
            };
            if !is_there {
                breaches.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// Every `src/...` that a document names exists, also after a move.
#[test]
fn sources_that_are_named_exist() {
    let mut breaches = Vec::new();
    let mut seen = 0;
    for path in documents() {
        for word in
            read(&path).split('`').filter(|word| word.starts_with("src/") && !word.contains(char::is_whitespace))
        {
            seen += 1;
            // A package's own README speaks of its own sources.
            if !root().join(word).exists() && !path.parent().expect("a folder").join(word).exists() {
                breaches.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(seen > 10, "{seen}");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES, "{lines} lines: what is for few belongs into docs/");
}

/// Every path of code that the architecture names, such as `module::function` or `Type::method`, exists.
#[test]
fn code_that_the_architecture_names_exists() {
    let sources = sources();
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    // Every other part is a block of code.
    let prose = text.split("```").step_by(2);
    let spans = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let named: BTreeSet<&str> = spans.filter(|word| is_code_path(word)).collect();
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<_> = named.into_iter().filter(|path| !is_defined(&sources, path)).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md names what doesn't exist:\n{}", missing.join("\n"));
}

/// Every module whose unit tests SECURITY.md names exists and has tests.
#[test]
fn unit_tests_that_the_threat_model_names_exist() {
    let sources = sources();
    let text = read(&root().join("SECURITY.md"));
    let named: BTreeSet<&str> = text.split("unit `").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    assert!(named.len() > 5, "{named:?}");
    let has_tests = |path: &&str| {
        let module: Vec<&str> = path.split("::").collect();
        let mut below = sources.iter().filter(|source| source.module.iter().take(module.len()).eq(&module));
        below.any(|source| source.text.contains("#[test]"))
    };
    let missing: Vec<_> = named.into_iter().filter(|path| !has_tests(path)).collect();
    assert!(missing.is_empty(), "SECURITY.md names modules without tests:\n{}", missing.join("\n"));
}

/// A source file with its module path. Those of the other packages begin with the package's name.
struct Source {
    module: Vec<String>,
    text: String,
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for (package, folder) in [(None, "src"), (Some("mount_helper"), "mount-helper/src"), (Some("sys"), "sys/src")] {
        let folder = root().join(folder);
        let mut waiting = vec![folder.clone()];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(&folder).expect("below the folder").with_extension("");
                let names = module.iter().map(|name| name.to_str().expect("a name").to_owned());
                let names = names.filter(|name| !matches!(name.as_str(), "mod" | "lib"));
                let module = package.map(str::to_owned).into_iter().chain(names).collect();
                sources.push(Source { module, text: read(&path) });
            }
        }
    }
    sources
}

fn is_code_path(word: &str) -> bool {
    word.contains("::") && word.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, ':' | '_'))
}

/// Whether a module has this path, or a part of it, or the last name is defined in what the names before it mean: a
/// module with all below it, or the files that define or implement a type.
fn is_defined(sources: &[Source], path: &str) -> bool {
    let names: Vec<&str> = path.split("::").collect();
    if sources.iter().any(|source| is_in_module(source, &names)) {
        return true;
    }
    let Some((last, before)) = names.split_last() else { return false };
    let (of, module) = match before.split_last() {
        Some((of, module)) if of.starts_with(char::is_uppercase) => (Some(*of), module),
        _ => (None, before),
    };
    sources.iter().any(|source| {
        let is_there = module.is_empty() || is_in_module(source, module);
        is_there && of.is_none_or(|of| is_about_type(&source.text, of)) && defines(&source.text, last)
    })
}

fn is_in_module(source: &Source, names: &[&str]) -> bool {
    source.module.windows(names.len()).any(|part| part == names)
}

/// Whether a text defines or implements a type.
fn is_about_type(text: &str, name: &str) -> bool {
    let is_of = |line: &str| {
        let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        words.clone().any(|word| matches!(word, "impl" | "struct" | "enum" | "trait" | "type"))
            && words.any(|word| word == name)
    };
    text.lines().any(is_of)
}

/// Whether a text defines a name: an item, a field or a variant.
fn defines(text: &str, name: &str) -> bool {
    let defines = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
            Some(rest) => rest.split_once(')').map_or(rest, |(_, rest)| rest),
            None => rest,
        });
        let mut words = line.split_whitespace().peekable();
        while words.next_if(|word| matches!(*word, "const" | "unsafe" | "async" | "default")).is_some() {}
        if words
            .peek()
            .is_some_and(|word| matches!(*word, "fn" | "struct" | "enum" | "trait" | "type" | "static" | "mod"))
        {
            words.next();
        }
        let Some(rest) = words.next().and_then(|word| word.strip_prefix(name)) else { return false };
        matches!(rest.chars().next(), None | Some('(' | '<' | ':' | ',' | ';' | '{'))
    };
    text.lines().any(defines)
}
