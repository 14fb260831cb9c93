//! `check`: whether the monitor would start and serve on this machine, one finding a line, each with what to do.

use crate::config::{Address, Endpoint, Settings};
use crate::failure::{Exit, Failure};
use crate::listen::{self, Port};
use crate::logging::{Target, escape};
use crate::store::Kept;
use crate::tls::Certificate;
use crate::{limits, privileges};
use chrono::{DateTime, Local};
use nix::unistd::{AccessFlags, User, access, geteuid};
use std::fs::{read_dir, read_link, read_to_string, symlink_metadata};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::SystemTime;

/// What the system calls the program: as much of its name as it keeps (`prctl(2)`, `PR_SET_NAME`).
const MONITOR: &str = "recodex-monitor";

/// What a check came to.
enum Finding {
    Fine(String),
    /// It works, but perhaps not as it is meant to.
    Doubt(String),
    /// The monitor would not start, or not serve.
    Bad(Exit, String),
}

use Finding::{Bad, Doubt, Fine};

impl Finding {
    /// The same as something to look at.
    fn or_doubt(self) -> Self {
        if let Bad(_, what) = self { Doubt(what) } else { self }
    }
}

/// Checks the configuration at `config`, or the defaults, and what it asks of the machine. Started as root, it looks at files as
/// the monitor's user. Must be called in a tokio runtime, before there are threads.
///
/// # Errors
/// With the exit status that the monitor would have, if it would not start; [`Exit::Config`] if something else is wrong.
pub fn run(config: Option<&Path>) -> Result<(), Failure> {
    let mut report = Report::default();
    let settings = match config.map(Settings::load).transpose() {
        Ok(settings) => settings.unwrap_or_default(),
        Err(e) => {
            report.add("configuration", Bad(Exit::Config, e.to_string()))?;
            return report.end();
        }
    };
    let named = config.map_or("none given, every key has its default".into(), |path| path.display().to_string());
    report.add("configuration", Fine(named))?;
    // Held until all are bound: two keys may name the same.
    let mut held = Vec::new();
    report.add("zeromq_uri", port("zeromq_uri", &settings.zeromq_uri, &mut held))?;
    report.add("zeromq.allow", brokers(&settings))?;
    if let Endpoint::Tcp(address) = &settings.websocket_uri {
        report.add("websocket_uri", port("websocket_uri", address, &mut held))?;
    }
    if let Some(address) = &settings.status_uri {
        report.add("status_uri", port("status_uri", address, &mut held))?;
        if !is_local(address) {
            let what = "it can be reached from other machines: anybody there sees the settings and the log's warnings; bind it to \
                        127.0.0.1, or let only your monitoring through the firewall";
            report.add("status_uri", Doubt(what.into()))?;
        }
    }
    for finding in [descriptors(&settings), proxies(&settings)] {
        report.add("clients", finding)?;
    }
    drop(held);
    let certificate = settings.tls.as_ref().map(Certificate::load);
    match (&certificate, &settings.tls) {
        (Some(Err(_)), Some(tls))
            if (tls.certificate.is_relative() || tls.key.is_relative())
                && std::env::var_os("CREDENTIALS_DIRECTORY").is_none() =>
        {
            let what = "a path is relative, and is looked for in $CREDENTIALS_DIRECTORY, which only the service has (LoadCredential=)";
            report.add("tls", Doubt(what.into()))?;
        }
        (Some(certificate), _) => report.add("tls", ends(certificate.as_ref()))?,
        (None, _) => {}
    }
    let started_as_root = geteuid().is_root();
    report.add("user", user(&settings))?;

    // What follows is up to the user that the monitor runs as.
    let identity = privileges::identity(&settings);
    if let Ok(identity @ Some(_)) = &identity {
        privileges::drop_all(identity.as_ref())?;
    }
    if let (Some(tls), Some(Ok(_))) = (&settings.tls, certificate)
        && let Err(e) = Certificate::load(tls)
    {
        let what = format!(
            "as user {}: {e}; it is read at the start, as root, but a reload cannot read it anew",
            settings.user
        );
        report.add("tls", Doubt(what))?;
    }
    if let Endpoint::Unix(path) = &settings.websocket_uri {
        report.add("websocket_uri", socket(path, started_as_root))?;
    }
    report.add("logger", log(&settings, started_as_root))?;
    if let Some(path) = &settings.history.state {
        // It costs the history, and not the start.
        report.add("history.state", writable(path).or_doubt())?;
    }
    report.end()
}

#[derive(Default)]
struct Report {
    worst: Option<Exit>,
    bad: usize,
    doubts: usize,
}

