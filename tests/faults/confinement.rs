//! What a live server may still do, and what it costs the host.
