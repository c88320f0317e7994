//! Finds circles of imports between the files of a package: files that need each other, by `use` or by a path in the code.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, is_word};

/// A path of modules from the root of the package.
type Module = Vec<String>;

/// The files of one package, and what each imports.
struct Package<'a> {
    files: BTreeMap<Module, File<'a>>,
}

/// One source file, which is one module.
struct File<'a> {
    path: &'a str,
    /// What `use` binds: the name, and the path that it stands for.
    bound: Vec<(String, Vec<String>)>,
    /// The paths in the code, without those of `use`.
    paths: Vec<Vec<String>>,
}

/// Which files each file needs, and by which name.
type Imports<'a> = BTreeMap<&'a str, BTreeMap<&'a str, String>>;

/// The circles of imports between these files, each as a text of one line per import. `folder` is the one with the root of the package.
pub(crate) fn circles(sources: &[&Source], folder: &str) -> Vec<Circle> {
    let package = Package::new(sources, folder);
    let imports = package.imports();
    let reachable: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (*file, reachable_from(file, &imports))).collect();
    let mut found: Vec<Circle> = Vec::new();
    for (file, others) in &reachable {
        let is_new = !found.iter().any(|circle| circle.files.iter().any(|known| known == file));
        if is_new && others.contains(file) {
            let files: Vec<&str> = others.iter().copied().filter(|other| reachable[other].contains(file)).collect();
            found.push(Circle::of(&files, &imports));
        }
    }
    found
}

/// Files of which each needs each other.
pub(crate) struct Circle {
    pub(crate) files: Vec<String>,
    /// A line for each import between them.
    pub(crate) imports: Vec<String>,
}

impl Circle {
    fn of(files: &[&str], imports: &Imports<'_>) -> Self {
        let lines = files.iter().flat_map(|file| {
            let within = imports[file].iter().filter(|(other, _)| files.contains(other));
            within.map(move |(other, name)| format!("  {file} imports {name} of {other}"))
        });
        Self { files: files.iter().map(|file| (*file).to_owned()).collect(), imports: lines.collect() }
    }
}

fn reachable_from<'a>(file: &str, imports: &Imports<'a>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut unseen: Vec<&str> = imports[file].keys().copied().collect();
    while let Some(next) = unseen.pop() {
        if found.insert(next) {
            unseen.extend(imports[next].keys().copied());
        }
    }
    found
}

impl<'a> Package<'a> {
    fn new(sources: &[&'a Source], folder: &str) -> Self {
        let within = sources.iter().filter_map(|source| Some((module_of(source.path.strip_prefix(folder)?)?, source)));
        let files = within.map(|(module, source)| {
            let text: String = source.code().flat_map(|(_, line)| [line, "\n"]).collect();
            (module, File::new(&source.path, &text))
        });
        Self { files: files.collect() }
    }

    fn imports(&self) -> Imports<'a> {
        let needed_by = |module: &Module, file: &File<'_>| {
            let bound = file.bound.iter().map(|(_, path)| path);
            let named = bound.chain(&file.paths).filter_map(|path| {
                let target = self.resolve(module, path, 0)?;
                (target != *module).then(|| (self.files[&target].path, path.last().cloned().unwrap_or_default()))
            });
            named.collect()
        };
        self.files.iter().map(|(module, file)| (file.path, needed_by(module, file))).collect()
    }

    /// The module that has the item which a path in `module` names. `None` if that is a module itself, or of another package.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        // Re-exports that lead nowhere else.
        const MAX_DEPTH: usize = 8;
        if depth > MAX_DEPTH {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.descend(Vec::new(), rest, depth),
            "self" => self.descend(module.clone(), rest, depth),
            "super" => self.descend(module.split_last()?.1.to_vec(), rest, depth),
            _ if self.files.contains_key(&child(module, first)) => self.descend(child(module, first), rest, depth),
            _ => {
                let (_, meant) = self.files[module].bound.iter().find(|(name, _)| name == first)?;
                let is_itself = meant.first() == Some(first);
                if is_itself { None } else { self.resolve(module, &[meant, rest].concat(), depth + 1) }
            }
        }
    }

    /// Follows a path from a module down, through re-exports.
    fn descend(&self, module: Module, path: &[String], depth: usize) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        if first == "super" {
            return self.descend(module.split_last()?.1.to_vec(), rest, depth);
        }
        let below = child(&module, first);
        if self.files.contains_key(&below) {
            return self.descend(below, rest, depth);
        }
        let file = self.files.get(&module)?;
        match file.bound.iter().find(|(name, _)| name == first) {
            Some((_, meant)) => self.resolve(&module, &[meant, rest].concat(), depth + 1),
            None => Some(module),
        }
    }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// The module that a file below the package's folder is.
