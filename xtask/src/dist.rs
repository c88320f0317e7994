//! What a release consists of, in `target/dist`: for each architecture a package for dpkg, one for rpm and an archive; the list of what is
//! in them (SBOM), and checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tasks::{cargo, command, output, root};
use crate::{Completion, TaskError, TaskResult, run};

/// The architectures, as Rust and as Debian names them.
const ARCHITECTURES: [(&str, &str); 2] = [("x86_64", "amd64"), ("aarch64", "arm64")];

/// What builds packages, with its argument for being asked.
const TOOLS: [&str; 3] = ["deb", "generate-rpm", "sbom"];

/// What an archive has besides the program.
const ARCHIVED: [&str; 9] = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs",
    "dist",
    "target/dist/files",
];

/// Builds all of it.
pub(crate) fn dist(_: &[String]) -> TaskResult {
    check_tools()?;
    let dist = root().join("target/dist");
    let _ = fs::remove_dir_all(&dist);
    fs::create_dir_all(&dist).map_err(|error| TaskError(format!("{}: {error}", dist.display())))?;
    run(cargo("run --quiet --locked --package dist-files --").arg(dist.join("files")))?;
    let version = version()?;
    for (architecture, debian) in ARCHITECTURES {
        let target = format!("{architecture}-unknown-linux-gnu");
        println!("{target}");
        build(&target)?;
        let deb = dist.join(format!("vcgroupfs_{version}_{debian}.deb"));
        run(cargo("deb --no-build --no-strip --quiet --target").arg(&target).arg("--output").arg(deb))?;
        let rpm = dist.join(format!("vcgroupfs-{version}.{architecture}.rpm"));
        run(cargo("generate-rpm --target").arg(&target).arg("--output").arg(rpm))?;
        archive(&dist, &target, &format!("vcgroupfs-{version}-{architecture}-linux"))?;
    }
    let list = output(&mut cargo("sbom --cargo-package vcgroupfs --output-format cyclone_dx_json_1_6"));
    let list = list.ok_or_else(|| TaskError("cargo sbom failed".to_owned()))?;
    fs::write(dist.join(format!("vcgroupfs-{version}.cdx.json")), list)
        .map_err(|error| TaskError(error.to_string()))?;
    write_checksums(&dist)
}

fn check_tools() -> Result<(), TaskError> {
    let is_missing = |tool: &&str| output(&mut cargo(&format!("{tool} --version"))).is_none();
    let missing: Vec<String> = TOOLS.into_iter().filter(is_missing).map(|tool| format!("cargo-{tool}")).collect();
    if !missing.is_empty() {
        return Err(TaskError(format!("missing: cargo install --locked {}", missing.join(" "))));
    }
    Ok(())
}

/// The version of the workspace.
fn version() -> Result<String, TaskError> {
    let id = output(&mut cargo("pkgid --package vcgroupfs")).unwrap_or_default();
    let version = id.trim().rsplit(['#', '@']).next().filter(|version| !version.is_empty());
    version.map(str::to_owned).ok_or_else(|| TaskError("cargo pkgid names no version".to_owned()))
}

/// Builds the program for an architecture. One that isn't this machine's needs the linker of that architecture.
fn build(target: &str) -> TaskResult {
    let mut build = cargo("build --release --locked --package vcgroupfs --bin vcgroupfs --target");
    let architecture = target.split('-').next().unwrap_or_default();
    if architecture != std::env::consts::ARCH {
        let linker = format!("{architecture}-linux-gnu-gcc");
        if output(&mut command(&linker, &["--version"])).is_none() {
            let package = format!("gcc-{}-linux-gnu", architecture.replace('_', "-"));
            return Err(TaskError(format!("{linker} isn't installed (Debian: {package} and its libc6-dev-*-cross)")));
        }
        let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        build.env(variable, linker);
        // Without rustup the standard library for it has to be there.
        let _ = run(&mut command("rustup", &["--quiet", "target", "add", target]));
    }
    run(build.arg(target))
}

/// Makes an archive that is the same whenever it's made from one commit.
fn archive(dist: &Path, target: &str, name: &str) -> TaskResult {
    let time = output(&mut command("git", &["log", "-1", "--format=%ct"])).unwrap_or_default();
    let mut tar = command("tar", &["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", time.trim().parse().unwrap_or(0_u64)));
    for (from, to) in [(format!("target/{target}/release/"), ""), ("target/dist/files/".to_owned(), "")] {
        tar.arg(format!("--transform=s,^{from},{to},"));
    }
    tar.arg(format!("--transform=s,^,{name}/,")).arg("--file").arg(dist.join(format!("{name}.tar.gz")));
    let program: PathBuf = format!("target/{target}/release/vcgroupfs").into();
    run(tar.arg(program).args(ARCHIVED))
}

fn write_checksums(dist: &Path) -> TaskResult {
    let mut names: Vec<String> = fs::read_dir(dist)
        .map_err(|error| TaskError(error.to_string()))?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let sums = output(Command::new("sha256sum").args(&names).current_dir(dist));
    let sums = sums.ok_or_else(|| TaskError("sha256sum failed".to_owned()))?;
    fs::write(dist.join("SHA256SUMS"), sums).map_err(|error| TaskError(error.to_string()))?;
    println!("{}", names.join("\n"));
    Ok(Completion::Passed)
}
