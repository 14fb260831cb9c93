//! Reading a configuration file, at a start and at a reload.

use super::error::{ConfigError, Mistake};
use super::yaml::MAX_FILE;
use super::{Endpoint, Settings, Source, Who, explain, writers, yaml};
use crate::fs::{self, Accept, Content};
use nix::unistd::geteuid;
use std::path::Path;
use std::time::Duration;

/// The time for which a file must stay unchanged at a reload before it counts as saved.
const QUIET: Duration = Duration::from_millis(200);
/// The same for a file whose last line has no line break, since the file may be cut off there.
const QUIET_IF_CUT: Duration = Duration::from_secs(1);

/// The error for a file in another encoding.
const UTF_16: &str = "the file is in UTF-16; save it as UTF-8 (in Notepad: `Save as`, encoding `UTF-8`)";

impl Source {
    /// Reads the file or a pipe at a start. An empty file means that every setting has its default.
    ///
    /// # Errors
    /// If it cannot be read, or is no valid configuration.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        let read = fs::read_bounded(&self.path, MAX_FILE, Accept::FileOrPipe);
        self.parse(&read.map_err(|message| self.error(message))?)
    }

    /// Reads the file again for a monitor that runs. Blocks, for some seconds at most, until the file stops changing.
    ///
    /// # Errors
    /// As [`Source::load`]; and if it is no regular file, keeps changing, or sets nothing.
    pub(crate) fn load_again(&self) -> Result<Settings, ConfigError> {
        let path = &*self.path;
        let quiet = |read: &Result<Content, String>| match read {
            Ok(read) if !read.bytes.ends_with(b"\n") => QUIET_IF_CUT,
            _ => QUIET,
        };
        let read = fs::settled(quiet, || fs::read_bounded(path, MAX_FILE, Accept::File)).and_then(|read| read);
        match self.parse_and_count(&read.map_err(|message| self.error(message))?)? {
            (_, 0) => Err(self.error(
                "it sets nothing, and at a reload that would give every setting its default; restart the monitor if you mean that".into(),
            )),
            (settings, _) => Ok(settings),
        }
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// If it is no valid configuration.
    pub(crate) fn parse(&self, content: &Content) -> Result<Settings, ConfigError> {
        self.parse_and_count(content).map(|(settings, _)| settings)
    }

    /// Parses the content of the file, and counts the settings in it.
    fn parse_and_count(&self, content: &Content) -> Result<(Settings, usize), ConfigError> {
        let parsed = Settings::parse_and_count(&self.path, &content.bytes);
        let finished = parsed.and_then(|(settings, count)| Ok((self.finish(settings)?, count)));
        finished.map_err(|error| self.without_content(error, content))
    }

    /// Returns the error as root may show it. If others than the file's owner and root can put another file at the path, that may be a
    /// file which they cannot read: the error then has the position of the mistake, and nothing from the file.
    fn without_content(&self, error: ConfigError, content: &Content) -> ConfigError {
        if !geteuid().is_root() {
            return error;
        }
        let why = match writers(&self.path, content.id()) {
            Ok((writers, owner)) => match writers.into_iter().find(|writer| writer.who != Who::User(owner)) {
                Some(writer) => writer.to_string(),
                None => return error,
            },
            Err(what) => format!("it is not known who can change it ({what})"),
        };
        error.with_message(format!(
            "this is no valid configuration. Root shows nothing of its text, since others could put a file there that they cannot read: \
             {why}. Run `recodex-monitor check` as a user who can read the file, or let only root, or only its owner, write the file and \
             every directory on the way to it (`chown`, `chmod go-w`)"
        ))
    }

    /// Puts the instance's name into the paths, and refuses settings that then use one file for two purposes.
    fn finish(&self, settings: Settings) -> Result<Settings, ConfigError> {
        let mut settings = settings.for_instance(self.instance.as_ref()).map_err(|message| self.error(message))?;
        if let Some(directory) = &self.runtime_directory {
            settings.status_uri.default_in(directory, self.instance.as_ref());
        }
        match settings.collision(&self.path) {
            Some(message) => Err(self.error(message)),
            None => Ok(settings),
        }
    }

    fn error(&self, message: String) -> ConfigError {
        ConfigError::of_file(&self.path, message)
    }
}

impl Settings {
    /// Parses the content of a configuration file; `path` is for the error. `%i` stays in the paths.
    ///
    /// # Errors
    /// If it is no valid configuration, or larger than [`MAX_FILE`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_and_count(path, bytes).map(|(settings, _)| settings)
    }

    /// Parses the content of a file, and counts the settings in it.
    fn parse_and_count(path: &Path, bytes: &[u8]) -> Result<(Self, usize), ConfigError> {
        let error = |mistake| ConfigError::new(path, mistake);
        let text = decode(bytes).map_err(error)?;
        let count = yaml::check(text).map_err(error)?;
        // An empty file, or one of comments only, sets nothing.
        let settings: Result<Option<Self>, _> = serde_yaml::from_str(text);
        let settings = settings.map(Option::unwrap_or_default).map_err(|e| error(explain::yaml(text, &e)))?;
        match settings.contradiction().map(str::to_owned).or_else(|| settings.common_path()) {
            Some(message) => Err(ConfigError::of_file(path, message)),
            None => Ok((settings, count)),
        }
    }

    /// Returns the error for keys that contradict each other, if there are any.
    fn contradiction(&self) -> Option<&'static str> {
        if self.websocket_proxy_protocol && self.trusted_proxies.is_empty() {
            return Some(
                "websocket_proxy_protocol is on: expected trusted_proxies to name the proxies that send its header",
            );
        }
        if self.tls.is_some() && matches!(self.websocket_uri, Endpoint::Unix(_)) {
            return Some("tls is set: expected websocket_uri to be a host and a port, not a Unix socket");
        }
        if self.share_ports && self.cluster.is_none() {
            return Some(
                "share_ports is on: expected a section cluster, since a viewer and the broker of its job may come to different instances",
            );
        }
        if self.share_ports && matches!(self.status_uri.endpoint(), Some(Endpoint::Tcp(_))) {
            return Some(
                "share_ports is on: expected status_uri to be a Unix socket, such as \"unix:/run/recodex/%i.sock\", since at a shared \
                 port any of the instances would answer",
            );
        }
        let of_viewers = match &self.websocket_uri {
            Endpoint::Tcp(address) => Some(address.port),
            Endpoint::Unix(_) => None,
        };
        if self.share_ports && self.zeromq_uri.port > 0 && of_viewers == Some(self.zeromq_uri.port) {
            return Some(
                "share_ports is on: expected websocket_uri and zeromq_uri to have different ports, since each can be bound twice",
            );
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.user.is_some() && cluster.password_file.is_none()) {
            return Some(
                "cluster.user is set: expected cluster.password_file to name the file with the user's password",
            );
        }
        None
    }
}

/// Returns the text of a file, without a byte order mark: positions are counted without it.
fn decode(bytes: &[u8]) -> Result<&str, Mistake> {
    let bytes = fs::without_mark(bytes);
    if fs::is_utf_16(bytes) {
        return Err(Mistake { position: Some((1, 1)), message: UTF_16.into() });
    }
    str::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        let position = Some(explain::position(&good, good.len()));
        Mistake { position, message: "expected UTF-8, found another byte".into() }
    })
}
