//! The records of live views.
