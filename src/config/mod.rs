//! The configuration: a YAML file becomes [`Settings`] that cannot be wrong, or an error that says where and what.
//!
//! The checks run while serde reads the file, since only then is the position of every value known.

mod access;
mod address;
mod descriptors;
mod explain;
mod node;
mod origin;
mod paths;
mod typed;
mod value;
mod yaml;

pub use access::{Network, Proxy, ProxyHeader};
pub use address::{Address, Endpoint, Mode};
pub use origin::Origin;
pub use paths::{DEFAULT_LOG, temporary_path, with_suffix};
pub use value::{Level, Output, Seconds};
pub use yaml::{MAX_BRACKETS, MAX_DEPTH, MAX_FILE};

use crate::error::{Exit, Failure};
use crate::fs::{self, Stamped};
use crate::rlimit;
use explain::Mistake;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long a file must stay as it is at a reload before it is taken for saved; and if its last line has no end, since it may be cut.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_IF_CUT: Duration = Duration::from_secs(1);

/// The error for a file in another encoding.
const UTF_16: &str = "the file is in UTF-16; save it as UTF-8 (in Notepad: `Save as`, encoding `UTF-8`)";

/// The user that ReCodEx's services run as.
pub const DEFAULT_USER: &str = "recodex";

/// Everything that can be set. Each key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "settings as `key: value` lines")]
pub struct Settings {
    /// Where viewers connect.
    pub websocket_uri: Endpoint,
    /// Who may open the Unix socket of `websocket_uri`.
    pub websocket_mode: Mode,
    /// Whether a viewer's connection begins with a header of the PROXY protocol.
    pub websocket_proxy_protocol: bool,
    /// Where brokers connect.
    pub zeromq_uri: Address,
    /// Where the monitor tells what it does; by default nowhere.
    pub status_uri: Option<Address>,
    /// The certificate with which viewers are served over TLS; by default none.
    pub tls: Option<Tls>,
    /// The origins whose pages may connect; `https://*.example.org` is every host below the domain.
    #[serde(deserialize_with = "access::list")]
    pub allowed_origins: Vec<Origin>,
    /// Whose word is taken for a viewer's address.
    #[serde(deserialize_with = "access::list")]
    pub trusted_proxies: Vec<Proxy>,
    /// The request header in which `trusted_proxies` name the viewer; no other is believed.
    #[serde(deserialize_with = "access::proxy_header")]
    pub proxy_header: ProxyHeader,
    /// Whether the message `0`, `exit` stops the monitor, as it does the Python one.
    pub accept_exit: bool,
    /// Whom the monitor becomes if it is started as root.
    pub user: String,
    /// With which group; by default the user's own.
    pub group: Option<String>,
    /// What is logged.
    #[serde(deserialize_with = "value::or_default")]
    pub logger: Logger,
    /// How long and how much history is kept.
    #[serde(deserialize_with = "value::or_default")]
    pub history: History,
    /// Bounds on viewers.
    #[serde(deserialize_with = "value::or_default")]
    pub clients: Clients,
    /// Bounds on brokers.
    #[serde(deserialize_with = "value::or_default")]
    pub zeromq: Zeromq,
}

/// The keys under `tls`. Both are PEM files; a relative path is one in `$CREDENTIALS_DIRECTORY`, if that is set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "the keys `certificate` and `key`")]
pub struct Tls {
    /// The certificate, followed by those that lead to its root.
    #[serde(deserialize_with = "value::some_path")]
    pub certificate: PathBuf,
    /// Its private key.
    #[serde(deserialize_with = "value::some_path")]
    pub key: PathBuf,
}

/// The keys under `logger`. The names are those of the Python monitor.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the keys of `logger`")]
pub struct Logger {
    /// Where lines go.
    #[serde(deserialize_with = "value::output")]
    pub output: Output,
    /// The log file.
    #[serde(deserialize_with = "value::path")]
    pub file: Option<PathBuf>,
    /// The least severe level that is logged.
    pub level: Level,
    /// The size in bytes at which the file is rotated; 0: never.
    #[serde(deserialize_with = "value::whole::<_, 0, { 1 << 40 }>")]
    pub max_size: usize,
    /// How many rotated files are kept; 0: the file is never rotated.
    #[serde(deserialize_with = "value::whole::<_, 0, 1000>")]
    pub rotations: usize,
}

