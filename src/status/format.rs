//! The choice of the metrics' format by a request's `Accept` (RFC 9110, section 12.5.1).

use super::openmetrics::{OPEN_METRICS, TEXT};
use crate::wire::header_list::{elements, split};
use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// Returns true if the client prefers `OpenMetrics` to the older text format.
///
/// The most specific element that fits a format gives its weight. If the weights are equal, `OpenMetrics` is preferred if it is named. A
/// client that accepts neither gets the text format, like a client without `Accept`.
pub(super) fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let (open, text) = (preference(headers, OPEN_METRICS), preference(headers, TEXT));
    open.weight > text.weight || open.weight == text.weight && open.weight > 0 && open.specific >= NAMED
}

/// The specificity of an element that names type and subtype.
const NAMED: u8 = 3;

/// The client's preference for a format.
#[derive(Default, PartialEq, PartialOrd)]
struct Preference {
    /// 0: nothing fits; 1: `*/*`; 2: `type/*`; 3: type and subtype; 4: those and the version.
    specific: u8,
    /// In thousandths; 0: not acceptable.
    weight: u16,
}

fn preference(headers: &HeaderMap, format: &str) -> Preference {
    let fitting = elements(headers, &ACCEPT).filter_map(|element| fit(element, format));
    fitting.fold(Preference::default(), |best, next| if next > best { next } else { best })
}

/// Returns an element's preference for a format, if it fits.
fn fit(element: &[u8], format: &str) -> Option<Preference> {
    let element = str::from_utf8(element).ok()?.to_ascii_lowercase();
    let mut parts = split(element.as_bytes(), b';').filter_map(|part| str::from_utf8(part).ok());
    let mut own = format.split("; ");
    let (range, kind) = (parts.next()?, own.next()?);
    let version = own.next()?;
    let mut specific = match range {
        "*/*" => 1,
        _ if range == kind => NAMED,
        _ => range.strip_suffix('*').filter(|start| start.ends_with('/') && kind.starts_with(start)).map(|_| 2)?,
    };
    let mut weight = 1000;
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        match name.trim_end() {
            "q" => {
                weight = thousandths(value.trim_start())?;
                // Parameters after the weight do not belong to the type.
                break;
            }
            "version" if version.strip_prefix("version=")? == value.trim_start().trim_matches('"') => {
                specific = NAMED + 1;
            }
            "version" => return None,
            // Character set and escaping do not matter: the metrics are the same in each.
            _ => {}
        }
    }
    Some(Preference { specific, weight })
}

/// Reads a weight such as 0.75 (RFC 9110, section 12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let fraction: u16 = format!("{fraction:0<3}").parse().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn prefers(lines: &[&str]) -> bool {
        let line = |text: &&str| (ACCEPT, HeaderValue::from_str(text).unwrap());
        prefers_open_metrics(&lines.iter().map(line).collect())
    }

    #[test]
    fn the_most_specific_element_says_the_weight() {
        for lines in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text;version=1.0.0;q=0.001"],
            &["Application/OpenMetrics-Text ;\tVersion=\"1.0.0\" ; Q=0.5 , text/plain;q=0.4"],
            &["text/plain;q=0.5", "application/openmetrics-text"],
            &["application/openmetrics-text, */*"],
            &["application/openmetrics-text;q=0.5, text/plain;version=0.0.4;q=0.5"],
            &["*/*;q=0, application/openmetrics-text"],
            &["*/*, text/plain;q=0"],
            &["application/*, text/*;q=0.9"],
            &["application/openmetrics-text;q=0, application/openmetrics-text;version=1.0.0"],
            // What Prometheus sends, of 2.x and of 3.x.
            &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
               text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
            &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
               application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
               text/plain;version=0.0.4;q=0.2,*/*;q=0.1"],
        ] {
            assert!(prefers(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/plain"],
            &["text/html, */*;q=0.8"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0.000, */*"],
            &["application/openmetrics-text;version=1.0.0;q=0, application/openmetrics-text"],
            &["application/openmetrics-text;q=0.4, text/plain;q=0.5"],
            &["application/openmetrics-text;q=0.4, */*;q=0.5"],
            &["application/openmetrics-text;version=0.0.1, text/plain;q=0.5"],
            &["application/openmetrics-text;version=0.0.1"],
            &["application/openmetrics-text;q=2"],
            &["application/openmetrics-text;q=-0.5"],
            &["application/openmetrics-text;q=0.+5"],
            &["application/openmetrics-texts", "x-application/openmetrics-text"],
            &["a/b;c=\", application/openmetrics-text,\""],
            &["image/png"],
            &["*/*;q=0"],
        ] {
            assert!(!prefers(lines), "{lines:?}");
        }
    }
}
