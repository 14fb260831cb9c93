//! Refuses settings that name the same file twice, since one use would overwrite the other.

use super::{Endpoint, Logger, Output, Settings};
use crate::fs::{directory_of, temporary_path, with_suffix};
use std::fs::canonicalize;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The log file if `logger.output` is `file` and no file is named.
pub(crate) const DEFAULT_LOG: &str = "/var/log/recodex/monitor.log";

/// Returns the file that a path leads to, and the path with its directory resolved. The file need not exist. A device or a FIFO has
/// no content that could be lost, so that nothing is returned for it.
fn resolved(path: &Path) -> Vec<PathBuf> {
    if path.metadata().is_ok_and(|found| found.file_type().is_char_device() || found.file_type().is_fifo()) {
        return Vec::new();
    }
    let by_name =
        canonicalize(directory_of(path)).ok().zip(path.file_name()).map(|(directory, name)| directory.join(name));
    let found: Vec<_> = canonicalize(path).into_iter().chain(by_name).collect();
    if found.is_empty() { vec![path.to_path_buf()] } else { found }
}

/// The files of one setting.
struct Files {
    /// The setting.
    of: &'static str,
    paths: Vec<PathBuf>,
    /// True if the monitor writes, renames or removes them.
    changes: bool,
}

impl Files {
    fn new(of: &'static str, changes: bool, paths: &[PathBuf]) -> Self {
        Self { of, paths: paths.iter().flat_map(|path| resolved(path)).collect(), changes }
    }

    /// Returns the log and its rotated files.
    fn log(log: &Path, rotations: usize) -> Self {
        let rotated =
            |log: PathBuf| (1..=rotations).map(|n| with_suffix(&log, n.to_string())).chain([log.clone()]).collect();
        Self {
            of: "logger.file",
            paths: resolved(log).into_iter().flat_map::<Vec<_>, _>(rotated).collect(),
            changes: true,
        }
    }
}

impl Logger {
    /// Returns the file that the log is written to, if it goes to a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match self.output {
            Output::Auto => self.file.as_deref(),
            Output::File => Some(self.file.as_deref().unwrap_or(Path::new(DEFAULT_LOG))),
            Output::Journald | Output::Stderr => None,
        }
    }
}

/// Returns the path at which the file of `history.state` is written, until it is whole.
pub(crate) fn unfinished_history(state: &Path) -> PathBuf {
    with_suffix(state, "new")
}

/// Returns the path to which the file of `history.state` is renamed if it cannot be used.
pub(crate) fn unusable_history(state: &Path) -> PathBuf {
    with_suffix(state, "bad")
}