/// The keys under `history`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `history`")]
pub struct History {
    /// How long a finished job's history is kept.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub finished: Seconds,
    /// How long a job that never finished is kept after its last message or new viewer.
    #[serde(deserialize_with = "value::seconds::<_, 100, 31_536_000>")]
    pub unfinished: Seconds,
    /// How long after FAILED, and nothing more, the monitor finishes the job itself, `history.unfinished` at most; 0: never.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub release_failed: Seconds,
    /// The time of silence after ABORTED before the monitor finishes the job itself, `history.unfinished` at most; 0: never.
    #[serde(deserialize_with = "value::seconds::<_, 0, 604_800>")]
    pub release_aborted: Seconds,
    /// The file that keeps the history from a stop to the next start.
    #[serde(deserialize_with = "value::path")]
    pub state: Option<PathBuf>,
    /// The most messages kept of one job.
    #[serde(deserialize_with = "value::whole::<_, 1, 1_000_000_000>")]
    pub channel_messages: usize,
    /// The most bytes kept of one job.
    #[serde(deserialize_with = "value::whole::<_, 1024, { 1 << 40 }>")]
    pub channel_bytes: usize,
    /// The most bytes kept of all jobs together, bookkeeping included.
    #[serde(deserialize_with = "value::whole::<_, 65_536, { 1 << 40 }>")]
    pub total_bytes: usize,
}

/// The keys under `clients`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `clients`")]
pub struct Clients {
    /// The most viewers at once; by default what the limit of open files allows.
    #[serde(deserialize_with = "value::whole::<_, 1, 10_000_000>")]
    pub max: usize,
    /// The most viewers from one address, of IPv6 from one network of 64 bits; 0: no bound.
    #[serde(deserialize_with = "value::whole::<_, 0, 10_000_000>")]
    pub max_per_address: usize,
    /// How long a client may take to send its request.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub handshake_timeout: Seconds,
    /// How long it may then take to name its channel; after it FINISHED is sent, and the viewer is closed with 1008.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub subscribe_timeout: Seconds,
    /// How often a viewer is pinged.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub ping_interval: Seconds,
    /// How long it may take to answer.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub ping_timeout: Seconds,
    /// How long it may take nothing of what waits for it.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub stall_timeout: Seconds,
    /// Sends FINISHED before the monitor closes a viewer whose job has not finished.
    pub finish_on_close: bool,
}

/// The keys under `zeromq`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "the keys of `zeromq`")]
pub struct Zeromq {
    /// Who may connect.
    #[serde(deserialize_with = "access::list")]
    pub allow: Vec<Network>,
    /// The most broker links at once.
    #[serde(deserialize_with = "value::whole::<_, 1, 10_000>")]
    pub max_connections: usize,
    /// How long a peer may take to shake hands.
    #[serde(deserialize_with = "value::seconds::<_, 100, 3600>")]
    pub handshake_timeout: Seconds,
}

impl Tls {
    /// Where the certificate is.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        credential(&self.certificate)
    }

    /// Where its key is.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        credential(&self.key)
    }
}

fn credential(path: &Path) -> PathBuf {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if path.is_relative() => Path::new(&directory).join(path),
        _ => path.into(),
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            websocket_uri: Endpoint::Tcp(Address { host: "127.0.0.1".into(), port: 4567 }),
            websocket_mode: Mode::GROUP,
            websocket_proxy_protocol: false,
            zeromq_uri: Address { host: "127.0.0.1".into(), port: 7894 },
            status_uri: None,
            tls: None,
            allowed_origins: vec![Origin::Any],
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::XForwardedFor,
            accept_exit: false,
            user: DEFAULT_USER.into(),
            group: None,
            logger: Logger::default(),
            history: History::default(),
            clients: Clients::default(),
            zeromq: Zeromq::default(),
        }
    }
}

impl Default for Logger {
    fn default() -> Self {
        Self { output: Output::Auto, file: None, level: Level::Info, max_size: 1024 * 1024, rotations: 3 }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            finished: Seconds::from_secs(5 * 60),
            unfinished: Seconds::from_secs(24 * 60 * 60),
            release_failed: Seconds::from_secs(10),
            release_aborted: Seconds::from_secs(5 * 60),
            state: None,
            channel_messages: 200_000,
            channel_bytes: 16 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
        }
    }
}

