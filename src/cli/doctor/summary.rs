//! The summary, which fits a screen: what this is, what is wrong, what to do, and the programs that matter here.

use super::answer::Answer;
use crate::cgroup::escaped;
use crate::cli::text::{COLUMNS, wrap};
use crate::doctor::clients::CLIENTS;
use crate::doctor::facts::{ROOT, point};
use crate::doctor::finding::{Finding, General, Level, Recognition, Remedy, list};
use crate::doctor::general;
use crate::doctor::programs::{FoundProgram, Relevance};

/// The height of the summary in lines.
const LINES: usize = 25;

/// The width of the first column.
const INDENT: usize = 10;

/// The most lines that a text of one finding takes.
const TEXT_LINES: usize = 3;

/// A finding as lines, whole and in short.
struct Block {
    /// How much it matters. The lowest come first if there isn't room for all.
    rank: u8,
    lines: Vec<String>,
    short: Vec<String>,
}

/// Makes the lines of the summary. `--only-bad` leaves out what works.
pub(super) fn lines(answer: Answer<'_>) -> Vec<String> {
    let mut lines = head(answer);
    let blocks = blocks(answer);
    let ok = if answer.only_bad { Vec::new() } else { working(answer) };
    lines.push(String::new());
    // One line for what there isn't room for.
    let room = LINES.saturating_sub(lines.len() + ok.len() + 1);
    let (shown, hidden) = choose(&blocks, room);
    lines.extend(shown);
    lines.extend(ok);
    lines.extend(labelled("more", &more(answer, hidden)).into_iter().take(1));
    lines
}

/// What this is: the container, its view, its limits, and how many findings there are.
fn head(answer: Answer<'_>) -> Vec<String> {
    let facts = answer.facts;
    let setup = general::setup(facts).map_or_else(|| "no hierarchies".to_owned(), |setup| setup.to_string());
    let namespace = match facts.process.cgroup_namespace {
        Some(true) => "a cgroup namespace of its own",
        Some(false) => "the host's cgroup namespace",
        None => "no cgroup namespaces on this kernel",
    };
    let command = escaped(&facts.process.command);
    let process = format!("{} ({command}), {setup}, {namespace}", answer.pid);
    let views: Vec<String> = facts.views().map(point).collect();
    let views = if views.is_empty() { "none".to_owned() } else { list(&views) };
    let view = format!("{}; {ROOT} {}", escaped(views), facts.type_of(ROOT));
    let limits = super::print::limits(answer.limits);
    let parts = [("process", process), ("view", view), ("limits", limits), ("verdict", verdict(answer))];
    parts.iter().flat_map(|(label, text)| cut(labelled(label, text), 2)).collect()
}

