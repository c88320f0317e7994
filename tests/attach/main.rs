//! `attach` and `detach`: a view in a container that already runs.

mod bound;
mod clients;
mod ends;
mod failed;
mod failures;
mod flags;
mod hangs;
mod kinds;
mod legacy;
mod names;
mod prepared;
mod questions;
mod runtimes;
mod same_numbers;
mod scene;
mod server_fails;
mod unified;