impl Report {
    fn add(&mut self, about: &str, finding: Finding) -> Result<(), Failure> {
        let (how, what) = match finding {
            Fine(what) => ("ok     ", what),
            Doubt(what) => {
                self.doubts += 1;
                ("warning", what)
            }
            Bad(exit, what) => {
                self.bad += 1;
                self.worst.get_or_insert(exit);
                ("FAILED ", what)
            }
        };
        // What comes from elsewhere in the program says itself what it is about.
        let what = what.strip_prefix(about).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&what);
        say(&format!("{how} {about}: {}\n", escape(what)))
    }

    fn end(self) -> Result<(), Failure> {
        match self.worst {
            None if self.doubts == 0 => say("all is well\n"),
            None => say(&format!("the monitor would start; {} to look at\n", count(self.doubts, "warning"))),
            Some(exit) => Err(Failure::new(exit, format!("{} failed", count(self.bad, "check")))),
        }
    }
}

fn say(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::new(Exit::Failed, format!("cannot write: {e}")))
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn of(failure: &Failure) -> Finding {
    Bad(failure.exit(), failure.to_string())
}

/// Whether a port can be bound, or is by a monitor that runs.
fn port(key: &str, address: &Address, held: &mut Vec<Port>) -> Finding {
    match listen::bind(key, address, &mut Kept::default().listeners) {
        Ok(port) => {
            let at: Vec<_> = port.addresses().iter().map(ToString::to_string).collect();
            let low = address.port != 0 && address.port < 1024;
            let more = "; the packaged service may not bind a port below 1024 unless a drop-in lets it, see the unit";
            held.push(port);
            Fine(format!("{} can be bound{}", at.join(" and "), if low { more } else { "" }))
        }
        Err(failure) if failure.exit() == Exit::Unavailable && !is_free(address) => match holder(address.port) {
            Some((pid, _)) if pid == std::process::id() => {
                Bad(Exit::Unavailable, format!("{address} is named by another key, too; name another port"))
            }
            Some((pid, name)) if name == MONITOR => {
                Fine(format!("{address} is held by the monitor that runs (process {pid})"))
            }
            Some((1, name)) => {
                Doubt(format!("{address} is held by {name}, which is right if it keeps it for the monitor"))
            }
            Some((pid, name)) => Bad(
                Exit::Unavailable,
                format!("{address} is held by {name} (process {pid}); end it, or name another port"),
            ),
            None => Doubt(format!(
                "{address} is taken, which is right only if it is by the monitor itself; `ss -tlnp` says by whom, to root"
            )),
        },
        Err(failure) => of(&failure),
    }
}

fn addresses(address: &Address) -> Vec<SocketAddr> {
    let host = if matches!(address.host.as_str(), "" | "*") { "0.0.0.0" } else { &address.host };
    (host.trim_matches(['[', ']']), address.port).to_socket_addrs().map_or_else(|_| Vec::new(), Iterator::collect)
}

fn is_free(address: &Address) -> bool {
    !addresses(address)
        .iter()
        .any(|at| std::net::TcpListener::bind(at).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse))
}

fn is_local(address: &Address) -> bool {
    let addresses = addresses(address);
    !addresses.is_empty() && addresses.iter().all(|at| at.ip().is_loopback())
}

/// The process that listens at a TCP port, and its name, as far as this user may know.
fn holder(port: u16) -> Option<(u32, String)> {
    const LISTENS: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| read_to_string(path).unwrap_or_default());
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        (at == port && *fields.get(3)? == LISTENS).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    };
    let sockets: Vec<String> = tables.iter().flat_map(|table| table.lines().skip(1).filter_map(inode)).collect();
    let holds = |pid: u32| {
        let descriptors = read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = descriptors.flatten().filter_map(|entry| read_link(entry.path()).ok());
        links.any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link))).then_some(())
    };
    let processes = read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = processes.filter(|pid| holds(*pid).is_some()).filter_map(|pid| {
        let name = read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim_end().to_owned()))
    });
    // The service manager may keep it as well.
    named.max_by_key(|(pid, name)| (name == MONITOR, *pid))
}

/// Whether more than brokers can publish.
fn brokers(settings: &Settings) -> Finding {
    let anywhere = ["192.0.2.1", "2001:db8::1"].map(str::parse::<IpAddr>);
    let all = anywhere.iter().flatten().all(|ip| settings.zeromq.allow.iter().any(|network| network.contains(*ip)));
    if is_local(&settings.zeromq_uri) || !all {
        return Fine(if all { "only this machine can connect".into() } else { "only some may connect".into() });
    }
    Doubt("whoever reaches the port can publish to any job; name the brokers' addresses in zeromq.allow".into())
}

fn descriptors(settings: &Settings) -> Finding {
    let (max, files) = (settings.clients.max, limits::open_files());
    let enough = max.saturating_add(limits::RESERVE);
    if enough <= files || max <= limits::default_max_clients() {
        return Fine(format!("max is {max}, and {files} files may be open"));
    }
    Doubt(format!(
        "max is {max}, but only {files} files may be open here, of which {} are for others than viewers; raise the limit (ulimit -n; for \
         the service LimitNOFILE= in a drop-in, where 131072 is packaged) to {enough}, or lower clients.max",
        limits::RESERVE
    ))
}

