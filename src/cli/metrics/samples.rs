//! Metrics with their values, and Prometheus' text format
//! ([exposition formats](https://prometheus.io/docs/instrumenting/exposition_formats/)).

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::families::{ALL, Family};

/// The labels of a sample: names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A value of a metric.
#[derive(Clone, Debug)]
struct Sample {
    family: &'static str,
    /// What follows the metric's name, for histograms.
    suffix: &'static str,
    labels: Labels,
    value: f64,
}

/// The values of all metrics.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Sample>);

impl Samples {
    pub(super) fn add(&mut self, family: Family, labels: Labels, value: impl Into<f64>) {
        self.add_part(family, "", labels, value.into());
    }

    /// The same for a count. Beyond 2^53 it isn't exact, as with every program that reads it.
    pub(super) fn add_count(&mut self, family: Family, labels: Labels, count: u64) {
        self.add_part(family, "", labels, count as f64);
    }

    /// Adds a histogram: how many were at most as large as each bound, and how many were larger, with their sum.
    pub(super) fn add_histogram(
        &mut self,
        family: Family,
        labels: &Labels,
        bounds: impl Iterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        let mut all = 0;
        for (bound, count) in bounds.chain([f64::INFINITY]).zip(counts) {
            all += count;
            let le = ("le", number(bound));
            self.add_part(family, "_bucket", labels.iter().cloned().chain([le]).collect(), all as f64);
        }
        self.add_part(family, "_sum", labels.clone(), sum);
        self.add_part(family, "_count", labels.clone(), all as f64);
    }

    fn add_part(&mut self, (family, ..): Family, suffix: &'static str, labels: Labels, value: f64) {
        self.0.push(Sample { family, suffix, labels, value });
    }

    /// Prints the text format. All samples of a metric are together.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, kind, help) in ALL {
            let mut samples = self.0.iter().filter(|sample| sample.family == name).peekable();
            if samples.peek().is_none() {
                continue;
            }
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", kind.word())?;
            for Sample { suffix, labels, value, .. } in samples {
                let labels: Vec<String> =
                    labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped_label(value))).collect();
                writeln!(out, "{name}{suffix}{{{}}} {}", labels.join(","), number(*value))?;
            }
        }
        Ok(())
    }

    /// The same as JSON: an array with an object for each sample.
    pub(super) fn as_json(&self) -> Value {
        let all = self.0.iter().map(|Sample { family, suffix, labels, value }| {
            let labels: Map<String, Value> =
                labels.iter().map(|(label, value)| ((*label).to_owned(), value.clone().into())).collect();
            json!({ "name": format!("{family}{suffix}"), "labels": labels, "value": value })
        });
        Value::Array(all.collect())
    }
}

fn escaped_label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// A number as the text format has it.
fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::families::{DURATION, OPEN_FILES};
    use super::*;

    #[test]
    fn samples_are_in_the_text_format() {
        let mut samples = Samples::default();
        let labels = || vec![("target", "a\"b\\c\nd".to_owned())];
        samples.add_histogram(DURATION, &labels(), [0.000_005, 1.0].into_iter(), &[2, 0, 1], 2.5);
        samples.add_count(OPEN_FILES, labels(), 12_345_678);
        let mut text = Vec::new();
        samples.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let target = r#"target="a\"b\\c\nd""#;
        assert_eq!(
            lines,
            [
                format!("vcgroupfs_request_duration_seconds_bucket{{{target},le=\"0.000005\"}} 2"),
                format!("vcgroupfs_request_duration_seconds_bucket{{{target},le=\"1\"}} 2"),
                format!("vcgroupfs_request_duration_seconds_bucket{{{target},le=\"+Inf\"}} 3"),
                format!("vcgroupfs_request_duration_seconds_sum{{{target}}} 2.5"),
                format!("vcgroupfs_request_duration_seconds_count{{{target}}} 3"),
                format!("vcgroupfs_open_files{{{target}}} 12345678"),
            ]
        );
    }
}
