//! Metrics, read as strictly as their formats allow.

use std::collections::BTreeMap;

/// A sample's labels, by their names.
pub(crate) type Labels = BTreeMap<String, String>;

/// Every sample by its name and labels, written as in the text, such as `requests_total{code="200"}`.
pub(crate) struct Metrics {
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, Family>,
}

pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<(String, Labels, f64)>,
}

/// The two formats.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Format {
    OpenMetrics,
    Text,
}

impl Metrics {
    /// # Panics
    /// If the text is not in this format.
    pub(crate) fn parse(text: &str, format: Format) -> Self {
        let lines = match format {
            Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("the end is marked"),
            Format::Text => text,
        };
        assert!(lines.ends_with('\n') && !lines.contains('\r'), "lines, each with its end");
        let mut metrics = Metrics { samples: BTreeMap::new(), families: BTreeMap::new() };
        let (mut helped, mut current) = (None, None);
        for line in lines.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, about) = rest.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
                assert!(about.len() > 5 && about.trim() == about, "a help that says something: {line}");
                helped = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(helped.take().as_deref(), Some(name), "its help comes before: {line}");
                let family = Family { kind: kind.to_owned(), samples: Vec::new() };
                assert!(metrics.families.insert(name.to_owned(), family).is_none(), "twice: {line}");
                current = Some(name.to_owned());
            } else {
                assert!(!line.starts_with('#') && helped.is_none(), "{line}");
                let family = current.clone().unwrap_or_else(|| panic!("no type before {line}"));
                metrics.take(line, &family, format);
            }
        }
        for (name, family) in &metrics.families {
            assert!(!family.samples.is_empty(), "{name} has no sample");
            match family.kind.as_str() {
                "counter" => assert_eq!(name.ends_with("_total"), format == Format::Text, "{name}"),
                "histogram" => check_histogram(name, family),
                _ => assert!(!name.ends_with("_total"), "{name}"),
            }
        }
        metrics
    }

    fn take(&mut self, line: &str, of: &str, format: Format) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))),
            None => (series, Labels::new()),
        };
        let family = self.families.get_mut(of).expect("its type was read");
        let suffix = name.strip_prefix(of).unwrap_or_else(|| panic!("a sample of {of} was to come: {line}"));
        let expected: &[&str] = match (family.kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("histogram", _) => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        assert!(expected.contains(&suffix), "{line} is no sample of {of}");
        assert!(value.is_finite() && value >= 0.0, "{line}");
        family.samples.push((name.to_owned(), labels, value));
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }

    /// The value of a sample, written as in the text.
    pub(crate) fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series}"))
    }

    /// Returns the value of a counter, as a whole number.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a whole number, as is asserted")]
    pub(crate) fn count(&self, series: &str) -> u64 {
        let value = self.value(series);
        assert!(value.fract() == 0.0 && value < 1e15, "{series} is {value}");
        value as u64
    }

    /// Every sample's name and labels, and its value.
    pub(crate) fn samples(&self) -> &BTreeMap<String, f64> {
        &self.samples
    }

    pub(crate) fn families(&self) -> &BTreeMap<String, Family> {
        &self.families
    }
}

/// Parses the text between the braces. No value here contains an escape or a comma.
fn labels(text: &str) -> Labels {
    let label = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or_else(|| panic!("no label: {part}"));
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let value = value.unwrap_or_else(|| panic!("not in quotes: {part}"));
        assert!(!value.contains(['"', '\\', '\n']), "{part}");
        (name.to_owned(), value.to_owned())
    };
    text.split(',').map(label).collect()
}

/// Asserts that each bucket also counts the values of the buckets before it, and that the last one is +Inf with all values.
fn check_histogram(name: &str, family: &Family) {
    let of = |suffix: &str| {
        let series = format!("{name}{suffix}");
        family.samples.iter().filter(move |(found, ..)| *found == series)
    };
    let mut before = (f64::NEG_INFINITY, 0.0);
    let mut last = "";
    for (_, labels, count) in of("_bucket") {
        assert_eq!(labels.len(), 1, "{name}: {labels:?}");
        last = &labels["le"];
        let bound: f64 = last.parse().unwrap_or_else(|_| panic!("{name}: no bound: {last}"));
        assert!(bound > before.0 && *count >= before.1, "{name}: {last} {count} after {before:?}");
        before = (bound, *count);
    }
    assert_eq!(last, "+Inf", "{name}: the last bucket");
    let count: Vec<_> = of("_count").map(|(.., count)| *count).collect();
    assert_eq!(count, [before.1], "{name}: all are in the last bucket");
    assert_eq!(of("_sum").count(), 1, "{name}");
}
