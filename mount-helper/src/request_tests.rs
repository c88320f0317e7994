//! The messages that the decoder accepts and refuses.

use super::*;

fn whole(request: &Request<'_>, deadline: u64) -> Vec<u8> {
    let mut bytes = request.header(deadline).to_vec();
    bytes.extend(request.payload().concat());
    bytes
}

fn raw(kind: u32, argument: u32, value: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&argument.to_ne_bytes());
    bytes.extend_from_slice(&value.to_ne_bytes());
    bytes.extend_from_slice(&7u64.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn requests_survive_the_wire() {
    let longest = vec![b'x'; MAX_WRITE];
    for request in [
        Request::Read { offset: 0, len: 0 },
        Request::Read { offset: i64::MAX as u64, len: MAX_READ as u32 },
        Request::Write { nice: false, data: b"" },
        Request::Write { nice: true, data: b"7\n" },
        Request::Write { nice: true, data: &longest },
        Request::Migrate { nice: false, number: b"7", seen: b"0::/\n" },
        Request::Migrate { nice: true, number: b"", seen: &longest },
        Request::SetOwner { number: 1 },
        Request::SetOwner { number: i32::MAX },
        Request::GetOwners { count: 1 },
        Request::GetOwners { count: MAX_OWNERS as u32 },
    ] {
        for deadline in [0, 1, u64::MAX] {
            assert_eq!(decode(&whole(&request, deadline)), Ok((request, deadline)));
        }
    }
}

#[test]
fn malformed_requests_are_refused() {
    let too_long = vec![0; MAX_WRITE + 1];
    for (why, bytes) in [
        ("kind 0", raw(0, 0, 0, b"")),
        ("kind 6", raw(6, 0, 1, b"")),
        ("read: too long", raw(READ, MAX_READ as u32 + 1, 0, b"")),
        ("read: negative offset", raw(READ, 1, u64::MAX, b"")),
        ("read: payload", raw(READ, 1, 0, b"x")),
        ("write: flag", raw(WRITE, 2, 1, b"x")),
        ("write: length lies", raw(WRITE, 0, 2, b"x")),
        ("write: too long", raw(WRITE, 0, MAX_WRITE as u64 + 1, &too_long)),
        ("migrate: nothing seen", raw(MIGRATE, 1, 1, b"7")),
        ("migrate: length lies", raw(MIGRATE, 5 << 1, 1, b"70::/")),
        ("migrate: other length lies", raw(MIGRATE, 4 << 1, 6, b"70::/")),
        ("migrate: endless length", raw(MIGRATE, 4 << 1, u64::MAX, b"70::/")),
        ("migrate: too long", raw(MIGRATE, (MAX_WRITE as u32) << 1, 1, &too_long)),
        ("set owner: 0", raw(SET_OWNER, 0, 0, b"")),
        ("set owner: too big", raw(SET_OWNER, 0, 1 << 31, b"")),
        ("set owner: argument", raw(SET_OWNER, 1, 1, b"")),
        ("set owner: payload", raw(SET_OWNER, 0, 1, b"x")),
        ("get owners: none", raw(GET_OWNERS, 0, 0, b"")),
        ("get owners: too many", raw(GET_OWNERS, MAX_OWNERS as u32 + 1, 0, b"")),
        ("get owners: value", raw(GET_OWNERS, 1, 1, b"")),
        ("get owners: payload", raw(GET_OWNERS, 1, 0, b"x")),
    ] {
        assert_eq!(decode(&bytes), Err(Malformed), "{why}");
    }
}

#[test]
fn every_shortened_request_is_refused() {
    let migrate = Request::Migrate { nice: true, number: b"12", seen: b"0::/" };
    for request in [Request::SetOwner { number: 7 }, Request::Write { nice: true, data: b"12" }, migrate] {
        let bytes = whole(&request, 7);
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Err(Malformed), "{request:?} cut to {len}");
        }
    }
}

#[test]
fn any_bytes_decode_without_a_panic() {
    // A fixed xorshift generates the same bytes every time, without a dependency.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..200_000 {
        let mut bytes = [0u8; 40];
        for byte in &mut bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state & 0xff) as u8 & if state & 0x100 == 0 { 0x03 } else { 0xff };
        }
        let len = (state % 41) as usize;
        if let Ok((request, deadline)) = decode(&bytes[..len]) {
            assert_eq!(whole(&request, deadline), &bytes[..len]);
        }
        let _ = Hello::decode(&bytes[..len.min(9)]);
    }
}

#[test]
fn replies_and_hellos_survive_the_wire() {
    assert_eq!(decode_reply(reply_header(-22, 0)), (-22, 0));
    assert_eq!(decode_reply(reply_header(65536, 65536)), (65536, 65536));
    assert_eq!(Hello::decode(&Hello::Ready.encode()), Ok(Hello::Ready));
    for step in AgentStep::ALL {
        let hello = Hello::Failed { step, errno: 22 };
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    assert_eq!(Hello::decode(&[0; 7]), Err(Malformed));
    assert_eq!(Hello::decode(&[0; 9]), Err(Malformed));
    assert_eq!(Hello::decode(&[0xff; 8]), Err(Malformed));
}
