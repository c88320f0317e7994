//! Entry point of the stand-alone helper.
fn main() {}
