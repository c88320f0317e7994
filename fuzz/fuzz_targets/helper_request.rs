//! Messages to and from an agent: any bytes are a message or malformed, and a message comes back as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mount_helper::request::{Hello, MAX_OWNERS, MAX_READ, MAX_WRITE, Request, decode, decode_reply, reply_header};

fuzz_target!(|data: &[u8]| {
    if let Ok((request, deadline)) = decode(data) {
        let again = [&[&request.header(deadline)[..]], &request.payload()[..]].concat().concat();
        assert_eq!(again, data);
        match request {
            Request::Read { offset, len } => assert!(len as usize <= MAX_READ && i64::try_from(offset).is_ok()),
            Request::Write { data, .. } => assert!(data.len() <= MAX_WRITE),
            Request::Migrate { number, seen, .. } => {
                assert!(!seen.is_empty() && number.len() + seen.len() <= MAX_WRITE);
            }
            Request::SetOwner { number } => assert!(number > 0),
            Request::GetOwners { count } => assert!((1..=MAX_OWNERS).contains(&(count as usize))),
        }
    }
    if let Ok(hello) = Hello::decode(data) {
        let again = Hello::decode(&hello.encode());
        assert_eq!(again, Ok(hello));
    }
    if let Some(header) = data.first_chunk::<8>() {
        let (result, length) = decode_reply(*header);
        assert_eq!(reply_header(result, length), *header);
    }
});
