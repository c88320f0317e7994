//! Paths against a reference that works on the text.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use vcgroupfs::cgroup::CgroupPath;

fn names(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect()
}

fn is_legal(text: &[u8]) -> bool {
    text.starts_with(b"/")
        && names(text).iter().all(|name| {
            *name != b"." && *name != b".." && name.len() <= 255 && !name.contains(&0) && !name.contains(&b'\n')
        })
}

fuzz_target!(|data: (&[u8], &[u8])| {
    let (one, two) = data;
    let parsed = [one, two].map(|text| CgroupPath::parse(OsStr::from_bytes(text)).ok());
    for (text, path) in [one, two].iter().zip(&parsed) {
        assert_eq!(path.is_some(), is_legal(text));
        let Some(path) = path else { continue };
        let components: Vec<&[u8]> = path.components().iter().map(|name| name.as_bytes()).collect();
        assert_eq!(components, names(text));
        assert_eq!(path.depth(), components.len());
        let above = (0..=path.depth()).map(|depth| path.prefix(depth));
        assert!(above.clone().all(|above| path.is_within(&above)));
        for above in above {
            let below = path.relative_to(&above).expect("it's within");
            assert_eq!(above.join_path(&below), *path);
        }
    }
    let [Some(a), Some(b)] = parsed else { return };
    let within = names(one).starts_with(&names(two));
    assert_eq!((a.is_within(&b), a.relative_to(&b).is_some()), (within, within));
    let shared = a.common_ancestor(&b);
    assert_eq!(shared, b.common_ancestor(&a));
    assert!(a.is_within(&shared) && b.is_within(&shared));
    let deeper = a.prefix(shared.depth() + 1);
    assert!(deeper == shared || !b.is_within(&deeper));
});
