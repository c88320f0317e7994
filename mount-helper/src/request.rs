//! The messages between the server and an agent.
//!
//! One SOCK_SEQPACKET message each way, in native byte order and of fixed layout: both ends are
//! the same program on the same machine. Decoding is pure and total: any bytes give a message or
//! [`Malformed`], never a panic.
//!
//! | message | layout |
//! |---|---|
//! | request | kind u32, argument u32, value u64, deadline u64 (monotonic ns), then the payload |
//! | reply | result i32 (>= 0, or -errno), length u32, then that many bytes |
//! | hello | step u32 (0: ready), errno i32; the first message of a connection |
//!
//! Every request carries one descriptor (SCM_RIGHTS), a migration two, [`Request::GetOwners`] one for each number; no reply carries any.

/// The maximum number of bytes for one [`Request::Read`].
pub const MAX_READ: usize = 64 * 1024;
/// The maximum number of bytes of one [`Request::Write`]: the kernel refuses longer writes to a cgroup file (E2BIG).
pub const MAX_WRITE: usize = 4096;
/// The maximum number of descriptors for one [`Request::GetOwners`]: a message carries no more than 253
/// (`SCM_MAX_FD`).
pub const MAX_OWNERS: usize = sys::seqpacket::MAX_FILES;
/// Length of a number in the reply to [`Request::GetOwners`], in bytes.
pub const NUMBER_LEN: usize = 4;
/// Length of a request without its payload, in bytes.
pub const REQUEST_HEADER: usize = 24;
/// Length of a reply without its data, in bytes.
pub const REPLY_HEADER: usize = 8;
/// Length of a [`Hello`], in bytes.
pub const HELLO_LEN: usize = 8;

/// Bytes that no honest peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A request to an agent, with its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// pread(2). The reply carries the data.
    Read {
        /// The offset; at most `i64::MAX`.
        offset: u64,
        /// The maximum length; at most [`MAX_READ`].
        len: u32,
    },
    /// One write(2) at offset 0.
    Write {
        /// Whether CAP_SYS_NICE is effective: cpuset's migration checks it in the *writer*.
        nice: bool,
        /// The bytes; at most [`MAX_WRITE`].
        data: &'a [u8],
    },
    /// The same, if the process hasn't been migrated since it was seen: the second descriptor is its
    /// `/proc/TID/cgroup`, whose text has to be exactly `seen`. Otherwise nothing is written, and the reply is 0.
    Migrate {
        /// As for [`Request::Write`].
        nice: bool,
        /// The number of the process.
        number: &'a [u8],
        /// Its memberships; not empty, and together with the number at most [`MAX_WRITE`].
        seen: &'a [u8],
    },
    /// `fcntl(F_SETOWN_EX)` to the thread with this number: the kernel finds it in the agent's pid namespace, and
    /// `F_GETOWN_EX` tells the server its number there. It needs no privilege, and the answer comes from the kernel:
    /// an agent can only name threads in its own namespace.
    SetOwner {
        /// Thread id in the agent's pid namespace; > 0.
        number: i32,
    },
    /// The reverse, `fcntl(F_GETOWN_EX)` of each descriptor. The reply has the owners' numbers in the agent's pid
    /// namespace as `i32`, 0 for an owner that isn't in there. It needs no privilege either, and tells an agent
    /// nothing about another namespace.
    GetOwners {
        /// How many descriptors there are; 1 to [`MAX_OWNERS`].
        count: u32,
    },
}

const READ: u32 = 1;
const WRITE: u32 = 2;
const SET_OWNER: u32 = 3;
const MIGRATE: u32 = 4;
const GET_OWNERS: u32 = 5;
/// Bits of a [`MIGRATE`]'s argument: the lowest one is `nice`, the others are the length of `seen`.
const NICE: u32 = 1;

impl Request<'_> {
    /// Encodes the fixed part of the message; [`Self::payload`] follows it. From `deadline` (monotonic ns) on, the
    /// agent must not carry out the request any more.
    #[must_use]
    pub fn header(&self, deadline: u64) -> [u8; REQUEST_HEADER] {
        let (kind, argument, value) = match *self {
            Self::Read { offset, len } => (READ, len, offset),
            Self::Write { nice, data } => (WRITE, u32::from(nice), data.len() as u64),
            Self::Migrate { nice, number, seen } => {
                let length = u32::try_from(seen.len()).unwrap_or(u32::MAX);
                (MIGRATE, length << 1 | u32::from(nice), number.len() as u64)
            }
            Self::SetOwner { number } => (SET_OWNER, 0, u64::from(number.unsigned_abs())),
            Self::GetOwners { count } => (GET_OWNERS, count, 0),
        };
        let mut out = [0; REQUEST_HEADER];
        let fields = kind
            .to_ne_bytes()
            .into_iter()
            .chain(argument.to_ne_bytes())
            .chain(value.to_ne_bytes())
            .chain(deadline.to_ne_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }

    /// Returns the parts of the message after the header.
    #[must_use]
    pub fn payload(&self) -> [&[u8]; 2] {
        match self {
            Self::Write { data, .. } => [data, &[]],
            Self::Migrate { number, seen, .. } => [number, seen],
            Self::Read { .. } | Self::SetOwner { .. } | Self::GetOwners { .. } => [&[], &[]],
        }
    }

    /// Returns the number of descriptors that come with it.
    #[must_use]
    pub fn files(&self) -> usize {
        match self {
            Self::Migrate { .. } => 2,
            Self::GetOwners { count } => *count as usize,
            Self::Read { .. } | Self::Write { .. } | Self::SetOwner { .. } => 1,
        }
    }
}