/// How much is wrong, in one sentence.
fn verdict(answer: Answer<'_>) -> String {
    let count = |level: Level| answer.general.iter().filter(|finding| finding.level == level).count();
    let number = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let which = if answer.names.is_empty() { "that runs here" } else { "that you named" };
    let parts = [
        number(count(Level::Problem), "problem", "problems"),
        number(count(Level::Warning), "warning", "warnings"),
        number(answer.bad_clients(), "kind of program", "kinds of programs").map(|text| {
            let verb = if text.starts_with("1 ") { "doesn't" } else { "don't" };
            format!("{text} {which} {verb} work right")
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing is wrong".to_owned() } else { parts.join(", ") }
}

/// What is wrong, by how much it matters.
fn blocks(answer: Answer<'_>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for finding in answer.general.iter().filter(|finding| finding.level != Level::Note) {
        blocks.push(block_of(finding));
    }
    let mut told: Vec<&str> = Vec::new();
    for program in answer.programs.iter().filter(|program| program.is_of_unknown_version()) {
        if answer.names.is_empty() {
            told.extend(&program.clients);
            blocks.extend(ambiguous(answer, program));
        }
    }
    let single = answer.shown().filter(|(client, _)| !told.contains(&client.client));
    for (client, relevance) in single.filter(|(client, _)| client.recognised != Recognition::Yes) {
        let rank = if relevance == Some(Relevance::Installed) { 3 } else { 1 };
        let text = format!("{}{}: {}", client.client, evidence(answer, client, relevance), client.why);
        blocks.push(block(rank, &super::print::word(&client.recognised), &text, client.advice.as_deref(), &[]));
    }
    blocks.sort_by_key(|block| block.rank);
    blocks
}

fn block_of(finding: &General) -> Block {
    let rank = if finding.level == Level::Problem { 0 } else { 2 };
    let word = super::print::word(&finding.level);
    block(rank, &word, &finding.what, finding.advice.as_deref(), &finding.commands)
}

fn block(rank: u8, word: &str, text: &str, advice: Option<&str>, commands: &[Remedy]) -> Block {
    let text = labelled(word, &escaped(text));
    let commands: Vec<String> = commands.iter().flat_map(command).collect();
    let advice = advice.map(|advice| labelled("", &format!("-> {}", escaped(advice)))).unwrap_or_default();
    let short = cut(text.clone(), 1).into_iter().chain(commands.clone()).collect();
    let lines = cut(text, TEXT_LINES).into_iter().chain(cut(advice, TEXT_LINES)).chain(commands).collect();
    Block { rank, lines, short }
}

/// A command as lines that can be copied: on one, or else with a backslash at the end of each but the last.
fn command(remedy: &Remedy) -> Vec<String> {
    let lead = format!("{:INDENT$}{}: ", "", remedy.label());
    let whole = format!("{lead}{}", remedy.command);
    if whole.chars().count() <= COLUMNS {
        return vec![whole];
    }
    let too_long = || vec![format!("{lead}the command is too long for a line, '--all' has it")];
    // Within quotes a backslash would stand for itself.
    if remedy.command.contains(['\'', '"']) {
        return too_long();
    }
    let mut lines = vec![lead.trim_end().to_owned()];
    for word in remedy.command.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() + 3 <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            Some(line) => {
                line.push_str(" \\");
                lines.push(format!("{:width$}{word}", "", width = INDENT + 2));
            }
            None => {}
        }
    }
    if lines.iter().all(|line| line.len() <= COLUMNS) { lines } else { too_long() }
}

/// A program in several versions, of which some don't work.
fn ambiguous(answer: Answer<'_>, program: &FoundProgram) -> Option<Block> {
    let rows = answer.clients.iter().filter(|client| program.clients.contains(&client.client));
    let (good, bad): (Vec<&Finding>, Vec<&Finding>) = rows.partition(|client| client.recognised == Recognition::Yes);
    let first = bad.first()?;
    let names = |rows: &[&Finding]| {
        let short = rows.iter().map(|row| row.client.strip_prefix(program.program).unwrap_or(row.client).trim_start());
        short.collect::<Vec<_>>().join("; ")
    };
    let relevance = if program.pid.is_some() { Relevance::Running } else { Relevance::Installed };
    let evidence = evidence(answer, first, Some(relevance));
    let rank = if program.pid.is_some() { 1 } else { 3 };
    if good.is_empty() {
        let text = format!("{}{evidence}: no version works: {}", program.program, first.why);
        return Some(block(rank, &super::print::word(&first.recognised), &text, first.advice.as_deref(), &[]));
    }
    let text = format!(
        "{}{evidence}: depends on its version, which isn't known: works: {}, doesn't: {}",
        program.program,
        names(&good),
        names(&bad)
    );
    let advice = format!("--client '{}' says why", program.program.to_lowercase());
    Some(block(rank, &super::print::word(&Recognition::Partly), &text, Some(&advice), &[]))
}

/// Why a client is shown.
fn evidence(answer: Answer<'_>, client: &Finding, relevance: Option<Relevance>) -> String {
    let program = answer.programs.iter().find(|program| program.clients.contains(&client.client));
    match (relevance, program) {
        (Some(Relevance::Running), Some(FoundProgram { pid: Some(pid), processes: 1, .. })) => {
            format!(" (process {pid})")
        }
        (Some(Relevance::Running), Some(FoundProgram { pid: Some(pid), processes, .. })) => {
            format!(" (process {pid} and {} more)", processes - 1)
        }
        (Some(Relevance::Installed), _) => " (installed)".to_owned(),
        _ => String::new(),
    }
}

