//! Limits as values, and how the kernel writes them.

use serde::{Serialize, Serializer};

use crate::doctor::reading::cpu_max;

/// From here on a number of v1 means "no limit". The kernel shows the largest number of pages, in bytes, rounded down to
/// pages or huge pages: a little less than 2^63.
const NO_LIMIT_FROM: u64 = 1 << 62;

/// The same for a kernel with 32 bits: 2^31 - 1 pages of 4096 bytes.
const NO_LIMIT_32_BITS: u64 = 0x7fff_ffff * 4096;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Microseconds of CPU time per period, that is, a share of CPUs.
    CpuTime,
    Cpus,
    Bytes,
    Processes,
    BytesPerSecond,
    OperationsPerSecond,
}

/// A limit's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Number(u64),
    /// Microseconds of CPU time in each period.
    Quota {
        quota: u64,
        period: u64,
    },
    /// A list of CPUs, and how many it has.
    Cpus {
        list: String,
        count: u64,
    },
}

impl Amount {
    /// Whether this limit allows less than another one of the same unit.
    pub(crate) fn is_tighter_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quota { quota, period }, Self::Quota { quota: other, period: of }) => {
                u128::from(*quota) * u128::from(*of) < u128::from(*other) * u128::from(*period)
            }
            _ => self.number() < other.number(),
        }
    }

    /// The number, or how many CPUs; `None` for a quota.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Cpus { count, .. } => Some(*count),
            Self::Quota { .. } => None,
        }
    }
}

/// A number, or an object for what isn't one.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Quota { quota, period } => {
                serde_json::json!({"quota_us": quota, "period_us": period}).serialize(serializer)
            }
            Self::Cpus { list, count } => serde_json::json!({"list": list, "count": count}).serialize(serializer),
        }
    }
}

/// What a file says about a limit; `None` for a text of another form.
pub(crate) type Parsed = Option<Option<Amount>>;

/// A file of v2 with a number or "max".
pub(crate) fn number_or_max(text: &str) -> Parsed {
    match text.trim() {
        "max" => Some(None),
        number => Some(Some(Amount::Number(number.parse().ok()?))),
    }
}

/// A file of v1 with a number of bytes, or with "-1".
pub(crate) fn bytes_of_v1(text: &str) -> Parsed {
    let text = text.trim();
    if text == "-1" {
        return Some(None);
    }
    let bytes: u64 = text.parse().ok()?;
    Some((bytes < NO_LIMIT_FROM && bytes != NO_LIMIT_32_BITS).then_some(Amount::Number(bytes)))
}

/// `cpu.max`.
pub(crate) fn quota(text: &str) -> Parsed {
    let found = cpu_max(text)?;
    Some(found.map(|(quota, period)| Amount::Quota { quota, period }))
}

/// `cpu.cfs_quota_us` with `cpu.cfs_period_us`. A negative quota is none.
pub(crate) fn quota_of_v1(quota: &str, period: Option<&str>) -> Parsed {
    let quota: i64 = quota.trim().parse().ok()?;
    let Ok(quota) = u64::try_from(quota) else { return Some(None) };
    let period = period?.trim().parse().ok().filter(|period| *period > 0)?;
    Some(Some(Amount::Quota { quota, period }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        let number = |number| Some(Some(Amount::Number(number)));
        assert_eq!(
            (number_or_max("max\n"), number_or_max("0\n"), number_or_max("7")),
            (Some(None), number(0), number(7))
        );
        assert_eq!((number_or_max(""), number_or_max("-1\n"), number_or_max("7 8\n")), (None, None, None));
        // Without a limit: with pages of 4 and of 64 KiB, and huge pages of 1 GiB.
        for none in ["9223372036854771712", "9223372036854710272", "9223372035781033984", "8796093018112", "-1"] {
            assert_eq!(bytes_of_v1(none), Some(None), "{none}");
        }
        assert_eq!((bytes_of_v1("4096\n"), bytes_of_v1("max\n")), (number(4096), None));
        assert_eq!(quota("max 100000\n"), Some(None));
        assert_eq!(quota("5000 10000\n"), Some(Some(Amount::Quota { quota: 5000, period: 10_000 })));
        assert_eq!((quota("5000\n"), quota("5000 0\n")), (None, None));
        assert_eq!(quota_of_v1("-1\n", None), Some(None));
        assert_eq!(quota_of_v1("5000\n", Some("10000\n")), Some(Some(Amount::Quota { quota: 5000, period: 10_000 })));
        assert_eq!(
            (quota_of_v1("5000\n", None), quota_of_v1("x", Some("1")), quota_of_v1("1", Some("0"))),
            (None, None, None)
        );
    }

    #[test]
    fn shares_are_compared_whatever_their_periods() {
        let of = |quota, period| Amount::Quota { quota, period };
        assert!(of(50, 100).is_tighter_than(&of(99, 100)) && of(50, 100).is_tighter_than(&of(51, 100)));
        assert!(!of(50, 100).is_tighter_than(&of(100, 200)), "the same share");
        assert!(of(u64::MAX, u64::MAX).is_tighter_than(&of(u64::MAX, u64::MAX - 1)));
    }
}
