//! The numbers that programs take, beside the effective limits.

use serde::Serialize;

use super::facts::Facts;
use super::finding::{Finding, NumberVerdict};
use super::reading::Quantity;
use super::verdict::remedy_for_number;

/// A number that a program takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClientNumber {
    pub(crate) client: &'static str,
    pub(crate) quantity: Quantity,
    /// CPUs, bytes or processes; `None` for no limit.
    pub(crate) value: Option<u64>,
    /// The file with this number, or the program's other source.
    pub(crate) from: Option<String>,
    /// Why it finds no file, if it looks for one.
    pub(crate) missing: Option<String>,
    /// What it would take if it knew the effective limit, by its own rounding.
    pub(crate) expected: Option<u64>,
    /// Whether it takes another number than the effective limit.
    pub(crate) differs: bool,
    /// Whether it takes the same number without a view.
    pub(crate) is_native: bool,
    /// What to do if it differs.
    pub(crate) remedy: Option<&'static str>,
}

/// Returns the numbers of programs that read limits, in the order of quantities and then of programs.
pub(crate) fn client_numbers(facts: &Facts, findings: &[Finding]) -> Vec<ClientNumber> {
    let of = |finding: &Finding| {
        let client = finding.client;
        let number = |number: &super::finding::Number| ClientNumber {
            client,
            quantity: number.quantity,
            value: number.taken.value,
            from: number.taken.from.clone(),
            missing: number.taken.missing.clone(),
            expected: number.expected.flatten(),
            differs: matches!(number.verdict, NumberVerdict::Wrong | NumberVerdict::NativeFiles),
            is_native: number.natively == Some(number.taken.value),
            remedy: remedy_for_number(facts, number),
        };
        finding.numbers.iter().map(number).collect::<Vec<_>>()
    };
    let mut all: Vec<ClientNumber> = findings.iter().flat_map(of).collect();
    all.sort_by_key(|number| number.quantity);
    all
}
