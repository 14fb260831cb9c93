//! Any file is read or refused, and soon; what was read prints and reads back equal, and an error's place is in the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use recodex_monitor::internals::config::Settings;
use std::path::Path;
use std::time::{Duration, Instant};

/// Far more than a file of the largest size takes, and far less than one that takes quadratic time.
const LONG: Duration = Duration::from_secs(5);

/// Line and column of an error that begins with its place.
fn place(error: &str) -> Option<(usize, usize)> {
    let (line, rest) = error.split_once(':')?;
    let (column, _) = rest.split_once(": ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fuzz_target!(|input: &[u8]| {
    let path = Path::new("c.yml");
    let start = Instant::now();
    let parsed = Settings::parse(path, input);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    match parsed {
        Ok(settings) => {
            let text = settings.to_yaml();
            let again = Settings::parse(path, text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(again, settings, "{text}");
        }
        Err(e) => {
            let error = e.to_string();
            let error = error.strip_prefix("c.yml:").unwrap();
            if error.starts_with(' ') {
                return;
            }
            let (line, column) = place(error).unwrap_or_else(|| panic!("{error}"));
            // YAML has more line breaks than one; a column may be counted from any of them.
            let text = String::from_utf8_lossy(input);
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            assert!((1..=lines + 1).contains(&line), "{error}");
            let longest = text.split('\n').map(|line| line.chars().count()).max().unwrap_or(0);
            assert!((1..=longest + 1).contains(&column), "{error}");
        }
    }
});
