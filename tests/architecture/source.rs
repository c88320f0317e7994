//! Rust sources as text without comments, strings and tests: enough of a lexer for the rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A source file.
pub(crate) struct Source {
    /// Its path in the repository.
    pub(crate) path: String,
    /// How many lines it has.
    pub(crate) length: usize,
    /// Whether it's only there for tests.
    pub(crate) is_test: bool,
    /// Its lines, blanked where comments, strings and tests were.
    lines: Vec<String>,
}

/// All sources of the repository, read once.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(read_sources);
    &SOURCES
}

fn read_sources() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(top, &mut files);
    assert!(files.len() > 60, "only {} files below {}", files.len(), top.display());
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            (file, text)
        })
        .collect();
    let tests: BTreeSet<PathBuf> = texts.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    texts
        .iter()
        .map(|(file, text)| Source {
            path: file.strip_prefix(top).unwrap_or(file).display().to_string(),
            length: text.lines().count(),
            is_test: file.ancestors().any(|above| tests.contains(&above.with_extension(""))),
            lines: without_inline_tests(&blank(text)).lines().map(str::to_owned).collect(),
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                collect(&path, files);
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// The files, without their extension, of the modules that `#[cfg(test)]` stands before.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let above = file.parent().unwrap_or(Path::new(""));
    let folder = if matches!(stem, "mod" | "lib" | "main") { above.to_owned() } else { above.join(stem) };
    let mut modules = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines.by_ref().any(|line| line == "#[cfg(test)]") {
        let Some(mut line) = lines.next() else { break };
        let mut elsewhere = None;
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            elsewhere = Some(above.join(path).with_extension(""));
            line = lines.next().unwrap_or_default();
        }
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            modules.push(elsewhere.unwrap_or_else(|| folder.join(name)));
        }
    }
    modules
}

/// Blanks comments, strings and character literals; line breaks stay.
fn blank(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest).filter(|_| !plain.ends_with(is_word)) {
            length
        } else if first == '"' {
            string(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            plain.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        plain.extend(rest[..length].chars().map(|one| if one == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    plain
}

fn raw_string(text: &str) -> Option<usize> {
    let behind = text.strip_prefix('b').unwrap_or(text).strip_prefix('r')?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let content = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - content.len();
    Some(content.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, one) in text.char_indices().skip(1) {
        match one {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, or of the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text[1..].chars();
    match inside.next() {
        Some('\\') => text[3..].find('\'').map_or(text.len(), |end| end + 4),
        Some(one) if inside.next() == Some('\'') => one.len_utf8() + 2,
        _ => 1,
    }
}

/// Blanks what follows `#[cfg(test)]`, if that's a module with its content; ours stand at the end of a file.
fn without_inline_tests(text: &str) -> String {
    let inline = text.match_indices("#[cfg(test)]").find(|(at, _)| {
        let behind = text[*at..].lines().nth(1).unwrap_or_default().trim();
        behind.starts_with("mod ") && behind.ends_with('{')
    });
    inline.map_or(text, |(at, _)| &text[..at]).to_owned()
}

pub(crate) fn is_word(one: char) -> bool {
    one.is_alphanumeric() || one == '_'
}

/// Where `word` ends in a line, wherever it stands as a whole word.
pub(crate) fn word_positions<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word).filter_map(move |(at, _)| {
        let end = at + word.len();
        let alone = !line[..at].ends_with(is_word) && !line[end..].starts_with(is_word);
        alone.then_some(end)
    })
}

/// Where a line indexes or slices something: a `[` that directly follows an expression.
pub(crate) fn indexing(line: &str) -> Option<usize> {
    line.match_indices('[')
        .map(|(at, _)| at)
        .find(|at| line[..*at].ends_with(|one| is_word(one) || ")]?".contains(one)))
}

impl Source {
    /// A source that a test makes up.
    pub(crate) fn of(path: &str, text: &str) -> Self {
        let lines = without_inline_tests(&blank(text)).lines().map(str::to_owned).collect();
        Self { path: path.to_owned(), length: text.lines().count(), is_test: false, lines }
    }

    /// The lines with their numbers.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.as_str()))
    }

    /// The numbers of the lines that hold a word.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<usize> {
        self.code().filter(|(_, line)| word_positions(line, word).next().is_some()).map(|(number, _)| number).collect()
    }

    /// The folders that it names by `crate::`, with their lines.
    pub(crate) fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in self.code() {
            for (at, start) in line.match_indices("crate::") {
                let rest = &line[at + start.len()..];
                let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
                let names = match group {
                    Some(group) => group.split(',').map(str::trim).collect(),
                    None => vec![rest],
                };
                for name in names {
                    let end = name.find(|one| !is_word(one)).unwrap_or(name.len());
                    found.push((number, name[..end].to_owned()));
                }
            }
        }
        found
    }
}

#[test]
fn the_lexer_sees_code_only() {
    let text =
        "a; // b\nlet c = \"d \\\" e\"; 'f: loop {}\nlet g = 'h'; r#\"i\"#; j()\n#[cfg(test)]\nmod tests {\nk\n}\n";
    let plain = without_inline_tests(&blank(text));
    let words: Vec<Vec<&str>> =
        plain.lines().map(|line| line.split(|one| !is_word(one)).filter(|word| !word.is_empty()).collect()).collect();
    assert_eq!(words, [&["a"][..], &["let", "c", "f", "loop"], &["let", "g", "j"]]);
    assert_eq!((indexing("a[0]"), indexing("i()[5]"), indexing("j?[0]")), (Some(1), Some(3), Some(2)));
    assert_eq!(indexing("let [a, b] = vec![1]; &x as &[u8]; #[derive(A)]"), None);
    assert_eq!(word_positions("fuser::x refuser fuser_y", "fuser").collect::<Vec<_>>(), [5]);
}