/// Decodes a whole request. Returns the request and its deadline in monotonic ns.
///
/// # Errors
/// [`Malformed`] for anything that [`Request::header`] with legal values doesn't produce.
pub fn decode(message: &[u8]) -> Result<(Request<'_>, u64), Malformed> {
    let (kind, rest) = take_u32(message)?;
    let (argument, rest) = take_u32(rest)?;
    let (value, rest) = take_u64(rest)?;
    let (deadline, payload) = take_u64(rest)?;
    let request = match kind {
        READ => {
            let fits = argument as usize <= MAX_READ && i64::try_from(value).is_ok();
            if !fits || !payload.is_empty() {
                return Err(Malformed);
            }
            Request::Read { offset: value, len: argument }
        }
        WRITE => {
            let nice = match argument {
                0 => false,
                1 => true,
                _ => return Err(Malformed),
            };
            if payload.len() > MAX_WRITE || payload.len() as u64 != value {
                return Err(Malformed);
            }
            Request::Write { nice, data: payload }
        }
        MIGRATE => {
            let (nice, length) = (argument & NICE != 0, argument >> 1);
            let at = usize::try_from(value).map_err(|_| Malformed)?;
            let (number, seen) = payload.split_at_checked(at).ok_or(Malformed)?;
            if payload.len() > MAX_WRITE || seen.is_empty() || seen.len() != length as usize {
                return Err(Malformed);
            }
            Request::Migrate { nice, number, seen }
        }
        SET_OWNER => {
            let number = i32::try_from(value).map_err(|_| Malformed)?;
            if number == 0 || argument != 0 || !payload.is_empty() {
                return Err(Malformed);
            }
            Request::SetOwner { number }
        }
        GET_OWNERS => {
            if argument == 0 || argument as usize > MAX_OWNERS || value != 0 || !payload.is_empty() {
                return Err(Malformed);
            }
            Request::GetOwners { count: argument }
        }
        _ => return Err(Malformed),
    };
    Ok((request, deadline))
}

/// The fixed part of a reply.
#[must_use]
pub fn reply_header(result: i32, data_len: u32) -> [u8; REPLY_HEADER] {
    pair(result.to_ne_bytes(), data_len.to_ne_bytes())
}

/// Splits the fixed part of a reply into (result, length of the data). The caller checks whether they are plausible,
/// since that depends on the request.
#[must_use]
pub fn decode_reply(header: [u8; REPLY_HEADER]) -> (i32, u32) {
    let [a, b, c, d, e, f, g, h] = header;
    (i32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// The steps of starting an agent that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AgentStep {
    /// Closing inherited descriptors.
    Close = 1,
    /// Checking the descriptors that were passed.
    Check,
    /// Setting up the lifeline by which the server can end the agent.
    Lifeline,
    /// Joining the empty namespaces (mnt, net, ipc, uts).
    EnterEmpty,
    /// Joining the container's pid namespace: EINVAL if it isn't a descendant of the server's.
    EnterPid,
    /// Dropping privileges.
    Privileges,
    /// Making the agent itself: ENOMEM if the namespace's init has ended.
    Clone,
}

impl AgentStep {
    const ALL: [Self; 7] =
        [Self::Close, Self::Check, Self::Lifeline, Self::EnterEmpty, Self::EnterPid, Self::Privileges, Self::Clone];
}

/// The first message of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// The agent runs.
    Ready,
    /// The agent couldn't be started.
    Failed {
        /// The failed step.
        step: AgentStep,
        /// Its errno.
        errno: i32,
    },
}

impl Hello {
    /// The message as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HELLO_LEN] {
        match self {
            Self::Ready => [0; HELLO_LEN],
            Self::Failed { step, errno } => pair((step as u32).to_ne_bytes(), errno.to_ne_bytes()),
        }
    }

    /// Decodes a whole message.
    ///
    /// # Errors
    /// [`Malformed`] for a wrong length or an unknown step.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let (number, rest) = take_u32(message)?;
        let (errno, rest) = take_u32(rest)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        if number == 0 {
            return Ok(Self::Ready);
        }
        let step = AgentStep::ALL.into_iter().find(|step| *step as u32 == number).ok_or(Malformed)?;
        Ok(Self::Failed { step, errno: errno.cast_signed() })
    }
}

fn pair(first: [u8; 4], second: [u8; 4]) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first, second);
    [a, b, c, d, e, f, g, h]
}

fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    Ok((u32::from_ne_bytes(*head), rest))
}

fn take_u64(bytes: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
    Ok((u64::from_ne_bytes(*head), rest))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
