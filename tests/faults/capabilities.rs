//! Writes with rights that the caller hasn't.