impl History {
    /// How long after FAILED a channel is finished by the monitor, if ever.
    #[must_use]
    pub fn release_failed(&self) -> Option<Duration> {
        Some(self.release_failed.duration()).filter(|time| !time.is_zero())
    }

    /// The time of silence after ABORTED before the monitor finishes a job, or `None` for never.
    #[must_use]
    pub fn release_aborted(&self) -> Option<Duration> {
        Some(self.release_aborted.duration()).filter(|time| !time.is_zero())
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            max: rlimit::default_max_clients(),
            max_per_address: 0,
            handshake_timeout: Seconds::from_secs(10),
            subscribe_timeout: Seconds::from_secs(10),
            ping_interval: Seconds::from_secs(20),
            ping_timeout: Seconds::from_secs(20),
            stall_timeout: Seconds::from_secs(30),
            finish_on_close: true,
        }
    }
}

impl Zeromq {
    /// Whether `allow` names this address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(address))
    }
}

impl Default for Zeromq {
    fn default() -> Self {
        Self {
            allow: Network::all(),
            max_connections: rlimit::DEFAULT_BROKERS,
            handshake_timeout: Seconds::from_secs(5),
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    path: PathBuf,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    message: String,
}

impl ConfigError {
    /// An error of the file as a whole.
    fn of_file(path: &Path, message: String) -> Self {
        Self { path: path.into(), place: None, message }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl Settings {
    /// Reads a configuration file, or a pipe, at a start: an empty file sets nothing.
    ///
    /// # Errors
    /// If it cannot be read, or is not what [`Settings`] describes.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = fs::read_bounded_or_pipe(path, MAX_FILE).map_err(|message| ConfigError::of_file(path, message))?;
        Self::parse(path, &bytes)?.apart(path)
    }

    /// Reads a configuration file anew for a monitor that runs. Waits, for seconds at most, until it is no longer being saved.
    ///
    /// # Errors
    /// As [`Settings::load`]; and if it is no regular file, keeps changing, or sets nothing, as one that is about to be saved.
    pub fn load_again(path: &Path) -> Result<Self, ConfigError> {
        let error = |message| ConfigError::of_file(path, message);
        let quiet = |read: &Result<Stamped, String>| match read {
            Ok(read) if !read.bytes.ends_with(b"\n") => QUIET_IF_CUT,
            _ => QUIET,
        };
        let read = fs::settled(quiet, || fs::read_stamped(path, MAX_FILE)).and_then(|read| read);
        let bytes = read.map_err(error)?.bytes;
        match Self::parse_and_count(path, &bytes)? {
            (_, 0) => Err(error(
                "it sets nothing, and at a reload that would give every setting its default; restart the monitor if you mean that".into(),
            )),
            (settings, _) => settings.apart(path),
        }
    }

    /// The settings, unless they name one file for two purposes; `path` is their own file.
    fn apart(self, path: &Path) -> Result<Self, ConfigError> {
        match self.collision(path) {
            Some(message) => Err(ConfigError::of_file(path, message)),
            None => Ok(self),
        }
    }

    /// Reads the content of a configuration file; `path` is for the error.
    ///
    /// # Errors
    /// If it is not what [`Settings`] describes, or larger than [`MAX_FILE`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::parse_and_count(path, bytes).map(|(settings, _)| settings)
    }

    /// The same, with the number of settings in the file.
    fn parse_and_count(path: &Path, bytes: &[u8]) -> Result<(Self, usize), ConfigError> {
        let error = |Mistake { place, message }| ConfigError { path: path.into(), place, message };
        // Positions are counted without it.
        let bytes = fs::without_mark(bytes);
        if fs::is_utf_16(bytes) {
            return Err(error(Mistake { place: Some((1, 1)), message: UTF_16.into() }));
        }
        let text = str::from_utf8(bytes).map_err(|e| {
            let good = &bytes[..e.valid_up_to()];
            let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
            let line = good.split(|b| *b == b'\n').count();
            error(Mistake { place: Some((line, column)), message: "expected UTF-8, found another byte".into() })
        })?;
        let count = yaml::check(text).map_err(error)?;
        // An empty file, or one of comments only, sets nothing.
        let settings: Result<Option<Self>, _> = serde_yaml::from_str(text);
        let settings = settings.map(Option::unwrap_or_default).map_err(|e| error(explain::yaml(text, &e)))?;
        match settings.contradiction() {
            Some(message) => Err(ConfigError::of_file(path, message.into())),
            None => Ok((settings, count)),
        }
    }

    /// What is wrong between keys that are right by themselves.
    fn contradiction(&self) -> Option<&'static str> {
        if self.websocket_proxy_protocol && self.trusted_proxies.is_empty() {
            return Some(
                "websocket_proxy_protocol is on: expected trusted_proxies to name the proxies that send its header",
            );
        }
        if self.tls.is_some() && matches!(self.websocket_uri, Endpoint::Unix(_)) {
            return Some("tls is set: expected websocket_uri to be a host and a port, not a Unix socket");
        }
        None
    }

    /// What of these settings can be taken up where `old` are in force; and the keys of those that need a restart, which stay.
    #[must_use]
    pub fn without_restart(self, old: &Self) -> (Self, Vec<&'static str>) {
        let mut new = self;
        let mut fixed = Vec::new();
        macro_rules! fix {
            ($($field:ident).+, $key:literal) => {
                if new.$($field).+ != old.$($field).+ {
                    fixed.push($key);
                    new.$($field).+.clone_from(&old.$($field).+);
                }
            };
        }
        fix!(websocket_uri, "websocket_uri");
        fix!(websocket_mode, "websocket_mode");
        fix!(zeromq_uri, "zeromq_uri");
        fix!(status_uri, "status_uri");
        fix!(user, "user");
        fix!(group, "group");
        fix!(logger.output, "logger.output");
        fix!(logger.file, "logger.file");
        if new.tls.is_some() != old.tls.is_some() {
            fixed.push("tls");
            new.tls.clone_from(&old.tls);
        }
        (new, fixed)
    }

    /// The settings as a configuration file that sets every key.
    ///
    /// # Panics
    /// Never: every field can be written as YAML.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("settings are plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("c.yml"), text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_python_monitors_file_works_unchanged() {
        let text = "---\nwebsocket_uri:\n    - \"127.0.0.1\"\n    - \"4568\"\nzeromq_uri: [\"*\", 7895]\nlogger:\n    \
                    file: \"/var/log/recodex/monitor.log\"\n    level: \"WARNING\"\n    max-size: 2048\n    rotations: 7\n...\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.websocket_uri, Endpoint::Tcp(Address { host: "127.0.0.1".into(), port: 4568 }));
        assert_eq!(settings.zeromq_uri, Address { host: "*".into(), port: 7895 });
        assert_eq!(settings.logger.file.as_deref(), Some(Path::new("/var/log/recodex/monitor.log")));
        assert_eq!(
            (settings.logger.level, settings.logger.max_size, settings.logger.rotations),
            (Level::Warning, 2048, 7)
        );
        assert_eq!(settings.history, History::default());
    }