/// The programs that work: those that run here or are named, with what they take, then those that are installed.
fn working(answer: Answer<'_>) -> Vec<String> {
    let good = answer.shown().filter(|(client, _)| client.recognised == Recognition::Yes);
    let good: Vec<&Finding> = good
        .filter(|(_, relevance)| *relevance != Some(Relevance::Installed) || !answer.names.is_empty())
        .map(|(client, _)| client)
        .collect();
    // Those that are asked for have a line of their own each, as long as there aren't too many.
    let mut lines = if answer.names.is_empty() || good.len() > TEXT_LINES {
        let names: Vec<String> = good.iter().map(|client| format!("{}{}", client.client, taken(client))).collect();
        cut(labelled("ok", &names.join("; ")), TEXT_LINES)
    } else {
        let line = |client: &&Finding| {
            cut(labelled("ok", &format!("{}: {}", client.client, escaped(&client.why))), TEXT_LINES)
        };
        good.iter().flat_map(line).collect()
    };
    if answer.names.is_empty() {
        let is_good = |client: &&str| {
            answer.clients.iter().any(|one| one.client == *client && one.recognised == Recognition::Yes)
        };
        let idle =
            answer.programs.iter().filter(|program| program.pid.is_none() && program.clients.iter().all(is_good));
        let idle: Vec<&str> = idle.map(|program| program.program).collect();
        if !idle.is_empty() {
            lines.extend(cut(labelled("ok", &format!("installed, in any version: {}", idle.join(", "))), 1));
        }
    }
    let none = "no program that is known runs here or is installed: --client NAME judges one, --all every one";
    if answer.shown().next().is_none() { labelled("programs", none) } else { lines }
}

/// The numbers that a program takes.
fn taken(client: &Finding) -> String {
    let values: Vec<String> = client.numbers.iter().map(|number| number.quantity.of(number.taken.value)).collect();
    if values.is_empty() { String::new() } else { format!(" takes {}", values.join(", ")) }
}

/// Chooses the blocks that fit into `room` lines. Returns their lines, and how many blocks are left out.
fn choose(blocks: &[Block], room: usize) -> (Vec<String>, usize) {
    let mut left = room;
    let mut shown = Vec::new();
    let mut hidden = 0;
    for (index, block) in blocks.iter().enumerate() {
        // What comes later has a line each, as long as there's room.
        let later = blocks.len().saturating_sub(index + 1).min(left / 3);
        let chosen = [&block.lines, &block.short].into_iter().find(|lines| lines.len() + later <= left);
        match chosen.or_else(|| Some(&block.short).filter(|lines| lines.len() <= left)) {
            Some(lines) => {
                left -= lines.len();
                shown.extend(lines.iter().cloned());
            }
            None => hidden += 1,
        }
    }
    (shown, hidden)
}

/// What else there is to see.
fn more(answer: Answer<'_>, hidden: usize) -> String {
    let notes = answer.general.iter().filter(|finding| finding.level == Level::Note).count();
    let notes = if notes == 1 { "1 note".to_owned() } else { format!("{notes} notes") };
    let hidden = if hidden > 0 { format!("{hidden} more findings, ") } else { String::new() };
    format!("--all: {hidden}{notes}, all {} kinds of programs; --client NAME: one of them", CLIENTS.len())
}

/// Wraps a text behind a label.
fn labelled(label: &str, text: &str) -> Vec<String> {
    let wrapped = wrap(text, COLUMNS - INDENT).into_iter().enumerate();
    let lines = wrapped.map(|(index, line)| format!("{:<INDENT$}{line}", if index == 0 { label } else { "" }));
    lines.collect()
}

