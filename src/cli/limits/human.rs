//! Amounts with units, for people.

use crate::doctor::limits::{Amount, Unit};

/// What there is if nothing limits.
pub(super) const NONE: &str = "none";

/// A limit.
pub(super) fn amount(amount: &Amount, unit: Unit) -> String {
    match amount {
        Amount::Quota { quota, period } => share(*quota, *period),
        Amount::Cpus { count, .. } => cpus(*count),
        Amount::Number(number) => quantity(*number, unit),
    }
}

/// A number of this unit.
pub(super) fn quantity(number: u64, unit: Unit) -> String {
    match unit {
        Unit::CpuTime => duration(number),
        Unit::Cpus => cpus(number),
        Unit::Bytes => bytes(number),
        Unit::Processes => number.to_string(),
        Unit::BytesPerSecond => format!("{}/s", bytes(number)),
        Unit::OperationsPerSecond => format!("{number}/s"),
    }
}

pub(super) fn cpus(count: u64) -> String {
    if count == 1 { "1 CPU".to_owned() } else { format!("{count} CPUs") }
}

/// The CPUs' worth of a quota, with two digits. What isn't nothing isn't shown as 0.
fn share(quota: u64, period: u64) -> String {
    let hundredths = u128::from(quota) * 100 / u128::from(period.max(1));
    match hundredths {
        0 if quota > 0 => "<0.01 CPUs".to_owned(),
        100 => "1 CPU".to_owned(),
        _ if hundredths.is_multiple_of(100) || hundredths > 10_000 => format!("{} CPUs", hundredths / 100),
        _ => format!("{}.{:02} CPUs", hundredths / 100, hundredths % 100),
    }
}

/// Bytes with a binary unit, rounded down: with a digit behind the point if that isn't exact, and below 100.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut found = None;
    for (exponent, unit) in (1_u32..).zip(UNITS) {
        let size = 1_u64 << (10 * exponent);
        if bytes >= size {
            found = Some((size, unit));
        }
    }
    let Some((size, unit)) = found else { return format!("{bytes} B") };
    let tenths = u128::from(bytes % size) * 10 / u128::from(size);
    let whole = bytes / size;
    if bytes.is_multiple_of(size) || whole >= 100 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

/// A duration in microseconds.
pub(super) fn duration(micros: u64) -> String {
    let tenths_of = |unit: u64| format!("{}.{}", micros / unit, micros % unit / (unit / 10));
    match micros {
        0..1000 => format!("{micros} us"),
        1000..SECOND => format!("{} ms", micros / 1000),
        SECOND..MINUTE => format!("{} s", tenths_of(SECOND)),
        MINUTE..HOUR => format!("{} min", tenths_of(MINUTE)),
        _ => format!("{} h", tenths_of(HOUR)),
    }
}

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!([0, 1023, 1024, 1536, 1 << 20].map(bytes), ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 MiB"]);
        assert_eq!([300_000_000, (1 << 30) - 1, u64::MAX].map(bytes), ["286 MiB", "1023 MiB", "15.9 EiB"]);
        let shares = [(100, 100), (150, 100), (1, 100), (1, 1000), (400, 200), (0, 1), (1, 0)];
        let shown = ["1 CPU", "1.50 CPUs", "0.01 CPUs", "<0.01 CPUs", "2 CPUs", "0 CPUs", "1 CPU"];
        assert_eq!(shares.map(|(quota, period)| share(quota, period)), shown);
        let durations = [7, 7_200, 1_250_000, 61_000_000, 7_260_000_000].map(duration);
        assert_eq!(durations, ["7 us", "7 ms", "1.2 s", "1.0 min", "2.0 h"]);
    }
}
