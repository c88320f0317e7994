//! Lists of CPUs, as `0-3,8`.

/// The first and last CPU of each range, in the order of the text. What isn't a range is left out.
fn ranges(text: &str) -> Vec<(u64, u64)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.trim().split(',').filter_map(range).collect()
}

/// How many CPUs a list has.
pub(crate) fn count_of_list(text: &str) -> u64 {
    ranges(text).into_iter().fold(0, |count, (first, last)| (last - first).saturating_add(1).saturating_add(count))
}

/// How many of the CPUs in one list are in another one.
pub(crate) fn count_in_both(list: &str, other: &str) -> u64 {
    let others = ranges(other);
    let overlap = |(first, last): (u64, u64), (from, to): (u64, u64)| {
        let (first, last) = (first.max(from), last.min(to));
        if first <= last { (last - first).saturating_add(1) } else { 0 }
    };
    let counts = ranges(list).into_iter().flat_map(|range| others.iter().map(move |other| overlap(range, *other)));
    counts.fold(0, u64::saturating_add)
}

/// Whether a text is a list of CPUs, which may be empty.
pub(crate) fn is_list(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || ranges(text).len() == text.split(',').count()
}

/// Whether two lists have the same CPUs.
pub(crate) fn is_same(list: &str, other: &str) -> bool {
    let both = count_in_both(list, other);
    both == count_of_list(list) && both == count_of_list(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(
            (count_of_list("0-3,8\n"), count_of_list("5"), count_of_list("\n"), count_of_list("3-1")),
            (5, 1, 0, 0)
        );
        assert_eq!((count_in_both("0-127", "0-1"), count_in_both("1,3", "0-2,3"), count_in_both("0", "1")), (2, 2, 0));
        assert_eq!(count_of_list("0-18446744073709551615,1"), u64::MAX);
        assert!(is_list("0-3,8\n") && is_list("\n") && !is_list("a") && !is_list("1,,2") && !is_list("3-1"));
        assert!(is_same("0-3", "0,1-3\n") && !is_same("0-3", "0-2") && !is_same("0", "1") && is_same("", "\n"));
    }
}