impl Settings {
    /// Returns the error if two settings use one file, and at least one of them changes it; `config` is the file of these settings.
    pub(crate) fn collision(&self, config: &Path) -> Option<String> {
        let mut all = vec![Files::new("the configuration", false, &[config.to_path_buf()])];
        if let Some(tls) = &self.tls {
            all.push(Files::new("tls.certificate", false, &[tls.certificate()]));
            all.push(Files::new("tls.key", false, &[tls.key()]));
        }
        if let Some(cluster) = &self.cluster {
            let files = [("cluster.password_file", cluster.password_file()), ("cluster.tls.ca", cluster.ca())];
            all.extend(files.into_iter().filter_map(|(of, path)| Some(Files::new(of, false, &[path?]))));
        }
        if let Some(state) = &self.history.state {
            let files = [state.clone(), unfinished_history(state), unusable_history(state)];
            all.push(Files::new("history.state", true, &files));
        }
        let sockets = [
            ("websocket_uri", "the temporary name of websocket_uri", Some(&self.websocket_uri)),
            ("status_uri", "the temporary name of status_uri", self.status_uri.endpoint()),
        ];
        for (key, temporary, endpoint) in sockets {
            if let Some(Endpoint::Unix(path)) = endpoint {
                all.push(Files::new(key, true, std::slice::from_ref(path)));
                all.push(Files::new(temporary, true, &[temporary_path(path)]));
            }
        }
        if let Some(log) = self.logger.path() {
            all.push(Files::log(log, self.logger.rotations));
        }
        let pairs = all.iter().enumerate().flat_map(|(i, one)| all[..i].iter().map(move |other| (other, one)));
        pairs.filter(|(one, other)| one.changes || other.changes).find_map(|(one, other)| {
            let path = one.paths.iter().find(|path| other.paths.contains(path))?.display();
            Some(format!("{} and {} both use {path}; expected a file of its own for each", other.of, one.of))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn every_setting_has_files_of_its_own_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = directory.path().join("c.yml");
        create_dir(at("sub")).unwrap();
        symlink(directory.path(), at("link")).unwrap();
        write(at("cert"), "x").unwrap();
        symlink(at("cert"), at("cert-link")).unwrap();
        let history = |name: &str| format!("history: {{state: '{}'}}\n", at(name));
        let log = |name: &str| format!("logger: {{file: '{}', rotations: 3}}\n", at(name));
        let tls = |key: &str| format!("tls: {{certificate: '{}', key: '{}'}}\n", at("cert-link"), at(key));
        let socket = |name: &str| format!("websocket_uri: 'unix:{}'\n", at(name));
        let status = |name: &str| format!("status_uri: 'unix:{}'\n", at(name));
        let the_socket = Some("websocket_uri and history.state");
        let the_log = Some("logger.file and history.state");
        for (one, other, users) in [
            (log("m.log"), history("m.log"), the_log),
            (log("m.log"), history("m.log.1"), the_log),
            (log("m.log"), history("m.log.3"), the_log),
            (log("m.log"), history("m.log.4"), None),
            (log("m.log"), history("sub/../m.log"), the_log),
            (log("m.log"), history("link/m.log"), the_log),
            (log("m.log"), history("link/sub/m.log"), None),
            (log("h.new"), history("h"), the_log),
            (log("h"), history("h2"), None),
            ("logger: {output: file}\n".into(), format!("history: {{state: {DEFAULT_LOG}}}\n"), the_log),
            ("logger: {output: journald}\n".into(), format!("history: {{state: {DEFAULT_LOG}}}\n"), None),
            (tls("key"), history("cert"), Some("history.state and tls.certificate")),
            (tls("key"), history("link/cert-link"), Some("history.state and tls.certificate")),
            (tls("key"), history("key"), Some("history.state and tls.key")),
            (socket("s"), history("s"), the_socket),
            (socket("s"), history("s.new"), Some("the temporary name of websocket_uri and history.state")),
            (history("c.yml"), String::new(), Some("history.state and the configuration")),
            (history("./c.yml"), String::new(), Some("history.state and the configuration")),
            (history("h"), String::new(), None),
            (log("c.yml"), String::new(), Some("logger.file and the configuration")),
            (log("link/c.yml"), String::new(), Some("logger.file and the configuration")),
            (log("cert"), tls("key"), Some("logger.file and tls.certificate")),
            (log("key"), tls("key"), Some("logger.file and tls.key")),
            (tls("cert"), String::new(), None),
            (socket("c.yml"), String::new(), Some("websocket_uri and the configuration")),
            (socket("s"), log("s"), Some("logger.file and websocket_uri")),
            (socket("s"), log("s.new"), Some("logger.file and the temporary name of websocket_uri")),
            (socket("m.log.2"), log("m.log"), Some("logger.file and websocket_uri")),
            (socket("s"), log("m.log"), None),
            (socket("s"), status("s"), Some("status_uri and websocket_uri")),
            (socket("s"), status("s.new"), Some("status_uri and the temporary name of websocket_uri")),
            (socket("s.new"), status("s"), Some("the temporary name of status_uri and websocket_uri")),
            (socket("s"), status("t"), None),
            (status("s"), history("s.new"), Some("the temporary name of status_uri and history.state")),
        ] {
            let text = format!("{one}{other}");
            let settings = Settings::parse(&config, text.as_bytes()).unwrap();
            let found = settings.collision(&config);
            let found = found.as_deref().map(|found| found.split_once(" both use ").unwrap().0);
            assert_eq!(found, users, "{text}");
        }
        // The configuration has the temporary name of the socket.
        let config = directory.path().join("s.new");
        let settings = Settings::parse(&config, socket("s").as_bytes()).unwrap();
        assert!(settings.collision(&config).is_some());
        // Several settings may name the same device.
        let null = Path::new("/dev/null");
        let settings = Settings::parse(null, b"logger: {file: /dev/null}").unwrap();
        assert_eq!(settings.collision(null), None);
    }

    #[test]
    fn a_socket_whose_temporary_path_is_too_long_is_refused() {
        let parse =
            |path: &str| Settings::parse(Path::new("c.yml"), format!("websocket_uri: 'unix:{path}'").as_bytes());
        for (directory, name, is_fine) in
            [(90, 16, true), (90, 17, false), (102, 4, true), (102, 1, true), (103, 3, false), (104, 1, false)]
        {
            let path = format!("/{}/{}", "d".repeat(directory - 1), "s".repeat(name));
            assert_eq!(parse(&path).is_ok(), is_fine, "{directory} {name}");
        }
        let error = parse(&format!("/{}", "s".repeat(107))).unwrap_err().to_string();
        assert!(error.contains("at most 107 bytes"), "{error}");
    }
}
