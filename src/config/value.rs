//! The types of configuration values. Each value is checked against its bounds while it is read.

use serde::de::{DeserializeOwned, Deserializer, Error, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

/// The least severe level that is logged, by Python's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Debug,
    /// Events of a running monitor.
    Info,
    /// Events that an administrator should look at.
    Warning,
    /// Failures.
    Error,
    /// The same as [`Level::Error`].
    Critical,
}

impl Level {
    const NAMES: &[&str] = &["debug", "info", "warning", "error", "critical"];
    const ALL: [Self; 5] = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// Returns the filter of the `log` crate.
    pub(crate) fn filter(self) -> log::LevelFilter {
        match self {
            Self::Debug => log::LevelFilter::Debug,
            Self::Info => log::LevelFilter::Info,
            Self::Warning => log::LevelFilter::Warn,
            Self::Error | Self::Critical => log::LevelFilter::Error,
        }
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::NAMES[*self as usize].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Level;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {}", Level::NAMES.join(", "))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Level, E> {
                let at = Level::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name));
                at.map(|at| Level::ALL[at]).ok_or_else(|| E::unknown_variant(name, Level::NAMES))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// Reads one of `words`, each the name of a `T`.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
    words: &'static str,
) -> Result<T, D::Error> {
    struct Word<T>(&'static str, PhantomData<T>);
    impl<T: DeserializeOwned> Visitor<'_> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "one of {}", self.0)
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
            T::deserialize(word.into_deserializer())
        }
    }
    deserializer.deserialize_str(Word(words, PhantomData))
}

/// Reads [`Output`].
pub(super) fn output<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Output, D::Error> {
    word(deserializer, "auto, journald, file, stderr")
}

/// The destination of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// To the file if one is named, else to the journal if systemd started the monitor, else to stderr.
    Auto,
    /// To the journal, with fields.
    Journald,
    /// To the file.
    File,
    /// To stderr.
    Stderr,
}

/// A time in the configuration, in seconds. Decimals are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(Duration);

impl Seconds {
    /// Returns a time of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Returns the time as a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => self.0.as_secs().serialize(serializer),
            _ => self.0.as_secs_f64().serialize(serializer),
        }
    }
}

/// Reads a time between `MIN_MS` milliseconds and `MAX` seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>, const MIN_MS: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Seconds, D::Error> {
    struct Bounded {
        min: Duration,
        max: Duration,
    }
    impl Bounded {
        fn check<E: Error>(&self, time: Option<Duration>, found: Unexpected<'_>) -> Result<Seconds, E> {
            let time = time.filter(|time| (self.min..=self.max).contains(time));
            time.map(Seconds).ok_or_else(|| E::invalid_value(found, self))
        }
    }
    impl Visitor<'_> for Bounded {
        type Value = Seconds;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a number of seconds from {} to {}", self.min.as_secs_f64(), self.max.as_secs())
        }

        fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
            self.check(Some(Duration::from_secs(seconds)), Unexpected::Unsigned(seconds))
        }

        fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
            self.check(None, Unexpected::Signed(seconds))
        }

        fn visit_f64<E: Error>(self, seconds: f64) -> Result<Seconds, E> {
            self.check(Duration::try_from_secs_f64(seconds).ok(), Unexpected::Float(seconds))
        }
    }
    deserializer.deserialize_any(Bounded { min: Duration::from_millis(MIN_MS), max: Duration::from_secs(MAX) })
}

/// Reads a section. An empty section has all defaults.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a path, if there is one.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(|Checked(path)| path))
}

/// Reads a path.
pub(super) fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Checked::deserialize(deserializer).map(|Checked(path)| path)
}

struct Checked(PathBuf);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NotEmpty;
        impl Visitor<'_> for NotEmpty {
            type Value = Checked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Checked, E> {
                if path.is_empty() {
                    Err(E::invalid_value(Unexpected::Str(""), &self))
                } else {
                    Ok(Checked(path.into()))
                }
            }
        }
        deserializer.deserialize_str(NotEmpty)
    }
}

/// Reads a whole number between `MIN` and `MAX`.
pub(super) fn whole<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<usize, D::Error> {
    let number = deserializer.deserialize_any(Whole { what: "a whole number", min: MIN, max: MAX, hint: "" })?;
    usize::try_from(number).map_err(D::Error::custom)
}

/// A whole number within bounds. As in the Python monitor it may be in quotes, have underscores between its digits, or a fraction
/// of zero.
pub(super) struct Whole {
    pub(super) what: &'static str,
    pub(super) min: u64,
    pub(super) max: u64,
    /// The text that follows the bounds in the error.
    pub(super) hint: &'static str,
}

impl Whole {
    fn check<E: Error>(&self, number: Option<u64>, found: Unexpected<'_>) -> Result<u64, E> {
        let number = number.filter(|number| (self.min..=self.max).contains(number));
        number.ok_or_else(|| E::invalid_value(found, self))
    }
}

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, min, max, hint } = self;
        write!(f, "{what} from {min} to {max}{hint}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        self.check(Some(number), Unexpected::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        self.check(None, Unexpected::Signed(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        // `to_string` leaves out a fraction of zero.
        self.check(number.to_string().parse().ok(), Unexpected::Float(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let digits = digits(text.trim());
        if let Some(digits) = &digits
            && let decimal = digits.trim_start_matches('0')
            && digits.len() > 1
            && decimal.len() < digits.len()
        {
            let decimal = if decimal.is_empty() { "0" } else { decimal };
            return Err(E::custom(format_args!(
                "`{text}` begins with a zero, which makes it octal for some programs and decimal for others; write `{decimal}`, or \
                 another number without the zero"
            )));
        }
        self.check(digits.and_then(|digits| digits.parse().ok()), Unexpected::Str(text))
    }
}

/// Returns the digits of a whole number without underscores and without a fraction of zero.
fn digits(text: &str) -> Option<String> {
    let whole = text
        .split_once('.')
        .map_or(Some(text), |(whole, fraction)| fraction.bytes().all(|digit| digit == b'0').then_some(whole))?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    whole.split('_').all(is_number).then(|| whole.replace('_', ""))
}
