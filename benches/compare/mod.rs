//! The parts of the benchmark, and their order.

mod args;
mod guard;
mod host;
mod kills;
mod process;
mod report;
mod resources;
mod rounds;
mod rows;
mod site;
mod subject;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use args::Args;
use guard::CgroupTree;
use host::{Hierarchy, Programs, Version};
use report::Report;

const FAILED: u8 = 1;
const NOT_SUPPORTED: u8 = 3;
const NOT_PERMITTED: u8 = 4;

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let require_all = args::require_all();
    if let Err((status, reason)) = possible() {
        eprintln!("compare: SKIPPED: {reason}");
        // Where it comes along with all other targets, it is a test like others.
        let optional = !args.bench && !args.quick && !require_all;
        return if optional { ExitCode::SUCCESS } else { ExitCode::from(status) };
    }
    match run(&args, require_all) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::from(if guard::interrupted() { 130 } else { FAILED })
        }
    }
}

fn possible() -> Result<(), (u8, &'static str)> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err((NOT_PERMITTED, "it mounts and makes cgroups: run it as root"));
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        return Err((NOT_SUPPORTED, "there is no /dev/fuse"));
    }
    match Hierarchy::find() {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err((NOT_SUPPORTED, "neither the v1 pids hierarchy nor a v2 one is mounted")),
    }
}

fn run(args: &Args, require_all: bool) -> Result<ExitCode> {
    // The namespace first: threads and children get it from their maker.
    host::enter_namespace()?;
    guard::install()?;
    nix::sys::prctl::set_child_subreaper(true).context("become a subreaper")?;
    let plan = args.plan();
    let options = if args.no_passthrough { vec!["--no-passthrough"] } else { Vec::new() };
    let programs = Programs::find(args.program.clone(), args.before.clone(), options);
    let hierarchies = Hierarchy::find()?;
    if require_all && !hierarchies.iter().any(|hierarchy| hierarchy.version == Version::V1) {
        bail!("the v1 pids hierarchy isn't mounted, and VCGROUPFS_REQUIRE=all is set");
    }
    let mut report = Report::new(&plan, &programs);
    for (index, hierarchy) in hierarchies.iter().enumerate() {
        let name = format!("vcgroupfs-bench-{}", std::process::id());
        let base = CgroupTree::create(hierarchy.mountpoint.join(name))?;
        if !args.json {
            eprintln!("compare: measuring on {}, {} rounds", hierarchy.title(), plan.rounds);
        }
        report.tables.push(rounds::measure(&plan, &programs, hierarchy, &base)?);
        if index == 0 {
            if !args.json {
                eprintln!("compare: measuring memory, growth and kills on {}", hierarchy.title());
            }
            report.resources = Some(resources::measure(&plan, &programs, hierarchy, &base)?);
        }
    }
    report.faults.extend(end_leftovers());
    if args.json {
        report.print_json()?
    } else {
        report.print_text()?
    }
    let errors = report.errors(require_all);
    for error in &errors {
        eprintln!("compare: {error}");
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What a server leaves behind when it ends becomes the benchmark's child: a fault, and ended here.
fn end_leftovers() -> Vec<String> {
    let describe = |pid: u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let mut process = process::Process::adopt(pid);
        // A helper may take a moment to notice the end of its server.
        if process.wait(Duration::from_secs(3)).is_some() {
            return None;
        }
        process.terminate();
        Some(format!("a server left the process {} behind", name.trim()))
    };
    process::children().into_iter().filter_map(describe).collect()
}
