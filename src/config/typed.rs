//! Translates the errors of the settings' types into plain words: a value or a key that is not expected.

use super::Settings;
use crate::suggest::nearest;
use serde_yaml::Value;

/// Adds the correction to serde's message where there is one: the nearest name, quotes, a section.
pub(super) fn typed(message: String) -> String {
    if let Some(message) = without_value(&message) {
        return message;
    }
    if let Some((_, found)) = message.split_once("invalid type: string \"")
        && (message.contains("expected the keys of `") || message.contains("expected settings as"))
        && found.split_once('"').is_some_and(|(found, _)| found.contains(':'))
    {
        return format!("{message}; is the space after a `:` missing?");
    }
    if message.ends_with("expected a boolean") && !message.contains("invalid type: sequence") {
        return format!("{message}; write true or false, without quotes");
    }
    if let Some((path, _)) = message.split_once(": invalid type: map, expected ") {
        return match path.strip_suffix(']') {
            Some(path) if path.ends_with("_uri[0") => {
                format!("{message}; between host and port stands a `,`, not a `:`")
            }
            Some(_) => format!("{message}; a value that ends with `:` or has `: ` in it must be in quotes"),
            None => message,
        };
    }
    let Some((before, unknown)) = message.split_once("unknown ") else { return message };
    let names: Vec<&str> = unknown.split('`').skip(1).step_by(2).collect();
    let [found, known @ ..] = &names[..] else { return message };
    let is_key = unknown.starts_with("field");
    let what = if is_key { "key" } else { "value" };
    if is_key && let Some((key, _)) = found.split_once(':') {
        return format!("{before}unknown key `{found}`; there is no space after the `:`, expected `{key}: value`");
    }
    if is_key
        && before.is_empty()
        && let Some(sections) = sections_with(found)
    {
        return format!("`{found}` belongs under {sections}, indented");
    }
    let guess = nearest(found, known).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    format!("{before}unknown {what} `{found}`{guess} (known: {})", known.join(", "))
}

/// Returns the message for a key that has no value.
fn without_value(message: &str) -> Option<String> {
    let nothing = |path: &str, expected: &str| Some(format!("{path}there is no value; expected {expected}"));
    for begin in
        ["invalid type: unit value, expected ", "invalid length 0, expected ", "invalid value: string \"\", expected "]
    {
        if let Some((path, expected)) = message.split_once(begin) {
            return nothing(path, expected);
        }
    }
    let (path, expected) = message.split_once("unknown variant ``, expected ")?;
    nothing(path, &expected.replace('`', ""))
}

/// Returns the sections that have this key, joined by "or".
fn sections_with(key: &str) -> Option<String> {
    // Neither section is there by default.
    let with_all = "tls: {certificate: a, key: b}\ncluster: {redis: [\"a:1\"]}";
    let settings: Settings = serde_yaml::from_str(with_all).ok()?;
    let Ok(Value::Mapping(settings)) = serde_yaml::to_value(settings) else { return None };
    let with = settings.iter().filter(|(_, section)| section.as_mapping().is_some_and(|keys| keys.contains_key(key)));
    let names: Vec<String> = with.filter_map(|(name, _)| Some(format!("`{}`", name.as_str()?))).collect();
    (!names.is_empty()).then(|| names.join(" or "))
}
