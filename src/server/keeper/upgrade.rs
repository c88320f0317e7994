//! How a keeper is asked to execute another program, and finds out whether it can.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::Error;
use crate::records::{self, Records};
use crate::server::activity;
use crate::server::control::{Answer, Client, ControlSocket, Offer, Request};
use crate::server::handover::check::Check;
use crate::server::handover::document::{VERSIONS, common_version, listed};
use crate::server::keeper::files::KEEPERS_DESCRIPTORS;
use crate::sys::descriptors::duplicate_above;

/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// An upgrade, from the request on.
#[derive(Debug, Default)]
pub(super) enum Upgrade {
    /// Nobody has asked.
    #[default]
    Idle,
    /// Somebody is asking.
    Asked(Client, Instant),
    /// The program looks at the state.
    Checked(Check, Accepted),
    /// It can take the view over.
    Ready(Accepted),
}

/// A program that shall take the view over.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) client: Client,
    pub(super) program: OwnedFd,
    /// The version of the state that both programs know.
    pub(super) version: u32,
}

impl Upgrade {
    /// What the next step waits for.
    pub(super) fn awaited<'a>(&'a self, control: Option<&'a ControlSocket>) -> Option<BorrowedFd<'a>> {
        match self {
            Self::Idle => control.map(ControlSocket::as_fd),
            Self::Asked(client, _) => Some(client.as_fd()),
            Self::Checked(check, _) => check.as_fd(),
            Self::Ready(_) => None,
        }
    }

    /// The process that looks at the state.
    pub(super) fn process(&self) -> Option<Pid> {
        match self {
            Self::Checked(check, _) => Some(check.process()),
            _ => None,
        }
    }

    /// The numbers of its descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let of = |accepted: &Accepted| [accepted.client.as_fd(), accepted.program.as_fd()].map(|file| file.as_raw_fd());
        match self {
            Self::Idle => Vec::new(),
            Self::Asked(client, _) => vec![client.as_fd().as_raw_fd()],
            Self::Checked(check, accepted) => {
                of(accepted).into_iter().chain(check.as_fd().map(|file| file.as_raw_fd())).collect()
            }
            Self::Ready(accepted) => of(accepted).to_vec(),
        }
    }

    /// How long it may wait.
    pub(super) fn left(&self) -> Duration {
        match self {
            Self::Asked(_, end) => end.saturating_duration_since(Instant::now()),
            Self::Checked(check, _) => check.left(),
            Self::Idle | Self::Ready(_) => Duration::MAX,
        }
    }

    /// Takes the next steps that need no waiting, for one client: others, who needn't be root of the host, must not keep the
    /// keeper busy here. `document` writes the state in a version. Who asks for something else is answered at once. Returns whether the program can take over now.
    pub(super) fn advance(
        &mut self,
        control: Option<&ControlSocket>,
        records: &Records,
        document: impl Fn(u32) -> io::Result<OwnedFd>,
    ) -> bool {
        let mut has_begun = false;
        loop {
            *self = match std::mem::take(self) {
                Self::Idle if has_begun => return false,
                Self::Idle => match control.and_then(ControlSocket::accept) {
                    Some(client) => match above(&client) {
                        Ok(client) => Self::Asked(client.into(), Instant::now() + REQUEST_TIMEOUT),
                        Err(_) => Self::Idle,
                    },
                    None => return false,
                },
                Self::Asked(client, end) => match client.request() {
                    Ok((Request::Upgrade(offer), program)) => start_check(client, &offer, program, &document),
                    Ok((Request::Activity(watch), _)) => {
                        activity::answer(client, records, &watch);
                        Self::Idle
                    }
                    Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) && end > Instant::now() => {
                        *self = Self::Asked(client, end);
                        return false;
                    }
                    Err(error) => {
                        client.answer(&Answer::Failed(format!("the keeper doesn't take the request: {error}")));
                        Self::Idle
                    }
                },
                Self::Checked(mut check, accepted) => match check.outcome() {
                    None => {
                        *self = Self::Checked(check, accepted);
                        return false;
                    }
                    Some(Ok(())) => Self::Ready(accepted),
                    Some(Err(error)) => refuse(accepted.client, &error),
                },
                ready @ Self::Ready(_) => {
                    *self = ready;
                    return true;
                }
            };
            has_begun = true;
        }
    }

    /// Ends it, since the view does.
    pub(super) fn break_off(&mut self, reason: &str) {
        match std::mem::take(self) {
            Self::Idle => {}
            Self::Asked(client, _) => client.answer(&Answer::Failed(reason.to_owned())),
            Self::Checked(_, accepted) | Self::Ready(accepted) => {
                accepted.client.answer(&Answer::Failed(reason.to_owned()));
            }
        }
    }

    /// The program that takes over now, if there's one.
    pub(super) fn take_ready(&mut self) -> Option<Accepted> {
        match std::mem::take(self) {
            Self::Ready(accepted) => Some(accepted),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Copies a descriptor to a number that no server uses: the keeper puts theirs back.
fn above(file: &impl AsFd) -> Result<OwnedFd, Errno> {
    duplicate_above(file.as_fd(), KEEPERS_DESCRIPTORS)
}

fn start_check(
    client: Client,
    offer: &Offer,
    program: Option<OwnedFd>,
    document: impl Fn(u32) -> io::Result<OwnedFd>,
) -> Upgrade {
    let started = check_offer(offer).and_then(|version| {
        let program = program.ok_or_else(|| Error::failed("no program came with the request"))?;
        let program = above(&program).map_err(|errno| Error::system("can't keep the new program", errno.into()))?;
        let state = document(version).map_err(|error| Error::system("can't write the state of the view", error))?;
        Ok((Check::start(program.as_fd(), state.as_fd())?, version, program))
    });
    match started {
        Ok((check, version, program)) => Upgrade::Checked(check, Accepted { client, program, version }),
        Err(error) => refuse(client, &error),
    }
}

/// Returns the version of the state to write.
fn check_offer(offer: &Offer) -> Result<u32, Error> {
    let version = common_version(&offer.state).ok_or_else(|| {
        let (theirs, own) = (listed(&offer.state), listed(VERSIONS));
        Error::failed(format!("the new program reads the state in version {theirs}, and this one writes {own}"))
    })?;
    if offer.records != records::FORMAT {
        let (theirs, own) = (offer.records, records::FORMAT);
        let what = format!("the new program works with records in format {theirs}, and these have format {own}");
        return Err(Error::failed(what));
    }
    Ok(version)
}

fn refuse(client: Client, error: &Error) -> Upgrade {
    tracing::warn!(%error, "no upgrade");
    client.answer(&Answer::Failed(error.to_string()));
    Upgrade::Idle
}
