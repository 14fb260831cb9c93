//! Giving up root: the monitor starts with it to bind ports and open its log, and relays without it.

use crate::config::{Endpoint, Settings};
use crate::failure::{Exit, Failure};
use crate::logging::Target;
use caps::CapSet;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::prctl;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Group, Uid, User, fchown, fchownat, geteuid, getresgid, getresuid, initgroups, setgid, setuid};
use std::ffi::CString;
use std::fs::{DirBuilder, read_dir};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Whom the monitor becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    name: String,
    uid: Uid,
    gid: Gid,
}

/// Finds out whom to become; `None` if the monitor was not started as root and stays who it is.
///
/// # Errors
/// [`Exit::NoPermission`] if there is no such user or group, or it is root's: the monitor never relays as root.
pub fn identity(settings: &Settings) -> Result<Option<Identity>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let refused = |what: String| Failure::new(Exit::NoPermission, what);
    let name = &settings.user;
    let user = User::from_name(name).map_err(|e| refused(format!("user: cannot look up {name:?}: {e}")))?.ok_or_else(
        || refused(format!("user: there is no user {name:?}; create it, or name another in the configuration")),
    )?;
    let gid = match &settings.group {
        None => user.gid,
        Some(name) => {
            let group = Group::from_name(name).map_err(|e| refused(format!("group: cannot look up {name:?}: {e}")))?;
            let missing = || {
                refused(format!("group: there is no group {name:?}; create it, or name another in the configuration"))
            };
            group.ok_or_else(missing)?.gid
        }
    };
    if user.uid.is_root() || gid.as_raw() == 0 {
        return Err(refused(format!(
            "user, group: {name:?} is root or in its group; the monitor never relays as root"
        )));
    }
    Ok(Some(Identity { name: name.clone(), uid: user.uid, gid }))
}

/// Hands the log file to `identity`, and its directory too if the directory is the log's alone.
///
/// Whoever owned the directory before may have put anything there; links are not followed, and what has other names is
/// left alone.
///
/// # Errors
/// [`Exit::Config`] if the file cannot be had.
pub fn hand_over_log(settings: &Settings, identity: &Identity) -> Result<(), Failure> {
    let Target::File(path) = Target::of(&settings.logger) else { return Ok(()) };
    let failed = |what: &str, at: &Path, e: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, format!("logger.file: cannot {what} {}: {e}", at.display()))
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.exists() {
        DirBuilder::new().mode(0o750).create(directory).map_err(|e| failed("create", directory, &e))?;
    }
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_logs = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(name))
    };
    let alone = read_dir(directory).map_err(|e| failed("read", directory, &e))?.all(is_logs);
    if alone {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = open(directory, flags, Mode::empty()).map_err(|e| failed("open", directory, &e))?;
        fchown(&opened, Some(identity.uid), Some(identity.gid)).map_err(|e| failed("hand over", directory, &e))?;
    } else {
        log::warn!(
            "logger.file: {} holds other files, so it is not given to {}; without permission to write there the log \
             cannot be rotated",
            directory.display(),
            identity.name
        );
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = match open(&path, flags, Mode::from_bits_truncate(0o640)) {
        // A FIFO that nobody reads; whoever made it says who may write to it.
        Err(nix::errno::Errno::ENXIO) => return Ok(()),
        opened => opened.map_err(|e| failed("open", &path, &e))?,
    };
    let stat = fstat(&opened).map_err(|e| failed("look at", &path, &e))?;
    let regular = stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG;
    if regular && stat.st_nlink == 1 {
        fchown(&opened, Some(identity.uid), Some(identity.gid)).map_err(|e| failed("hand over", &path, &e))?;
    }
    Ok(())
}

/// Hands the Unix socket of `websocket_uri` to `identity`, if there is one.
///
/// # Errors
/// [`Exit::NoPermission`] if the system does not let it.
pub fn hand_over_socket(settings: &Settings, identity: &Identity) -> Result<(), Failure> {
    let Endpoint::Unix(path) = &settings.websocket_uri else { return Ok(()) };
    // Whoever owns the directory may have put anything in its place.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handed = open(path, flags, Mode::empty()).and_then(|socket| {
        let found = fstat(&socket)?;
        if found.st_mode & nix::libc::S_IFMT != nix::libc::S_IFSOCK || found.st_nlink != 1 {
            return Err(Errno::ENOTSOCK);
        }
        fchownat(&socket, "", Some(identity.uid), Some(identity.gid), AtFlags::AT_EMPTY_PATH)
    });
    handed.map_err(|e| {
        let what = format!("websocket_uri: cannot hand {} over to {:?}: {e}", path.display(), identity.name);
        Failure::new(Exit::NoPermission, what)
    })
}

/// Gives up everything that is not needed once the ports are bound. Must be called before there are threads.
///
/// # Errors
/// [`Exit::NoPermission`] if something of root is left.
pub fn drop_all(identity: Option<&Identity>) -> Result<(), Failure> {
    let refused =
        |what: &str, e: &dyn std::fmt::Display| Failure::new(Exit::NoPermission, format!("cannot {what}: {e}"));
    if let Some(Identity { name, uid, gid }) = identity {
        // Needs CAP_SETPCAP, which goes with the user id. A container may withhold it; then there is less to drop.
        let _ = caps::clear(None, CapSet::Bounding);
        let c_name = CString::new(name.as_str()).map_err(|e| refused("use the user's name", &e))?;
        initgroups(&c_name, *gid).map_err(|e| refused("set the supplementary groups", &e))?;
        setgid(*gid).map_err(|e| refused("set the group id", &e))?;
        setuid(*uid).map_err(|e| refused("set the user id", &e))?;
        let (users, groups) = (getresuid(), getresgid());
        let gone = users.is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [*uid; 3])
            && groups.is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [*gid; 3])
            && setuid(Uid::from_raw(0)).is_err();
        if !gone {
            return Err(refused("give up root", &"it came back"));
        }
    }
    prctl::set_no_new_privs().map_err(|e| refused("set no_new_privs", &e))?;
    // What a service manager gave for a port below 1024 is not needed either, now that the ports are bound.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        // Asked first, so that a sandbox may forbid the call where there is nothing to drop.
        if !caps::read(None, set).map_err(|e| refused("read capabilities", &e))?.is_empty() {
            caps::clear(None, set).map_err(|e| refused("drop capabilities", &e))?;
        }
    }
    Ok(())
}
