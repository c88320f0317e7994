//! The tasks of `cargo xtask`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::dist::dist;
use crate::{Completion, Task, TaskError, TaskResult, run};

/// All tasks. Those of `check` come first, the fastest ones before the others.
pub(crate) const TASKS: &[Task] = &[
    Task {
        name: "format",
        description: "rustfmt has nothing to change",
        is_in_check: true,
        takes_arguments: false,
        run: format,
    },
    Task {
        name: "lints",
        description: "clippy has no complaint",
        is_in_check: true,
        takes_arguments: false,
        run: lints,
    },
    Task {
        name: "unit",
        description: "unit tests, property tests, and the rules for sources and documents",
        is_in_check: true,
        takes_arguments: false,
        run: unit,
    },
    Task {
        name: "docs",
        description: "rustdoc has no complaint",
        is_in_check: true,
        takes_arguments: false,
        run: docs,
    },
    Task {
        name: "scripts",
        description: "shellcheck has no complaint",
        is_in_check: true,
        takes_arguments: false,
        run: scripts,
    },
    Task {
        name: "package",
        description: "cargo package: each published package can be packed",
        is_in_check: true,
        takes_arguments: false,
        run: package,
    },
    Task {
        name: "supply",
        description: "licences, advisories, sources and duplicates of dependencies (cargo-deny, deny.toml)",
        is_in_check: true,
        takes_arguments: false,
        run: supply,
    },
    Task {
        name: "msrv",
        description: "builds with the oldest Rust that Cargo.toml names, if rustup has that toolchain",
        is_in_check: true,
        takes_arguments: false,
        run: msrv,
    },
    Task {
        name: "minimal",
        description: "builds with the oldest dependencies that Cargo.toml allows",
        is_in_check: false,
        takes_arguments: false,
        run: minimal,
    },
    Task {
        name: "fuzz",
        description: "the fuzz targets compile",
        is_in_check: false,
        takes_arguments: false,
        run: fuzz,
    },
    Task {
        name: "publish",
        description: "cargo publish --dry-run: each package builds by itself",
        is_in_check: false,
        takes_arguments: false,
        run: publish,
    },
    Task {
        name: "dist",
        description: "packages, archives, checksums and the list of what is in them, in target/dist",
        is_in_check: false,
        takes_arguments: false,
        run: dist,
    },
    Task {
        name: "test",
        description: "every test, as root; a test that can't run here fails. Arguments go to cargo test",
        is_in_check: false,
        takes_arguments: true,
        run: test,
    },
    Task {
        name: "vm",
        description: "tests on other kernels, in virtual machines. Arguments go to tests/vm/run",
        is_in_check: false,
        takes_arguments: true,
        run: vm,
    },
    Task {
        name: "bench",
        description: "the benchmark, as root. Arguments go to benches/run",
        is_in_check: false,
        takes_arguments: true,
        run: bench,
    },
];

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

pub(crate) fn cargo(arguments: &str) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&program, &arguments.split(' ').collect::<Vec<_>>())
}

/// The output of a program, if it's installed and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn skipped(why: impl Into<String>) -> TaskResult {
    Ok(Completion::Skipped(why.into()))
}

fn format(_: &[String]) -> TaskResult {
    run(&mut cargo("fmt --all --check"))
}

fn lints(_: &[String]) -> TaskResult {
    run(&mut cargo("clippy --workspace --all-targets --locked -- -D warnings"))?;
    // `--all-targets` leaves this one out, since it only runs in virtual machines.
    run(&mut cargo("clippy --test vm --locked -- -D warnings"))
}

fn unit(_: &[String]) -> TaskResult {
    run(&mut cargo("test --workspace --locked --lib --bins"))?;
    run(&mut cargo("test --locked --test architecture --test documents"))
}

fn docs(_: &[String]) -> TaskResult {
    run(cargo("doc --workspace --no-deps --locked --quiet").env("RUSTDOCFLAGS", "-D warnings"))
}

