//! A log never ends, slows or hangs a server.
