//! Finds the process that holds a port or a Unix socket. It is the monitor if it is the unit's main process or, without a unit, if it
//! runs the monitor's program as the monitor's user or root. Its name proves nothing: any process can choose its own.

use super::account::Account;
use super::unit::Unit;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{metadata, read_dir, read_link, read_to_string};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The program as the packages install it.
const INSTALLED: &str = "/usr/bin/recodex-monitor";

/// The holder of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This check.
    Myself,
    /// The running monitor.
    Monitor(u32),
    /// Process 1, by its name.
    Manager(String),
    /// Another process, by its id and the name that it gives itself.
    Stranger(u32, String),
    /// A process that this user may not see.
    Unknown,
}

/// Finds the process that prevents one of `addresses` from being bound.
pub(super) fn of_port(addresses: &[SocketAddr], unit: Option<&Unit>, account: Option<&Account>) -> Holder {
    let tables = [("/proc/net/tcp", false), ("/proc/net/tcp6", true)];
    let tables = tables.map(|(path, is_v6)| (read_to_string(path).unwrap_or_default(), is_v6));
    let listeners = tables.iter().flat_map(|(table, is_v6)| table.lines().filter_map(|line| listener(line, *is_v6)));
    let links = listeners
        .filter(|(at, _)| addresses.iter().any(|wanted| overlap(*at, *wanted)))
        .map(|(_, inode)| format!("socket:[{inode}]"))
        .collect();
    worst(&holders(&links), |pid| is_monitor(pid, unit, account))
}

/// Finds the running monitors. Only root can see all of them.
pub(super) fn monitors(unit: Option<&Unit>, account: Option<&Account>) -> BTreeSet<u32> {
    match unit {
        Some(unit) => unit.main_pid().into_iter().collect(),
        None => processes().filter(|pid| is_monitor(*pid, unit, account)).collect(),
    }
}

/// Finds the process that listens at a Unix socket, by a connection to it. `monitors` are the running monitors.
pub(super) fn of_socket(path: &Path, monitors: &BTreeSet<u32>) -> Holder {
    let pid = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
        socket.set_nonblocking(true).ok()?;
        socket.connect(&SockAddr::unix(path).ok()?).ok()?;
        u32::try_from(getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid()).ok().filter(|pid| *pid > 0)
    };
    worst(&pid().into_iter().collect(), |pid| monitors.contains(&pid))
}

/// Reads the address and the inode of a listening socket from a line of `/proc/net/tcp` or `tcp6`.
fn listener(line: &str, is_v6: bool) -> Option<(SocketAddr, u64)> {
    const LISTENS: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.rsplit_once(':')?;
    if *fields.get(3)? != LISTENS {
        return None;
    }
    // Each 32 bits of the address are one number in this machine's byte order.
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = if is_v6 {
        let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()
    } else {
        Ipv4Addr::from(word(0)?).into()
    };
    Some(((ip, u16::from_str_radix(port, 16).ok()?).into(), fields.get(9)?.parse().ok()?))
}

/// Returns true if a socket at one address may prevent the other address from being bound.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// Finds the processes that have one of the sockets open, as far as this user may see them.
fn holders(links: &BTreeSet<String>) -> BTreeSet<u32> {
    let holds = |pid: &u32| {
        let Ok(descriptors) = read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut open = descriptors.flatten().filter_map(|entry| read_link(entry.path()).ok());
        open.any(|link| link.to_str().is_some_and(|link| links.contains(link)))
    };
    processes().filter(holds).collect()
}

/// Returns the processes that this user may see.
fn processes() -> impl Iterator<Item = u32> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Chooses one of several holders: another process before the monitor, the monitor before the service manager.
fn worst(pids: &BTreeSet<u32>, is_monitor: impl Fn(u32) -> bool) -> Holder {
    let (mut monitor, mut manager) = (None, None);
    for pid in pids.iter().copied() {
        if pid == std::process::id() {
            return Holder::Myself;
        }
        if is_monitor(pid) {
            monitor = Some(pid);
        } else if pid == 1 {
            manager = Some(name(pid));
        } else {
            return Holder::Stranger(pid, name(pid));
        }
    }
    monitor.map(Holder::Monitor).or(manager.map(Holder::Manager)).unwrap_or(Holder::Unknown)
}

fn name(pid: u32) -> String {
    let name = read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim().is_empty() { "a process".into() } else { name.trim_end().to_owned() }
}

fn is_monitor(pid: u32, unit: Option<&Unit>, account: Option<&Account>) -> bool {
    match unit {
        Some(unit) => unit.main_pid() == Some(pid),
        None => runs_as(pid, account) && runs_program(pid),
    }
}

/// Returns true if a process belongs to the monitor's user or to root.
fn runs_as(pid: u32, account: Option<&Account>) -> bool {
    let status = read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let Some(ids) = status.lines().find_map(|line| line.strip_prefix("Uid:")) else { return false };
    let mut ids = ids.split_whitespace().map(str::parse::<u32>);
    ids.all(|id| id.is_ok_and(|id| id == 0 || account.is_some_and(|account| account.owns(id))))
}

/// Returns true if a process runs this program or the installed one, or a version that an upgrade has replaced since.
fn runs_program(pid: u32) -> bool {
    let exe = format!("/proc/{pid}/exe");
    let file = |path: &str| metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let path = |exe: &str| {
        let link = read_link(exe).ok()?.into_os_string();
        let bytes = link.as_bytes();
        Some(PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes))))
    };
    let same = |program: &str| file(&exe).is_some() && file(&exe) == file(program);
    // A user can fake this path in a mount namespace, but not together with the user id that is also checked.
    let at = path(&exe);
    let replaced = at.is_some() && (at == path("/proc/self/exe") || at.as_deref() == Some(Path::new(INSTALLED)));
    same("/proc/self/exe") || same(INSTALLED) || replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn listening_sockets_are_read_from_the_systems_tables() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(socket) = TcpListener::bind((host, 0)) else { continue };
            let at = socket.local_addr().expect("it is bound");
            let (path, is_v6) = if at.is_ipv6() { ("/proc/net/tcp6", true) } else { ("/proc/net/tcp", false) };
            let table = read_to_string(path).expect("Linux has it");
            assert!(table.lines().filter_map(|line| listener(line, is_v6)).any(|(found, _)| found == at), "{at}");
            assert_eq!(of_port(&[at], None, None), Holder::Myself);
        }
        assert_eq!(listener("nonsense", false), None);
        assert_eq!(listener("  0: 0100007F 00000000:0000 0A", false), None);
        assert_eq!(listener("  0: 01:0050 00000000:0000 0A 0 0 0 0 0 7", true), None);
    }

    #[test]
    fn addresses_overlap_as_the_system_sees_it() {
        let overlap = |a: &str, b: &str| super::overlap(a.parse().expect("a"), b.parse().expect("b"));
        assert!(
            overlap("127.0.0.1:80", "127.0.0.1:80")
                && overlap("0.0.0.0:80", "127.0.0.1:80")
                && overlap("[::]:80", "127.0.0.1:80")
        );
        assert!(!overlap("127.0.0.2:80", "127.0.0.1:80") && !overlap("127.0.0.1:81", "127.0.0.1:80"));
    }
}
