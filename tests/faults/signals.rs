//! Signals, mounts that are gone or pinned, a child that froze itself.
