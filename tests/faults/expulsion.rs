//! A process that the host has taken out of the subtree stays out.
