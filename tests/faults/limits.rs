//! Limits that the host has set hold.