/// Leaves out the lines of a text that are too many.
fn cut(mut lines: Vec<String>, most: usize) -> Vec<String> {
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            let kept: String = last.chars().take(COLUMNS - 4).collect();
            *last = format!("{} ...", kept.trim_end());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Facts;
    use crate::doctor::finding::general;
    use crate::doctor::layouts::{Kind, Variant, legacy};
    use crate::doctor::verdict::{self, judge};
    use proptest::prelude::*;

    fn finding(level: Level, what: &str, advice: &str, commands: usize) -> General {
        let command = format!("echo 1 > /sys/fs/cgroup/{}/x", what.replace(' ', "-"));
        general("x", level, what, Some(advice)).with_commands(vec![Remedy::on_host(command); commands])
    }

    fn shown(general: &[General], programs: &[FoundProgram], names: &[String]) -> Vec<String> {
        shown_of(&Facts::default(), general, programs, names)
    }

    fn shown_of(facts: &Facts, general: &[General], programs: &[FoundProgram], names: &[String]) -> Vec<String> {
        let clients = judge(facts, verdict::HostContext::default());
        let (pid, limits, only_bad) = (1, None, false);
        lines(Answer { pid, facts, limits, general, clients: &clients, programs, names, only_bad })
    }

    fn program(name: &'static str, pid: Option<i32>, clients: &[&'static str]) -> FoundProgram {
        FoundProgram { program: name, pid, processes: 2, version: None, clients: clients.to_vec() }
    }

    proptest! {
        #[test]
        fn it_fits_a_screen(
            findings in prop::collection::vec((0..3_u8, "[a-z ]{1,400}", "[a-z \u{1b}]{0,300}", 0..4_usize), 0..20),
            count in 0..40_usize,
            is_named in any::<bool>(),
        ) {
            let levels = [Level::Problem, Level::Warning, Level::Note];
            let general: Vec<General> = findings
                .iter()
                .map(|(level, what, advice, commands)| finding(levels[usize::from(*level)], what, advice, *commands))
                .collect();
            let all: Vec<&'static str> = CLIENTS.iter().map(|client| client.name).collect();
            let programs: Vec<FoundProgram> =
                all.iter().take(count).map(|client| program("x", Some(7), &[client])).collect();
            let names = if is_named { vec!["e".to_owned()] } else { Vec::new() };
            let lines = shown(&general, &programs, &names);
            prop_assert!(lines.len() <= LINES, "{lines:#?}");
            prop_assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:#?}");
            prop_assert!(!lines.iter().any(|line| line.chars().any(char::is_control)), "{lines:#?}");
        }
    }

    #[test]
    fn the_worst_comes_first_and_what_is_left_out_is_counted() {
        let long = "word ".repeat(80);
        let mut general: Vec<General> = (0..12).map(|_| finding(Level::Warning, &long, &long, 1)).collect();
        general.insert(0, finding(Level::Problem, "the server is dead", "start it", 1));
        let lines = shown(&general, &[program("crun", Some(7), &["crun"])], &[]);
        let position = |text: &str| lines.iter().position(|line| line.contains(text));
        assert!(position("problem   the server is dead") < position("crun (process 7 and 1 more)"), "{lines:#?}");
        assert!(position("crun") < position("warning   word word"), "{lines:#?}");
        assert!(lines.iter().any(|line| line == "          run: echo 1 > /sys/fs/cgroup/the-server-is-dead/x"));
        assert!(lines.last().is_some_and(|line| line.contains(" more findings, 0 notes")), "{lines:#?}");
    }

    #[test]
    fn long_commands_are_continued() {
        let path = format!("/sys/fs/cgroup/{}", "x".repeat(70));
        let lines = command(&Remedy::on_host(format!("echo 1 | tee {path} {path}")));
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[..2].iter().all(|line| line.ends_with(" \\")), "{lines:#?}");
        let typed = lines.join("\n").trim_start().strip_prefix("run: ").unwrap().to_owned();
        let echo = std::process::Command::new("sh").args(["-c", &typed.replace("tee", "echo")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&echo.stdout), format!("{path} {path}\n"));
        for command_line in [format!("echo '{path} {path}'"), format!("echo {}", "x".repeat(200))] {
            assert!(command(&Remedy::on_host(command_line))[0].contains("'--all' has it"));
        }
    }

    #[test]
    fn a_program_of_unknown_version_is_one_line() {
        let rows: Vec<&'static str> =
            CLIENTS.iter().map(|client| client.name).filter(|name| name.starts_with("systemd ")).collect();
        let programs = [program("systemd", None, &rows)];
        let has = |lines: &[String], text: &str| lines.iter().any(|line| line.contains(text));
        let stack = legacy(Kind::Stack, Variant::default());
        let some = shown_of(&stack, &[], &programs, &[]);
        assert!(
            has(&some, "partly    systemd (installed): depends on its version, which isn't known: works:"),
            "{some:#?}"
        );
        assert!(has(&some, "verdict   nothing is wrong"), "{some:#?}");
        let none = shown(&[], &programs, &[]);
        assert!(has(&none, "no        systemd (installed): no version works: "), "{none:#?}");
        let named = shown(&[], &programs, &["systemd >= 258".to_owned()]);
        assert!(has(&named, "1 kind of program that you named doesn't work right"), "{named:#?}");
        let running = shown(&[], &[program("systemd", Some(7), &rows)], &[]);
        assert!(has(&running, "1 kind of program that runs here doesn't work right"), "{running:#?}");
    }
}