    #[test]
    fn nothing_set_is_all_defaults() {
        for text in ["", "---\n", "# only a comment\n", "{}", "logger: {}\n", "logger:\n  # file: /x\nhistory:\n"] {
            assert_eq!(parse(text), Ok(Settings::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let changed =
            parse("history: {finished: 0.3, unfinished: 7200}\nlogger: {file: /x}\naccept_exit: true\n").unwrap();
        let proxied = parse(
            "websocket_uri: unix:/run/x\nwebsocket_mode: 0600\ntrusted_proxies: [\"unix:\", 10.0.0.0/8]\n\
             proxy_header: x-real-ip\nstatus_uri: [localhost, 1]\nallowed_origins: [\"HTTPS://a.example:443\"]\n",
        );
        let tls = parse("tls: {certificate: a.pem, key: /b}\n").unwrap();
        for settings in [Settings::default(), changed, proxied.unwrap(), tls] {
            assert_eq!(parse(&settings.to_yaml()), Ok(settings));
        }
    }

    #[test]
    fn errors_name_the_place_and_what_was_expected() {
        let known = "websocket_uri, websocket_mode, websocket_proxy_protocol, zeromq_uri, status_uri, tls, allowed_origins, trusted_proxies, \
                     proxy_header, accept_exit, user, group, logger, history, clients, zeromq";
        for (text, error) in [
            ("websocket_url: [a, 1]\n", format!("1:1: unknown key `websocket_url`; did you mean `websocket_uri`? (known: {known})")),
            ("logger:\n  levle: debug\n", "2:3: logger: unknown key `levle`; did you mean `level`? (known: output, file, level, max-size, rotations)".into()),
            ("logger:\n  level: inof\n", "2:10: logger.level: unknown value `inof`; did you mean `info`? (known: debug, info, warning, error, critical)".into()),
            ("zeromq:\n  allow: [10.0.0.0/8, 10.0.0.0/33]\n", "2:23: zeromq.allow[1]: invalid value: string \"10.0.0.0/33\", expected an address or a network, such as \"192.0.2.7\", \"10.1.0.0/16\" or \"2001:db8::/32\"".into()),
            ("zeromq:\n  allow: 10.0.0.1\n", "2:10: zeromq.allow: invalid type: string \"10.0.0.1\", expected a list of addresses and networks".into()),
            ("xyzzy: 1\n", format!("1:1: unknown key `xyzzy` (known: {known})")),
            ("websocket_uri: [\"127.0.0.1\", 65536]\n", "1:30: websocket_uri[1]: invalid value: integer `65536`, expected a port from 0 to 65535, as a number or in quotes".into()),
            ("websocket_uri: [\"127.0.0.1\", \"http\"]\n", "1:30: websocket_uri[1]: invalid value: string \"http\", expected a port from 0 to 65535, as a number or in quotes".into()),
            ("zeromq_uri: 7894\n", "1:13: zeromq_uri: invalid type: integer `7894`, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
            ("zeromq_uri: [a]\n", "1:13: zeromq_uri: invalid length 1, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
            ("zeromq_uri: [a, 1, 2]\n", "1:13: zeromq_uri: invalid length 3, expected a host and a port, such as [\"127.0.0.1\", 4567]".into()),
            ("history:\n  finished: -1\n", "2:13: history.finished: invalid value: integer `-1`, expected a number of seconds from 0 to 604800".into()),
            ("history:\n  unfinished: .nan\n", "2:15: history.unfinished: invalid value: floating point `NaN`, expected a number of seconds from 0.1 to 31536000".into()),
            ("clients: {max: 0}\n", "1:16: clients.max: invalid value: integer `0`, expected a whole number from 1 to 10000000".into()),
            ("clients: {max: many}\n", "1:16: clients.max: invalid value: string \"many\", expected a whole number from 1 to 10000000".into()),
            ("websocket_uri: \"unix:run/x\"\n", "1:16: websocket_uri: invalid value: string \"unix:run/x\", expected a host and a port, such as [\"127.0.0.1\", 4567], or \"unix:\" and an absolute path".into()),
            ("websocket_mode: 660\n", "1:17: websocket_mode: invalid type: integer `660`, expected a mode in octal digits and quotes, such as \"0660\"".into()),
            ("websocket_mode: \"0668\"\n", "1:17: websocket_mode: invalid value: string \"0668\", expected a mode in octal digits and quotes, such as \"0660\"".into()),
            ("allowed_origins: [\"https://a/b\"]\n", "1:19: allowed_origins[0]: invalid value: string \"https://a/b\", expected an origin without a path: \"https://a\"".into()),
            ("allowed_origins: \"*\"\n", "1:18: allowed_origins: invalid type: string \"*\", expected a list of origins".into()),
            ("trusted_proxies: [nginx]\n", "1:19: trusted_proxies[0]: invalid value: string \"nginx\", expected an address or a network, such as \"192.0.2.7\" or \"10.1.0.0/16\", or \"unix:\"".into()),
            ("proxy_header: X-Forwarded-For\n", "1:15: proxy_header: unknown value `X-Forwarded-For`; did you mean `x-forwarded-for`? (known: x-forwarded-for, x-real-ip, forwarded)".into()),
            ("tls: {certificate: /a}\n", "1:6: tls: missing field `key`".into()),
            ("tls: {certificate: /a, key: \"\"}\n", "1:29: tls.key: there is no value; expected a path".into()),
            ("websocket_proxy_protocol: true\n", " websocket_proxy_protocol is on: expected trusted_proxies to name the proxies that send its header".into()),
            ("tls: {certificate: /a, key: /b}\nwebsocket_uri: \"unix:/x\"\n", " tls is set: expected websocket_uri to be a host and a port, not a Unix socket".into()),
            ("accept_exit: sometimes\n", "1:14: accept_exit: invalid type: string \"sometimes\", expected a boolean; write true or false, without quotes".into()),
            ("logger: {file: \"\"}\n", "1:16: logger.file: there is no value; expected a path".into()),
            ("- 1\n", "1:1: invalid type: sequence, expected settings as `key: value` lines".into()),
        ] {
            assert_eq!(parse(text).unwrap_err(), format!("c.yml:{error}"), "{text:?}");
        }
    }

    #[test]
    fn a_whole_number_may_be_written_as_pythons_int_took_it() {
        for (text, size) in [
            ("1048576", 1_048_576),
            ("\"1048576\"", 1_048_576),
            ("' 2048 '", 2048),
            ("1_048_576", 1_048_576),
            ("\"1_048_576\"", 1_048_576),
            ("1048576.0", 1_048_576),
            ("'1048576.0'", 1_048_576),
            ("1_048_576.0", 1_048_576),
            ("512", 512),
            ("0", 0),
            ("0.0", 0),
        ] {
            let settings = parse(&format!("logger: {{max-size: {text}}}\n")).unwrap();
            assert_eq!(settings.logger.max_size, size, "{text}");
        }
        let settings =
            parse("logger: {rotations: '3'}\nclients: {max: '1_000'}\nzeromq_uri: [a, 7_894.0]\nstatus_uri: [a, 0]\n");
        let settings = settings.unwrap();
        assert_eq!((settings.logger.rotations, settings.clients.max, settings.zeromq_uri.port), (3, 1000, 7894));
    }

    #[test]
    fn what_is_no_whole_number_is_refused_where_it_stands() {
        for (value, found) in [
            ("-1", "invalid value: integer `-1`"),
            ("'-1'", "invalid value: string \"-1\""),
            ("-1.0", "invalid value: floating point `-1.0`"),
            ("1.5", "invalid value: floating point `1.5`"),
            ("'1.5'", "invalid value: string \"1.5\""),
            ("true", "invalid type: boolean `true`"),
            ("'true'", "invalid value: string \"true\""),
            (".nan", "invalid value: floating point `NaN`"),
            (".inf", "invalid value: floating point `inf`"),
            ("1001", "invalid value: integer `1001`"),
            ("'1001'", "invalid value: string \"1001\""),
            ("2e3", "invalid value: floating point `2000.0`"),
            ("'99999999999999999999'", "invalid value: string \"99999999999999999999\""),
            ("_1", "invalid value: string \"_1\""),
            ("1_", "invalid value: string \"1_\""),
            ("1__0", "invalid value: string \"1__0\""),
            ("'1 0'", "invalid value: string \"1 0\""),
            ("'.0'", "invalid value: string \".0\""),
            ("[]", "invalid type: sequence"),
        ] {
            assert_eq!(
                parse(&format!("logger:\n  rotations: {value}\n")).unwrap_err(),
                format!("c.yml:2:14: logger.rotations: {found}, expected a whole number from 0 to 1000"),
                "{value}"
            );
        }
        for value in ["", "''", "' '"] {
            let error = parse(&format!("logger:\n  rotations: {value}\n")).unwrap_err();
            assert!(error.starts_with("c.yml:2:1"), "{error}");
            assert!(error.contains("logger.rotations: "), "{error}");
        }
    }

    #[test]
    fn a_number_that_begins_with_a_zero_is_ambiguous() {
        let zero = "begins with a zero, which makes it octal for some programs and decimal for others; write";
        for (text, error) in [
            (
                "zeromq_uri: [a, 04567]\n",
                format!("1:17: zeromq_uri[1]: `04567` {zero} `4567`, or another number without the zero"),
            ),
            (
                "zeromq_uri: [a, \"04567\"]\n",
                format!("1:17: zeromq_uri[1]: `04567` {zero} `4567`, or another number without the zero"),
            ),
            (
                "logger: {rotations: 010}\n",
                format!("1:21: logger.rotations: `010` {zero} `10`, or another number without the zero"),
            ),
            (
                "logger: {rotations: 00}\n",
                format!("1:21: logger.rotations: `00` {zero} `0`, or another number without the zero"),
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), format!("c.yml:{error}"), "{text:?}");
        }
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is_and_is_named() {
        let old = parse("tls: {certificate: /a, key: /b}\n").unwrap();
        let new = parse(
            "websocket_uri: [\"127.0.0.1\", 1]\nuser: x\nlogger: {file: /y, level: debug}\nclients: {max: 7}\n\
             status_uri: [a, 1]\nallowed_origins: []\n",
        )
        .unwrap();
        let (taken, fixed) = new.without_restart(&old);
        assert_eq!(fixed, ["websocket_uri", "status_uri", "user", "logger.file", "tls"]);
        assert_eq!((taken.logger.level, taken.clients.max, &taken.allowed_origins), (Level::Debug, 7, &vec![]));
        let same = Settings {
            clients: old.clients.clone(),
            logger: old.logger.clone(),
            allowed_origins: old.allowed_origins.clone(),
            ..taken
        };
        assert_eq!(same, old);
        let other = parse("tls: {certificate: /c, key: /d}\n").unwrap();
        assert_eq!(other.clone().without_restart(&old), (other, vec![]));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_refused_past_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        let load = |size: u64| {
            std::fs::write(&path, "#".repeat(usize::try_from(size).unwrap())).unwrap();
            Settings::load(&path)
        };
        assert_eq!(load(MAX_FILE), Ok(Settings::default()));
        assert!(load(MAX_FILE + 1).unwrap_err().to_string().contains("at most 65536 bytes"));
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_changes_nothing() {
        let uri = "websocket_uri: [\"127.0.0.1\", 1]\n";
        for text in [
            "",
            "---\n",
            uri,
            &format!("---\n{uri}"),
            &format!("%YAML 1.1\n---\n{uri}"),
            &format!("# comment\n{uri}zeromq_uri: [\"*\", 2]\n"),
            "---\r\nwebsocket_uri:\r\n    - \"127.0.0.1\"\r\n    - 4567\r\nlogger:\r\n    level: \"debug\"\r\n...\r\n",
            "websocket_uri:\n- a\n- 1\nzeromq_uri:\n- b\n- 2\n",
            // Errors, which are placed as without the mark.
            "xyzzy: 1\n",
            "user: !x a\n",
            "user: a\nuser: b\n",
            "user: @a\n",
            "%TAG ! a\n---\n",
            "user: a\n--- b\n",
            "logger:\n  level: x\n",
        ] {
            assert_eq!(parse(&format!("\u{feff}{text}")), parse(text), "{text:?}");
        }
        let error = Settings::parse(Path::new("c.yml"), b"\xef\xbb\xbfuser: \xff").unwrap_err();
        assert_eq!(error.to_string(), "c.yml:1:7: expected UTF-8, found another byte");
    }

    #[test]
    fn a_file_in_utf_16_is_recognised() {
        for (marked, swapped) in [(false, false), (true, false), (false, true), (true, true)] {
            let text = if marked { "\u{feff}---\r\nuser: a\r\n" } else { "---\r\nuser: a\r\n" };
            let bytes = |unit: u16| if swapped { unit.to_be_bytes() } else { unit.to_le_bytes() };
            let file: Vec<u8> = text.encode_utf16().flat_map(bytes).collect();
            let error = Settings::parse(Path::new("c.yml"), &file).unwrap_err();
            assert_eq!(
                error.to_string(),
                "c.yml:1:1: the file is in UTF-16; save it as UTF-8 (in Notepad: `Save as`, encoding `UTF-8`)"
            );
        }
    }

    #[test]
    fn a_byte_that_is_not_utf_8_is_placed() {
        let error = Settings::parse(Path::new("c.yml"), b"logger:\n  fil\xc3\xa9\xff: x").unwrap_err();
        assert_eq!(error.to_string(), "c.yml:2:7: expected UTF-8, found another byte");
    }
}
