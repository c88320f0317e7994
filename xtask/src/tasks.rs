//! The tasks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Done, Failed, Outcome, Task, run};

/// All tasks, those of `check` in the order in which they tell most in the least time.
pub(crate) const TASKS: &[Task] = &[
    Task { name: "format", what: "rustfmt has nothing to change", is_checked: true, takes_rest: false, run: format },
    Task { name: "lints", what: "clippy has no complaint", is_checked: true, takes_rest: false, run: lints },
    Task {
        name: "unit",
        what: "unit tests, property tests, and the rules of sources and documents",
        is_checked: true,
        takes_rest: false,
        run: unit,
    },
    Task { name: "docs", what: "rustdoc has no complaint", is_checked: true, takes_rest: false, run: docs },
    Task { name: "scripts", what: "shellcheck has no complaint", is_checked: true, takes_rest: false, run: scripts },
    Task {
        name: "package",
        what: "what would be published can be packed",
        is_checked: true,
        takes_rest: false,
        run: package,
    },
    Task {
        name: "supply",
        what: "licences, advisories, sources and duplicates of dependencies (cargo-deny, deny.toml)",
        is_checked: true,
        takes_rest: false,
        run: supply,
    },
    Task {
        name: "msrv",
        what: "it builds with the oldest Rust that Cargo.toml names (takes that toolchain)",
        is_checked: true,
        takes_rest: false,
        run: msrv,
    },
    Task {
        name: "minimal",
        what: "it builds with the oldest dependencies that Cargo.toml allows",
        is_checked: false,
        takes_rest: false,
        run: minimal,
    },
    Task {
        name: "publish",
        what: "cargo publish --dry-run: each package builds by itself",
        is_checked: false,
        takes_rest: false,
        run: publish,
    },
    Task {
        name: "test",
        what: "every test, as root; what can't run here fails. Arguments go to cargo test",
        is_checked: false,
        takes_rest: true,
        run: test,
    },
    Task {
        name: "vm",
        what: "tests on other kernels, in virtual machines. Arguments go to tests/vm/run",
        is_checked: false,
        takes_rest: true,
        run: vm,
    },
    Task {
        name: "bench",
        what: "the benchmark, as root. Arguments go to benches/run",
        is_checked: false,
        takes_rest: true,
        run: bench,
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

fn cargo(arguments: &str) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&program, &arguments.split(' ').collect::<Vec<_>>())
}

/// What a program prints, if it's there and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn skipped(why: impl Into<String>) -> Outcome {
    Ok(Done::Skipped(why.into()))
}

fn format(_: &[String]) -> Outcome {
    run(&mut cargo("fmt --all --check"))
}

fn lints(_: &[String]) -> Outcome {
    run(&mut cargo("clippy --workspace --all-targets --locked -- -D warnings"))?;
    // Not among all targets, since it's only for machines of its own.
    run(&mut cargo("clippy --test vm --locked -- -D warnings"))
}

fn unit(_: &[String]) -> Outcome {
    run(&mut cargo("test --workspace --locked --lib --bins"))?;
    run(&mut cargo("test --locked --test architecture --test documents"))
}

fn docs(_: &[String]) -> Outcome {
    run(cargo("doc --workspace --no-deps --locked --quiet").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Everything in git that says that it's a shell script.
fn scripts(_: &[String]) -> Outcome {
    if output(&mut command("shellcheck", &["--version"])).is_none() {
        return skipped("shellcheck isn't installed");
    }
    let Some(files) = output(&mut command("git", &["ls-files"])) else { return skipped("this is no git checkout") };
    let is_script = |name: &&str| {
        let first = fs::read(root().join(name)).unwrap_or_default();
        let first = first.split(|byte| *byte == b'\n').next().unwrap_or_default().to_owned();
        name.ends_with(".bash") || (first.starts_with(b"#!") && first.ends_with(b"sh"))
    };
    let scripts: Vec<&str> = files.lines().filter(is_script).collect();
    if scripts.is_empty() {
        return Err(Failed("no scripts were found".to_owned()));
    }
    // Those that are sourced share their variables; busybox' ash is checked as dash.
    run(command("shellcheck", &["--severity=warning", "--exclude=SC2034,SC2154,SC2187"]).args(scripts))
}

fn package(_: &[String]) -> Outcome {
    run(&mut cargo(
        "package --workspace --exclude vcgroupfs-testkit --exclude xtask --locked --no-verify --allow-dirty --quiet",
    ))
}

fn supply(_: &[String]) -> Outcome {
    if output(&mut cargo("deny --version")).is_none() {
        return skipped("cargo-deny isn't installed (cargo install --locked cargo-deny)");
    }
    run(&mut cargo("deny --locked check"))
}

/// The `rust-version` of the workspace.
fn oldest_rust() -> Result<String, Failed> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).map_err(|error| Failed(error.to_string()))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \""));
    let version = line.and_then(|rest| rest.split('"').next());
    version.map(str::to_owned).ok_or_else(|| Failed("Cargo.toml has no rust-version".to_owned()))
}

fn msrv(_: &[String]) -> Outcome {
    let version = oldest_rust()?;
    let list = output(&mut command("rustup", &["toolchain", "list"])).unwrap_or_default();
    let is_it = |name: &&str| name.strip_prefix(&*version).is_some_and(|rest| rest.starts_with(['-', '.']));
    let Some(toolchain) = list.split_whitespace().find(is_it) else {
        return skipped(format!("the toolchain isn't there (rustup toolchain install --profile minimal {version})"));
    };
    // By its own name for cargo, not by that of the cargo that runs this.
    let mut command =
        command("rustup", &["run", toolchain, "cargo", "check", "--workspace", "--all-targets", "--locked"]);
    run(command.arg("--target-dir").arg(own_target("msrv")).env_remove("CARGO").env_remove("RUSTC"))
}

/// What it takes of cargo is unstable: the resolver's option, and a lock file of its own for what that finds.
fn minimal(_: &[String]) -> Outcome {
    let folder = own_target("minimal");
    fs::create_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    let lock = folder.join("Cargo.lock");
    let _ = fs::remove_file(&lock);
    let lock = format!("resolver.lockfile-path='{}'", lock.display());
    let mut check = cargo("check --workspace --all-targets -Z direct-minimal-versions -Z lockfile-path --config");
    run(check.arg(lock).arg("--target-dir").arg(&folder).env("RUSTC_BOOTSTRAP", "1"))
}

/// A target directory beside the usual one's contents, so that neither makes the other build anew.
fn own_target(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(name)
}

fn publish(_: &[String]) -> Outcome {
    run(&mut cargo("publish --dry-run --workspace --locked"))
}

fn test(rest: &[String]) -> Outcome {
    run(cargo("test --workspace --locked --no-fail-fast").args(rest).env("VCGROUPFS_REQUIRE", "all"))
}

fn vm(rest: &[String]) -> Outcome {
    run(command("tests/vm/run", &[]).args(rest))
}

fn bench(rest: &[String]) -> Outcome {
    run(command("benches/run", &[]).args(rest))
}