fn module_of(path: &str) -> Option<Module> {
    let path = path.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    // The program of a package is a crate of its own, which only takes from the library.
    match path {
        "main" => None,
        "lib" => Some(Vec::new()),
        path => Some(path.split('/').map(str::to_owned).collect()),
    }
}

impl<'a> File<'a> {
    fn new(path: &'a str, text: &str) -> Self {
        let mut bound = Vec::new();
        let mut code = String::new();
        let mut rest = text;
        while let Some(at) = next_use(rest) {
            let behind = &rest[at + "use ".len()..];
            let end = behind.find(';').unwrap_or(behind.len());
            bind(&[], &behind[..end], &mut bound);
            code.push_str(&rest[..at]);
            rest = &behind[end..];
        }
        code.push_str(rest);
        Self { path, bound, paths: paths(&code) }
    }
}

/// Where the next `use` declaration begins.
fn next_use(text: &str) -> Option<usize> {
    text.match_indices("use ").map(|(at, _)| at).find(|at| {
        let before = text[..*at].trim_end();
        // The first word of its line, but for its visibility.
        !text[..*at].ends_with(is_word)
            && (before.is_empty() || before.ends_with([';', '}', '{', ')', ']']) || before.ends_with("pub"))
    })
}

/// Notes what a tree of `use` binds below a path.
fn bind(above: &[String], tree: &str, bound: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim();
    if let Some(at) = tree.find('{') {
        let above: Vec<String> = above.iter().cloned().chain(segments(&tree[..at])).collect();
        let within = tree[at + 1..].strip_suffix('}').unwrap_or(&tree[at + 1..]);
        split_outside_braces(within).into_iter().for_each(|part| bind(&above, part, bound));
        return;
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path: Vec<String> = above.iter().cloned().chain(segments(path)).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let name = alias.map(str::to_owned).or_else(|| path.last().cloned());
    bound.extend(name.filter(|name| !name.is_empty()).map(|name| (name, path)));
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

fn split_outside_braces(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, one) in text.char_indices() {
        match one {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

/// The paths of several names in code.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for word in code.split(|one| !is_word(one) && one != ':') {
        let path = segments(word);
        if word.contains("::") && path.len() > 1 && !word.starts_with("::") {
            found.push(path);
        }
    }
    found
}

#[test]
fn imports_are_resolved() {
    let files = [
        ("src/lib.rs", "pub mod a;\nmod b;\n"),
        ("src/a/mod.rs", "mod x;\nmod y;\npub use x::One;\npub(crate) use self::y::{self as why, Two};\n"),
        ("src/a/x.rs", "use super::Two;\nuse std::fmt::{self, Debug};\nstruct One(fmt::Error);\n"),
        ("src/a/y.rs", "use crate::{\n    a::{One as Uno},\n    b,\n};\nfn f() { b::g::<Uno>() }\nstruct Two;\n"),
        ("src/b.rs", "fn g() { super::a::why::h(); c::f() }\nmod c;\n"),
        ("src/b/c.rs", "fn f() {}\n"),
    ];
    let made_up: Vec<Source> = files.iter().map(|(path, text)| Source::of(path, text)).collect();
    let sources: Vec<&Source> = made_up.iter().collect();
    let package = Package::new(&sources, "src/");
    let imports = package.imports();
    let of = |file: &str| imports[file].keys().copied().collect::<Vec<_>>();
    assert_eq!(of("src/a/x.rs"), ["src/a/y.rs"]);
    assert_eq!(of("src/a/y.rs"), ["src/a/x.rs", "src/b.rs"]);
    assert_eq!(of("src/b.rs"), ["src/a/y.rs", "src/b/c.rs"]);
    assert_eq!(of("src/b/c.rs"), [""; 0]);
    let found = circles(&sources, "src/");
    let files: Vec<_> = found.iter().map(|circle| circle.files.clone()).collect();
    assert_eq!(files, [["src/a/x.rs", "src/a/y.rs", "src/b.rs"]]);
    assert!(found[0].imports.contains(&"  src/a/y.rs imports g of src/b.rs".to_owned()), "{:?}", found[0].imports);
}
