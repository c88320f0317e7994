//! What containers and users of the host can take from each other.
