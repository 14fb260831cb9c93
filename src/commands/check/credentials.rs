//! The service's credentials (`LoadCredential=` and its like), which the service manager reads as root.

use super::command::answer_of;
use super::unit::{Unit, words};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the unit's path on D-Bus; `systemctl show` does not print credentials.
fn object(unit: &str) -> String {
    let escaped = unit.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("_{byte:02x}"),
    });
    format!("/org/freedesktop/systemd1/unit/{}", escaped.collect::<String>())
}

/// The credentials of the service, and their sources.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// The ids of `LoadCredential=`, each with the path that it is read from.
    loaded: Vec<(String, PathBuf)>,
    /// True if there may be credentials from other sources, which the check cannot read.
    others: bool,
}

/// The file behind a credential.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential {
    File(PathBuf),
    /// Its source cannot be read by the check.
    Elsewhere,
    Missing,
}

impl Credentials {
    /// Asks the service manager for the credentials of the unit.
    pub(super) fn of(unit: &Unit) -> Self {
        let properties = ["LoadCredential", "SetCredential", "LoadCredentialEncrypted", "SetCredentialEncrypted"];
        let (mut busctl, object) = (Command::new("busctl"), object(&unit.name));
        busctl.args(["get-property", "org.freedesktop.systemd1", &object, "org.freedesktop.systemd1.Service"]);
        match answer_of(busctl.args(properties)) {
            Ok(answer) => Self::parse(&answer, !unit.get("ImportCredential").is_empty()),
            Err(_) => Self { loaded: Vec::new(), others: true },
        }
    }

    /// Reads one line for each property, such as `a(ss) 1 "tls.key" "/root/tls.key"`.
    fn parse(answer: &str, imports: bool) -> Self {
        let mut lines = answer.lines();
        let Some(loaded) = lines.next() else { return Self { loaded: Vec::new(), others: true } };
        let strings: Vec<String> =
            words(loaded).into_iter().filter_map(|(word, quoted)| quoted.then_some(word)).collect();
        let loaded = strings.chunks_exact(2).map(|pair| (pair[0].clone(), PathBuf::from(&pair[1]))).collect();
        let others = imports || lines.any(|line| words(line).iter().any(|(_, quoted)| *quoted));
        Self { loaded, others }
    }

    /// Finds the file that the service gets under a relative path.
    pub(super) fn find(&self, path: &Path) -> Credential {
        let Some(name) = path.to_str() else { return Credential::Missing };
        let source = self.loaded.iter().find_map(|(id, source)| match name.strip_prefix(id.as_str())? {
            "" => Some(source.clone()),
            // Each file of a directory becomes a credential.
            rest => rest.strip_prefix('_').filter(|_| source.is_dir()).map(|file| source.join(file)),
        });
        match source {
            // A relative path is a credential of the service manager itself. The content from a socket is unknown.
            Some(source) if source.is_absolute() && (source.is_file() || !source.exists()) => Credential::File(source),
            Some(_) => Credential::Elsewhere,
            None if self.others => Credential::Elsewhere,
            None => Credential::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_by_its_escaped_name() {
        let of = |unit: &str| object(unit).rsplit_once('/').unwrap().1.to_owned();
        assert_eq!(of("recodex-monitor.service"), "recodex_2dmonitor_2eservice");
        assert_eq!(of("recodex-monitor@a_1.service"), "recodex_2dmonitor_40a_5f1_2eservice");
    }

    #[test]
    fn credentials_are_found_by_their_ids() {
        let answer =
            "a(ss) 3 \"tls.key\" \"/root/with space/t\\\"ls.key\" \"plain\" \"plain\" \"dir\" \"/proc/self\"\n";
        let none = "a(say) 0\na(ss) 0\na(say) 0\n";
        let credentials = Credentials::parse(&format!("{answer}{none}"), false);
        let file = |path: &str| Credential::File(path.into());
        assert_eq!(credentials.find(Path::new("tls.key")), file("/root/with space/t\"ls.key"));
        assert_eq!(credentials.find(Path::new("plain")), Credential::Elsewhere);
        assert_eq!(credentials.find(Path::new("dir_status")), file("/proc/self/status"));
        assert_eq!(credentials.find(Path::new("tls.crt")), Credential::Missing);
        let set = format!("{answer}a(say) 1 \"tls.crt\" 2 98 97\n");
        assert_eq!(Credentials::parse(&set, false).find(Path::new("tls.crt")), Credential::Elsewhere);
        assert_eq!(Credentials::parse("", false).find(Path::new("tls.crt")), Credential::Elsewhere);
    }
}
