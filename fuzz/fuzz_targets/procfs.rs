//! `/proc/TID/status` and `/proc/TID/stat` of a process that chose its name: the name can't pass for anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::{parse_processor, parse_running};
use vcgroupfs::host::{Status, parse_status};

/// As `proc_task_name()` of the kernel escapes a name in `status`.
fn escape(name: &[u8]) -> Vec<u8> {
    name.iter()
        .flat_map(|byte| match byte {
            b'\n' => b"\\n".to_vec(),
            b'\\' => b"\\\\".to_vec(),
            other => vec![*other],
        })
        .collect()
}

fuzz_target!(|data: (&[u8], [u32; 4], Vec<u32>, u64, u64, u16)| {
    let (name, users, groups, effective, permitted, number) = data;
    // A command has at most 15 bytes, and no NUL.
    let name: Vec<u8> = name.iter().copied().filter(|byte| *byte != 0).take(15).collect();
    let words = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join("\t");
    let mut status = b"Name:\t".to_vec();
    status.extend(escape(&name));
    status.extend(
        format!(
            "\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{number}\nUid:\t{}\nGid:\t0\t0\t0\t0\nGroups:\t{} \n\
             CapInh:\t0000000000000000\nCapPrm:\t{permitted:016x}\nCapEff:\t{effective:016x}\n",
            words(&users),
            words(&groups)
        )
        .bytes(),
    );
    let command = String::from_utf8_lossy(&escape(&name)).into_owned();
    let expected = Status { command, process_id: number.into(), users, groups, effective, permitted };
    assert_eq!(parse_status(&String::from_utf8_lossy(&status)), expected);

    let mut stat = format!("{number} (").into_bytes();
    stat.extend(&name);
    stat.extend(format!(") S {}{number} 0 0\n", "7 ".repeat(35)).bytes());
    assert_eq!(parse_processor(&String::from_utf8_lossy(&stat)), Some(number.into()));

    // Anything at all is read somehow.
    let text = String::from_utf8_lossy(&name);
    let _ = (parse_status(&text), parse_processor(&text), parse_running(&text));
});
