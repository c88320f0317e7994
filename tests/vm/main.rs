//! stub
#[test]
fn it_boots() {}
