//! The live views that are watched, as they come and go.

use std::time::{Duration, Instant};

use crate::activity::counters::Counted;
use crate::activity::{Event, Follower, Number, RequestKind};
use crate::error::{Error, ErrorKind};
use crate::message::say;
use crate::server::activity::ViewActivity;
use crate::server::control::WATCH_TIME;
use crate::server::registry;
use crate::server::registry::record::Record;

/// How often the list of views is read, and watching renewed: several times in the time for which it counts.
const INTERVAL: Duration = Duration::from_secs(1);

/// A live view that is watched.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) record: Record,
    activity: ViewActivity,
    follower: Follower,
    /// What was counted before.
    before: Vec<Counted>,
    /// How many missed requests were told of.
    told_missed: u64,
    /// The last time that watching was renewed.
    renewed: Renewal,
    /// How many requests came while watching wasn't renewed in time.
    unwatched: u64,
}

/// A time at which watching was renewed.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    time: Instant,
    /// How many requests were counted and noted by then.
    counted: u64,
    noted: u64,
}

impl Renewal {
    fn now(activity: &ViewActivity) -> Self {
        let counted = counted(activity).iter().map(|counted| counted.all).sum();
        Self { time: Instant::now(), counted, noted: activity.reader.noted() }
    }

    /// How many requests since an earlier one weren't noted.
    fn unnoted_since(&self, earlier: &Self) -> u64 {
        self.counted.saturating_sub(earlier.counted).saturating_sub(self.noted.saturating_sub(earlier.noted))
    }
}

impl Followed {
    fn begin(record: Record, requests: bool) -> Result<Self, Error> {
        let activity = ViewActivity::of(&record, requests)?;
        let follower = activity.reader.follow();
        let before = counted(&activity);
        let renewed = Renewal::now(&activity);
        Ok(Self { record, activity, follower, before, told_missed: 0, renewed, unwatched: 0 })
    }

    /// Has the server go on to note requests. An error passes: a keeper that starts a server doesn't answer meanwhile.
    fn renew(&mut self, requests: bool) {
        let Ok(is_other) = self.activity.renew(&self.record, requests) else { return };
        let now = Renewal::now(&self.activity);
        let before = std::mem::replace(&mut self.renewed, now);
        if requests && !is_other && now.time.duration_since(before.time) >= WATCH_TIME {
            self.unwatched += now.unnoted_since(&before);
        }
        if is_other {
            self.follower = self.activity.reader.follow();
            self.told_missed = 0;
            self.before = vec![Counted::default(); RequestKind::ALL.len()];
        }
    }

    /// The requests that have come since the last call.
    pub(super) fn take(&mut self) -> Vec<Event> {
        self.follower.take(&self.activity.reader)
    }

    /// How many requests were missed since the last call.
    pub(super) fn take_missed(&mut self) -> u64 {
        let missed = self.follower.missed();
        missed - std::mem::replace(&mut self.told_missed, missed) + std::mem::take(&mut self.unwatched)
    }

    /// How many files are open in the server.
    pub(super) fn open_files(&self) -> u64 {
        self.activity.reader.number(Number::OpenFiles)
    }

    /// What has been counted of each kind since this began to follow.
    pub(super) fn counted(&self) -> Vec<(RequestKind, Counted)> {
        let since = counted(&self.activity).into_iter().zip(&self.before).map(|(now, before)| now.since(before));
        RequestKind::ALL.into_iter().zip(since).collect()
    }
}

fn counted(activity: &ViewActivity) -> Vec<Counted> {
    RequestKind::ALL.iter().map(|kind| activity.reader.counted(*kind)).collect()
}

/// All views that are watched.
#[derive(Debug)]
pub(super) struct FollowedViews {
    /// The view of the TARGET, by its process; `None` for all.
    only: Option<u32>,
    /// Whether their servers note each request.
    requests: bool,
    pub(super) views: Vec<Followed>,
    /// Those that have ended, for a summary.
    pub(super) ended: Vec<Followed>,
    /// Those that can't be watched, which was said.
    refused: Vec<u32>,
    last_look: Instant,
}

impl FollowedViews {
    /// Begins to watch the view of a TARGET, or all views.
    ///
    /// # Errors
    /// If the view can't be watched, or the list of views can't be read.
    pub(super) fn begin(target: Option<Record>, requests: bool) -> Result<Self, Error> {
        let only = target.as_ref().map(|record| record.pid);
        let views = target.map(|record| Followed::begin(record, requests)).transpose()?.into_iter().collect();
        let mut all = Self { only, requests, views, ended: Vec::new(), refused: Vec::new(), last_look: Instant::now() };
        if all.only.is_none() {
            all.look()?;
            if all.views.is_empty() {
                say("there is no live view that can be watched; waiting for one");
            }
        }
        Ok(all)
    }

    /// Reads the list of views again if that's due, and renews watching. Returns false once the view of the TARGET has ended.
    ///
    /// # Errors
    /// If the list of views can't be read.
    pub(super) fn refresh(&mut self) -> Result<bool, Error> {
        if self.last_look.elapsed() >= INTERVAL {
            self.look()?;
        }
        Ok(self.only.is_none() || !self.views.is_empty())
    }

    fn look(&mut self) -> Result<(), Error> {
        let live =
            registry::live_records().map_err(|error| Error::system("can't read the list of live views", error))?;
        let is_live = |view: &Followed| live.iter().any(|record| record.pid == view.record.pid);
        let (views, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.views).into_iter().partition(is_live);
        self.views = views;
        self.ended.extend(ended);
        for view in &mut self.views {
            // Another server may serve it.
            if let Some(now) = live.iter().find(|record| record.pid == view.record.pid) {
                view.record = now.clone();
            }
            view.renew(self.requests);
        }
        for record in live.into_iter().filter(|_| self.only.is_none()) {
            let pid = record.pid;
            if self.refused.contains(&pid) || self.views.iter().any(|view| view.record.pid == pid) {
                continue;
            }
            match Followed::begin(record, self.requests) {
                Ok(view) => self.views.push(view),
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotPermitted) => {
                    say(error.message());
                    self.refused.push(pid);
                }
                // It may be upgraded at this moment: the next look tries again.
                Err(_) => {}
            }
        }
        self.last_look = Instant::now();
        Ok(())
    }
}
