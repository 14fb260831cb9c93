//! The source of the settings: a configuration file and the instance that reads it, whose name `%i` in some paths stands for.

use super::address::check_length;
use super::{Endpoint, Settings};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest name of an instance, in bytes.
const MAX_NAME: usize = 64;
/// The text that the instance's name replaces.
const PLACEHOLDER: &str = "%i";

/// The name of an instance of the monitor: 1 to 64 letters, digits, `.`, `_` and `-`, of which the first is no `.`: the name may be a part
/// of a path, where `..` leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl FromStr for Instance {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_fine) && !name.starts_with('.') {
            return Ok(Self(name.into()));
        }
        Err(format!("expected 1 to {MAX_NAME} letters, digits, `.`, `_` and `-`, without a `.` at the beginning"))
    }
}

/// A configuration file, the name of the instance that reads it, if it has one, and its runtime directory.
#[derive(Debug, Clone)]
pub struct Source {
    pub(super) path: PathBuf,
    pub(super) instance: Option<Instance>,
    /// The runtime directory of the service, in which the status listener is by default.
    pub(super) runtime_directory: Option<PathBuf>,
}

impl Source {
    /// Names a configuration file and the instance that reads it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, instance: Option<Instance>) -> Self {
        Self { path: path.into(), instance, runtime_directory: None }
    }

    /// Takes the service's runtime directory, in which the status listener is by default.
    #[must_use]
    pub(crate) fn with_runtime_directory(self, directory: Option<PathBuf>) -> Self {
        Self { runtime_directory: directory, ..self }
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Settings {
    /// Returns the error for instances that share their ports and, since a path has no `%i`, would also have one file in common: each
    /// would take, overwrite or rename the file of the others. Must be called before [`Settings::for_instance`].
    pub(super) fn common_path(&self) -> Option<String> {
        let has_none = |path: &Path| !path.to_string_lossy().contains(PLACEHOLDER);
        let paths = [
            ("history.state", self.history.state.as_deref(), "/var/lib/recodex-monitor/%i"),
            ("logger.file", self.logger.path(), "/var/log/recodex/monitor-%i.log"),
            ("status_uri", self.status_uri.endpoint().and_then(Endpoint::path), "unix:/run/recodex/%i.sock"),
            ("websocket_uri", self.websocket_uri.path(), "unix:/run/recodex/%i-viewers.sock"),
        ];
        let (key, _, example) =
            paths.into_iter().find(|(_, path, _)| self.share_ports && path.is_some_and(has_none))?;
        Some(format!(
            "share_ports is on: expected {key} to have {PLACEHOLDER} in its path, such as \"{example}\", since each instance needs a file \
             of its own; {PLACEHOLDER} stands for the name of the instance"
        ))
    }

    /// Returns the settings with the name of `instance` in place of each `%i` in the paths that may have it. All of the program sees the
    /// settings after this.
    ///
    /// # Errors
    /// If a path has `%i` and there is no instance, or becomes too long for a Unix socket.
    pub(super) fn for_instance(mut self, instance: Option<&Instance>) -> Result<Self, String> {
        let mut paths =
            vec![("logger.file", self.logger.file.as_mut()), ("history.state", self.history.state.as_mut())];
        let endpoints =
            [("websocket_uri", Some(&mut self.websocket_uri)), ("status_uri", self.status_uri.endpoint_mut())];
        let sockets = endpoints.map(|(key, endpoint)| match endpoint {
            Some(Endpoint::Unix(path)) => (key, Some(path)),
            Some(Endpoint::Tcp(_)) | None => (key, None),
        });
        paths.extend(sockets);
        for (key, path) in paths {
            let Some(path) = path else { continue };
            // A path in the configuration is text.
            let Some(text) = path.to_str().filter(|text| text.contains(PLACEHOLDER)) else { continue };
            let Some(Instance(name)) = instance else {
                return Err(format!(
                    "{key}: {text} has {PLACEHOLDER}, which stands for the name of an instance: start the monitor with --instance \
                     NAME, or by the unit recodex-monitor@NAME.service"
                ));
            };
            *path = text.replace(PLACEHOLDER, name).into();
            if key.ends_with("_uri") {
                check_length(path).map_err(|what| format!("{key}: {}: {what}", path.display()))?;
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(Path::new("c.yml"), text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_has_no_sign_that_means_something_in_a_path_or_a_unit() {
        let longest = "a".repeat(MAX_NAME);
        for name in ["a", "1", "A.b_c-9", "a..", "-", &longest] {
            assert_eq!(name.parse(), Ok(Instance(name.into())));
        }
        for name in ["", "a/b", "a b", "a@b", "%i", "ä", ".", "..", ".a", &format!("{longest}a")] {
            assert!(name.parse::<Instance>().is_err_and(|e| e.contains("expected 1 to 64")), "{name}");
        }
    }

    #[test]
    fn the_name_stands_in_the_paths_of_log_history_and_sockets_and_nowhere_else() {
        let text = "logger: {file: '/l/%i/%i.log'}\nhistory: {state: /h/%i}\nwebsocket_uri: 'unix:/w-%i'\nstatus_uri: 'unix:/s-%i'\n\
                    user: '%i'\nallowed_origins: []\n";
        let expanded = settings(text).for_instance(Some(&Instance("a".into()))).unwrap();
        assert_eq!(expanded, settings(&text.replace("%i", "a").replace("user: 'a'", "user: '%i'")));
        let tls = settings("tls: {certificate: '%i', key: '/%i'}\n");
        assert_eq!(tls.clone().for_instance(None), Ok(tls.clone()));
        assert_eq!(tls.clone().for_instance(Some(&Instance("a".into()))), Ok(tls));
        // Other signs after a per cent sign mean nothing.
        let other = settings("logger: {file: '/%%/%I/%n/100%'}\n");
        assert_eq!(other.clone().for_instance(Some(&Instance("a".into()))), Ok(other));
    }

    #[test]
    fn a_file_that_instances_would_share_with_their_ports_is_refused() {
        const SHARED: &str = "cluster: {redis: ['a:1']}\nshare_ports: true\n";
        let of = |text: &str| Settings::parse(Path::new("c.yml"), text.as_bytes());
        for (key, text, example) in [
            ("history.state", "history: {state: '/h/@'}\n", "/var/lib/recodex-monitor/%i"),
            ("logger.file", "logger: {file: '/l/@/log'}\n", "/var/log/recodex/monitor-%i.log"),
            ("logger.file", "logger: {output: file, file: '/@.log'}\n", "/var/log/recodex/monitor-%i.log"),
            ("status_uri", "status_uri: 'unix:/s/@'\n", "unix:/run/recodex/%i.sock"),
            ("websocket_uri", "websocket_uri: 'unix:/w-@.sock'\n", "unix:/run/recodex/%i-viewers.sock"),
        ] {
            for wrong in ["x", "%I", "i%"] {
                let error = of(&format!("{SHARED}{}", text.replace('@', wrong))).unwrap_err().to_string();
                let expected = format!(
                    "c.yml: share_ports is on: expected {key} to have %i in its path, such as \"{example}\", since each instance needs \
                     a file of its own; %i stands for the name of the instance"
                );
                assert_eq!(error, expected);
            }
            assert!(of(&format!("{SHARED}{}", text.replace('@', "a%ib"))).is_ok(), "{text}");
            assert!(of(&text.replace('@', "x")).is_ok(), "{text}");
        }
        // The default file is common to all, too. A file that is not written is not.
        assert!(
            of(&format!("{SHARED}logger: {{output: file}}\n")).is_err_and(|e| e.to_string().contains("logger.file"))
        );
        assert!(of(&format!("{SHARED}logger: {{output: stderr, file: /l}}\n")).is_ok());
    }

    #[test]
    fn a_path_for_instances_needs_one_and_may_get_too_long() {
        for (text, key) in [
            ("logger: {file: '/%i'}\n", "logger.file"),
            ("history: {state: '/%i'}\n", "history.state"),
            ("websocket_uri: 'unix:/%i'\n", "websocket_uri"),
            ("status_uri: 'unix:/%i'\n", "status_uri"),
        ] {
            let error = settings(text).for_instance(None).unwrap_err();
            assert!(error.starts_with(&format!("{key}: ")) && error.contains("--instance NAME"), "{error}");
        }
        let long = settings(&format!("status_uri: 'unix:/{}/%i'\n", "d".repeat(60)));
        let of = |length| long.clone().for_instance(Some(&Instance("i".repeat(length))));
        assert!(of(41).is_ok());
        assert!(of(64).is_err_and(|e| e.starts_with("status_uri: /ddd") && e.contains("at most 107 bytes")));
    }
}