/// Checks every file in git that is a shell script by its name or its first line.
fn scripts(_: &[String]) -> TaskResult {
    if output(&mut command("shellcheck", &["--version"])).is_none() {
        return skipped("shellcheck isn't installed");
    }
    let Some(files) = output(&mut command("git", &["ls-files"])) else { return skipped("this isn't a git checkout") };
    let is_script = |name: &&str| {
        let first = fs::read(root().join(name)).unwrap_or_default();
        let first = first.split(|byte| *byte == b'\n').next().unwrap_or_default().to_owned();
        name.ends_with(".bash") || (first.starts_with(b"#!") && first.ends_with(b"sh"))
    };
    let scripts: Vec<&str> = files.lines().filter(is_script).collect();
    if scripts.is_empty() {
        return Err(TaskError("no scripts were found".to_owned()));
    }
    // Scripts that are sourced share their variables; busybox' ash is checked as dash.
    run(command("shellcheck", &["--severity=warning", "--exclude=SC2034,SC2154,SC2187"]).args(scripts))
}

fn package(_: &[String]) -> TaskResult {
    run(&mut cargo(
        "package --workspace --exclude dist-files --exclude vcgroupfs-testkit --exclude xtask --locked --no-verify --allow-dirty --quiet",
    ))
}

fn supply(_: &[String]) -> TaskResult {
    if output(&mut cargo("deny --version")).is_none() {
        return skipped("cargo-deny isn't installed (cargo install --locked cargo-deny)");
    }
    run(&mut cargo("deny --locked check licenses bans sources"))?;
    // Only the list of advisories is fetched; the rest is in Cargo.lock and in the packages.
    if output(&mut cargo("deny fetch db")).is_none() {
        return skipped("advisories: the advisory database can't be fetched; licences, duplicates and sources passed");
    }
    run(&mut cargo("deny --locked check --disable-fetch advisories"))
}

/// The `rust-version` of the workspace.
fn oldest_rust() -> Result<String, TaskError> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).map_err(|error| TaskError(error.to_string()))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \""));
    let version = line.and_then(|rest| rest.split('"').next());
    version.map(str::to_owned).ok_or_else(|| TaskError("Cargo.toml has no rust-version".to_owned()))
}

fn msrv(_: &[String]) -> TaskResult {
    let version = oldest_rust()?;
    let list = output(&mut command("rustup", &["toolchain", "list"])).unwrap_or_default();
    let is_it = |name: &&str| name.strip_prefix(&*version).is_some_and(|rest| rest.starts_with(['-', '.']));
    let Some(toolchain) = list.split_whitespace().find(is_it) else {
        return skipped(format!(
            "Rust {version} isn't installed (rustup toolchain install --profile minimal {version})"
        ));
    };
    // CARGO and RUSTC name the toolchain that runs this task.
    let mut command =
        command("rustup", &["run", toolchain, "cargo", "check", "--workspace", "--all-targets", "--locked"]);
    run(command.arg("--target-dir").arg(own_target("msrv")).env_remove("CARGO").env_remove("RUSTC"))
}

/// The resolver's option and the separate lock file are unstable features of cargo, hence RUSTC_BOOTSTRAP.
fn minimal(_: &[String]) -> TaskResult {
    let folder = own_target("minimal");
    fs::create_dir_all(&folder).map_err(|error| TaskError(format!("{}: {error}", folder.display())))?;
    let lock = folder.join("Cargo.lock");
    let _ = fs::remove_file(&lock);
    let lock = format!("resolver.lockfile-path='{}'", lock.display());
    let mut check = cargo("check --workspace --all-targets -Z direct-minimal-versions -Z lockfile-path --config");
    run(check.arg(lock).arg("--target-dir").arg(&folder).env("RUSTC_BOOTSTRAP", "1"))
}

/// A target directory for one task, so that its builds and the usual ones don't replace each other's.
fn own_target(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(name)
}

fn fuzz(_: &[String]) -> TaskResult {
    let mut check = cargo("check --manifest-path fuzz/Cargo.toml --locked --target-dir");
    // A library that is named isn't compiled, which would need a C++ compiler. Nothing is linked, so it needn't exist.
    run(check.arg(own_target("fuzz")).env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libFuzzer.a"))
}

fn publish(_: &[String]) -> TaskResult {
    run(&mut cargo("publish --dry-run --workspace --locked"))
}

fn test(rest: &[String]) -> TaskResult {
    run(cargo("test --workspace --locked --no-fail-fast").args(rest).env("VCGROUPFS_REQUIRE", "all"))
}

fn vm(rest: &[String]) -> TaskResult {
    run(command("tests/vm/run", &[]).args(rest))
}

fn bench(rest: &[String]) -> TaskResult {
    run(command("benches/run", &[]).args(rest))
}