fn proxies(settings: &Settings) -> Finding {
    let anybody = ["192.0.2.1", "2001:db8::1"].iter().flat_map(|ip| ip.parse::<IpAddr>());
    let trusted = &settings.trusted_proxies;
    if anybody.into_iter().any(|ip| crate::peer::Peer::Address(ip).is_one_of(trusted)) {
        return Doubt(
            "trusted_proxies names everybody: anybody can say that he is somebody else; name the proxies only".into(),
        );
    }
    let local = match &settings.websocket_uri {
        Endpoint::Tcp(address) => is_local(address),
        Endpoint::Unix(_) => true,
    };
    if settings.clients.max_per_address > 0 && trusted.is_empty() && local {
        return Doubt(
            "max_per_address bounds the web server in front of the monitor, as trusted_proxies does not name it; all viewers \
             together are one address"
                .into(),
        );
    }
    Fine(if trusted.is_empty() { "no proxy is trusted".into() } else { "trusted_proxies are some".into() })
}

fn ends(certificate: Result<&Certificate, &Failure>) -> Finding {
    match certificate {
        Err(failure) => of(failure),
        Ok(certificate) => certificate.warning(SystemTime::now()).map_or_else(
            || {
                let until = DateTime::<Local>::from(certificate.expires).format("%Y-%m-%d");
                let names = match certificate.names.join(", ") {
                    none if none.is_empty() => "no host name".into(),
                    names => names,
                };
                Fine(format!("{} is for {names}, good until {until}, and its key fits", certificate.path.display()))
            },
            Doubt,
        ),
    }
}

fn user(settings: &Settings) -> Finding {
    if geteuid().is_root() {
        return match privileges::identity(settings) {
            Ok(_) => Fine(format!("the monitor becomes {}; what follows is looked at as that user", settings.user)),
            Err(failure) => of(&failure),
        };
    }
    match User::from_name(&settings.user) {
        Ok(Some(_)) => {
            Doubt(format!("{} is there; files are looked at as you, run this as root for more", settings.user))
        }
        _ => Doubt(format!("there is no user {}; whoever starts the monitor as root needs one", settings.user)),
    }
}

fn log(settings: &Settings, started_as_root: bool) -> Finding {
    match Target::of(&settings.logger) {
        Target::Journal => Fine("the journal".into()),
        Target::Stderr => Fine("the journal if systemd starts the monitor, else stderr".into()),
        Target::File(path) => match writable(&path) {
            Fine(what) if !path.starts_with("/var/log/recodex") => Doubt(format!(
                "{what}; the packaged service may write only to /var/log/recodex, unless a drop-in has ReadWritePaths="
            )),
            Bad(_, what) if started_as_root && is_made_by_root(&path) => {
                Doubt(format!("{what}; started as root, the monitor makes it"))
            }
            finding => finding,
        },
    }
}

/// Whether the log's directory is not there, but its place is.
fn is_made_by_root(log: &Path) -> bool {
    log.parent().is_some_and(|directory| !directory.exists() && directory.parent().is_some_and(Path::is_dir))
}

/// Whether a file can be written, or made.
fn writable(path: &Path) -> Finding {
    let shown = path.display();
    if path.exists() {
        return match access(path, AccessFlags::W_OK) {
            Ok(()) => Fine(format!("{shown} can be written")),
            Err(e) => Bad(Exit::Config, format!("cannot write {shown}: {e}; give it to the monitor's user")),
        };
    }
    in_directory(path).unwrap_or_else(|| Fine(format!("{shown} can be made")))
}

/// What keeps the user from making something at `path`.
fn in_directory(path: &Path) -> Option<Finding> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = directory.display();
    let why = if directory.is_dir() {
        format!(
            "nothing can be made in it: {}; give it to the monitor's user",
            access(directory, AccessFlags::W_OK).err()?
        )
    } else {
        "there is no such directory; make it, and give it to the monitor's user".into()
    };
    Some(Bad(Exit::Config, format!("{shown}: {why}")))
}

fn socket(path: &Path, started_as_root: bool) -> Finding {
    let shown = path.display();
    match symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Bad(Exit::Unavailable, format!("{shown} is there already, and no socket; remove it, or name another path"))
        }
        Ok(_) if listen::is_listened_at(path) => {
            Doubt(format!("somebody listens at {shown}, which is right only if it is the monitor itself"))
        }
        _ => match in_directory(path) {
            None => Fine(format!("unix:{shown} can be bound")),
            Some(_) if path.starts_with("/run/recodex") => {
                Doubt(format!("unix:{shown} cannot be bound now; the packaged service makes /run/recodex as it starts"))
            }
            Some(Bad(_, what)) if started_as_root && path.parent().is_some_and(Path::is_dir) => {
                Doubt(format!("{what}; started as root, the monitor can bind it all the same"))
            }
            Some(Bad(_, what)) => Bad(Exit::Unavailable, what),
            Some(finding) => finding,
        },
    }
}
