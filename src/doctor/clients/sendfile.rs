//! Programs that copy with sendfile(2) or splice(2): busybox `cat` and `cp`, Python's `shutil.copyfile`.

use crate::doctor::advice::remedy_for;
use crate::doctor::facts::{CopyCheck, Facts};
use crate::doctor::finding::Finding;

pub(crate) fn copies(facts: &Facts) -> Finding {
    let client = "busybox, Alpine (sendfile)";
    let Some((path, copied)) = &facts.copied else {
        return Finding::yes(
            client,
            "no file of a view was found to try: those of the kernel are copied as they are read",
        );
    };
    match copied {
        CopyCheck { by_read, by_sendfile } if by_read == by_sendfile => {
            Finding::yes(client, format!("sendfile(2) gives the {by_read} bytes of {path} that read(2) gives"))
        }
        CopyCheck { by_read, by_sendfile } if facts.is_dead(path) => {
            Finding::no(client, format!("{path}: {by_sendfile} of {by_read} bytes"), remedy_for(facts, path))
        }
        CopyCheck { by_read, by_sendfile } => Finding::wrong(
            client,
            format!(
                "sendfile(2) gives {by_sendfile} bytes of {path}, read(2) {by_read}: it copies too little, and says nothing"
            ),
            "read with dd, head or a shell's redirection ('read line < FILE')",
        ),
    }
}
