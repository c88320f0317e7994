//! The table.

mod attributes;
mod directories;
mod events;
mod files;
mod found;
mod limits;
mod migration;
mod people;
mod v1;
mod v2;
mod waiting;

use crate::case::Case;

/// All cases.
pub(crate) fn table() -> Vec<Case> {
    [
        files::cases(),
        found::cases(),
        limits::cases(),
        attributes::cases(),
        directories::cases(),
        events::cases(),
        migration::cases(),
        people::cases(),
        v1::cases(),
        v2::cases(),
        waiting::cases(),
    ]
    .concat()
}
