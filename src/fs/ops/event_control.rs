//! Events of a v1 memory cgroup: a write to `cgroup.event_control` (`memcg_write_event_control`).
//!
//! The written text has two descriptor numbers of the writer: an eventfd, and a control file of this view. The host
//! fetches the eventfd and finds out which file the control file is. It passes the kernel the numbers that another
//! process has for the same eventfd and for the backing control file. A number of the writer's never reaches the
//! kernel unchanged, where it would mean another file.
//!
//! A registration ends with the writer's eventfd or with the cgroup. The server keeps no state of it.

use nix::errno::Errno;

use crate::fs::host::Claim;
use crate::fs::inode::{Node, NodeId, Object};
use crate::fs::membership::pid_arg::trim;
use crate::fs::ops::file::WRITE_BYTES_MAX;
use crate::fs::ops::handles::OpenFile;
use crate::fs::{Caller, CgroupFs, FsError, FsResult, Host, OpenMode, Owner};
use crate::policy::Rule;

/// A malformed registration: the kernel returns `ENODEV` if the cgroup is gone, and `EINVAL` if it has events.
const NOTHING: &[u8] = b"x";

impl<H: Host> CgroupFs<H> {
    pub(in crate::fs) fn register_event(&self, caller: &Caller, file: &OpenFile<H>, data: &[u8]) -> FsResult<usize> {
        if data.len() > WRITE_BYTES_MAX {
            return Err(Errno::E2BIG.into());
        }
        if data.is_empty() {
            return Ok(0);
        }
        if caller.tid <= 0 {
            return Err(Rule::CallerInvisible.into());
        }
        if self.records.done_before().is_some() {
            return Ok(data.len());
        }
        self.try_register(caller, file, data).map_err(|failure| match failure {
            // The kernel reports a removed cgroup before any error in the text.
            FsError::Kernel(errno @ (Errno::EBADF | Errno::EINVAL | Errno::EACCES | Errno::ENOENT)) => {
                match self.host.write_invalid(&file.backing, NOTHING) {
                    Err(Errno::EINVAL) | Ok(_) => errno.into(),
                    Err(errno) => errno.into(),
                }
            }
            failure => failure,
        })?;
        Ok(data.len())
    }

    fn try_register(&self, caller: &Caller, file: &OpenFile<H>, data: &[u8]) -> FsResult<()> {
        let written = parse(data).ok_or(Errno::EINVAL)?;
        let claim = self.host.claim_event(caller, &file.backing, written.eventfd, written.control)?;
        // The kernel only has files of nodes that it was given. A file of another FUSE with the same node id as a
        // file of this cgroup would be taken for it. Whoever makes such a FUSE gains nothing that they couldn't have
        // had without it.
        let named = claim.control();
        let node = named.node.and_then(|id| self.nodes.get(NodeId::from_u64(id)));
        let node = node.filter(|node| are_siblings(node, &file.node));
        // Its mode may just have been changed.
        let (mode, owner) = match &node {
            Some(node) => {
                let found = self.host.attributes(node)?;
                (found.mode, Owner { uid: found.uid, gid: found.gid })
            }
            None => (named.mode, named.owner),
        };
        if !self.credentials(caller)?.may_read(mode, owner) {
            return Err(Errno::EACCES.into());
        }
        let node = node.ok_or(Errno::EINVAL)?;
        let control = self.host.open(&node, OpenMode { read: true, write: false, truncate: false }, None)?;
        self.records.once(|_| self.host.register_event(claim, &control, written.arguments).map(|()| 1))?;
        Ok(())
    }
}

/// Whether two files are of one cgroup, whichever entry path they were reached by.
fn are_siblings(a: &Node, b: &Node) -> bool {
    let directory = |node: &Node| Some((node.position().hierarchy?, node.parent()?.inode()));
    let is_file = |node: &Node| matches!(node.object(), Object::File(_));
    is_file(a) && is_file(b) && directory(a).is_some_and(|of_a| directory(b) == Some(of_a))
}

/// A registration, as it is written to `cgroup.event_control`.
#[derive(Debug, PartialEq, Eq)]
struct Registration<'a> {
    eventfd: u32,
    control: u32,
    arguments: &'a [u8],
}

/// Parses it as the kernel does: `strstrip`, `simple_strtoul`, a space, `simple_strtoul`, and a space or the end.
fn parse(data: &[u8]) -> Option<Registration<'_>> {
    let text = trim(data.split(|byte| *byte == 0).next().unwrap_or_default());
    let (eventfd, rest) = number(text);
    let (control, rest) = number(rest.strip_prefix(b" ")?);
    let arguments = if rest.is_empty() { rest } else { rest.strip_prefix(b" ")? };
    Some(Registration { eventfd, control, arguments })
}

/// Parses a number and returns the rest. The number is 0 if there are no digits and wraps around if there are too
/// many (`_parse_integer_limit`).
fn number(text: &[u8]) -> (u32, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    let next = |number: u64, digit: &u8| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
    (digits.iter().fold(0, next) as u32, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_kernel() {
        for (text, expected) in [
            ("5 6", Some((5, 6, ""))),
            (" 5 6 4096\n", Some((5, 6, "4096"))),
            ("5 6  a b ", Some((5, 6, " a b"))),
            ("5 6\x009", Some((5, 6, ""))),
            ("005 06 x", Some((5, 6, "x"))),
            ("4294967301 18446744073709551622", Some((5, 6, ""))),
            ("4294967295 0", Some((u32::MAX, 0, ""))),
            // No digits count as 0.
            ("5  6", Some((5, 0, "6"))),
            ("5", None),
            ("5 ", None),
            ("5\t6", None),
            ("5 6\n7", None),
            ("5 6x", None),
            ("-1 6", None),
            ("+5 6", None),
            ("0x5 6", None),
            ("", None),
            ("x", None),
            ("5,6", None),
        ] {
            let expected = expected.map(|(eventfd, control, arguments): (_, _, &str)| Registration {
                eventfd,
                control,
                arguments: arguments.as_bytes(),
            });
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn every_number_comes_back(eventfd: u32, control: u32, arguments in "[a-z0-9,]{0,8}") {
            let text = format!("{eventfd} {control} {arguments}\n");
            let arguments = arguments.as_bytes();
            prop_assert_eq!(parse(text.as_bytes()), Some(Registration { eventfd, control, arguments }));
        }
    }
}
