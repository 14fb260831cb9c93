//! Settings that name the same file twice: whoever writes to the one would overwrite the other.

use super::{Endpoint, Logger, Output, Settings};
use std::ffi::OsStr;
use std::fs::canonicalize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where lines go if they are to go to a file and none is named.
pub const DEFAULT_LOG: &str = "/var/log/recodex/monitor.log";

/// A path with `.suffix` at its end.
#[must_use]
pub fn with_suffix(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// What a path leads to, and what its name is once its directory is resolved. A file need not exist.
fn resolved(path: &Path) -> Vec<PathBuf> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let by_name = canonicalize(directory).ok().zip(path.file_name()).map(|(directory, name)| directory.join(name));
    let found: Vec<_> = canonicalize(path).into_iter().chain(by_name).collect();
    if found.is_empty() { vec![path.to_path_buf()] } else { found }
}

impl Logger {
    /// The file that the log is written to, if it goes to one.
    fn path(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| (self.output == Output::File).then(|| DEFAULT_LOG.into()))
    }

    /// Whether `path` is the log file `log`, or one that it is rotated to.
    fn writes(&self, log: &Path, path: &Path) -> bool {
        let number = |suffix: &[u8]| str::from_utf8(suffix.strip_prefix(b".")?).ok()?.parse::<usize>().ok();
        let rotated = path.as_os_str().as_bytes().strip_prefix(log.as_os_str().as_bytes()).and_then(number);
        path == log || rotated.is_some_and(|number| (1..=self.rotations).contains(&number))
    }
}

impl Settings {
    /// What else the file of `history.state` is, if anything; `config` is the file of these settings.
    pub(super) fn history_collides(&self, config: &Path) -> Option<String> {
        let state = self.history.state.as_deref()?;
        let mut others = vec![(config.to_path_buf(), "the configuration file")];
        if let Some(tls) = &self.tls {
            others.extend([(tls.certificate(), "tls.certificate"), (tls.key(), "tls.key")]);
        }
        if let Endpoint::Unix(path) = &self.websocket_uri {
            others.push((with_suffix(path, "new"), "the socket of websocket_uri"));
            others.push((path.clone(), "the socket of websocket_uri"));
        }
        let own: Vec<_> = [state.to_path_buf(), with_suffix(state, "new"), with_suffix(state, "bad")]
            .iter()
            .flat_map(|path| resolved(path))
            .collect();
        let logs = self.logger.path().map_or_else(Vec::new, |log| resolved(&log));
        let what = if logs.iter().any(|log| own.iter().any(|path| self.logger.writes(log, path))) {
            "a file of the log"
        } else {
            others.iter().find(|(other, _)| resolved(other).iter().any(|path| own.contains(path)))?.1
        };
        let state = state.display();
        Some(format!("history.state: {state}, {state}.new or {state}.bad is {what}, too; expected a file of its own"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn the_history_has_a_file_of_its_own_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = directory.path().join("c.yml");
        create_dir(at("sub")).unwrap();
        symlink(directory.path(), at("link")).unwrap();
        write(at("cert"), "x").unwrap();
        symlink(at("cert"), at("cert-link")).unwrap();
        let log = format!("logger: {{file: '{}', rotations: 3}}\n", at("m.log"));
        let tls = format!("tls: {{certificate: '{}', key: '{}'}}\n", at("cert-link"), at("key"));
        let socket = format!("websocket_uri: 'unix:{}'\n", at("socket"));
        for (more, state, what) in [
            (&log, at("m.log"), Some("a file of the log")),
            (&log, at("m.log.1"), Some("a file of the log")),
            (&log, at("m.log.3"), Some("a file of the log")),
            (&log, at("m.log.4"), None),
            (&log, at("sub/../m.log"), Some("a file of the log")),
            (&log, at("link/m.log"), Some("a file of the log")),
            (&log, at("link/sub/m.log"), None),
            (&tls, at("cert"), Some("tls.certificate")),
            (&tls, at("link/cert-link"), Some("tls.certificate")),
            (&tls, at("key"), Some("tls.key")),
            (&socket, at("socket"), Some("the socket of websocket_uri")),
            (&socket, at("socket.new"), Some("the socket of websocket_uri")),
            (&String::new(), at("c.yml"), Some("the configuration file")),
            (&String::new(), at("./c.yml"), Some("the configuration file")),
            (&String::new(), at("history"), None),
            (&"logger: {output: file}\n".into(), DEFAULT_LOG.into(), Some("a file of the log")),
            (&"logger: {output: journald}\n".into(), DEFAULT_LOG.into(), None),
            (&format!("logger: {{file: '{}'}}\n", at("h.new")), at("h"), Some("a file of the log")),
        ] {
            let text = format!("{more}history: {{state: '{state}'}}\n");
            let settings = Settings::parse(&config, text.as_bytes()).unwrap();
            let found = settings.history_collides(&config);
            let found = found.as_deref().map(|found| found.split_once(" is ").unwrap().1.split_once(',').unwrap().0);
            assert_eq!(found, what, "{text}");
        }
    }
}
