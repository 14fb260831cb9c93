//! Giving up root: the monitor reads its configuration and binds its TCP ports with it, and does everything else without.

use crate::config::Settings;
use crate::error::{Exit, Failure};
use crate::server::trust;
use caps::CapSet;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist, getresgid, getresuid, setgid, setgroups, setuid};
use std::ffi::CString;
use std::path::Path;

/// Whom the monitor becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: Uid,
    gid: Gid,
    /// All groups.
    groups: Vec<Gid>,
}

impl Identity {
    /// A user with all its groups, `gid` among them.
    ///
    /// # Errors
    /// [`Exit::NoPermission`] if the groups cannot be looked up, or the user or a group is root's.
    fn of(user: &User, gid: Gid) -> Result<Self, Failure> {
        let refused = |what: String| Failure::new(Exit::NoPermission, format!("user, group: {what}"));
        let unknown = |e: &dyn std::fmt::Display| refused(format!("cannot look up the groups of {:?}: {e}", user.name));
        let name = CString::new(user.name.as_str()).map_err(|e| unknown(&e))?;
        let groups = getgrouplist(&name, gid).map_err(|e| unknown(&e))?;
        if user.uid.is_root() {
            return Err(refused(format!("{:?} is root; the monitor never relays as root", user.name)));
        }
        if groups.iter().any(|group| group.as_raw() == 0) {
            return Err(refused(format!("{:?} would be in root's group; the monitor never relays as root", user.name)));
        }
        Ok(Self { uid: user.uid, gid, groups })
    }
}

/// Finds out whom to become; `None` if the monitor was not started as root and stays who it is. `config_path` is the file that
/// the settings come from, if there is one.
///
/// # Errors
/// [`Exit::NoPermission`] if there is no such user or group, or it is root's: the monitor never relays as root. The same if others
/// than root can change the configuration, and it names another user or group than they may name.
pub fn identity(settings: &Settings, config_path: Option<&Path>) -> Result<Option<Identity>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Some(path) = config_path {
        trust::check(path, settings)?;
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
    Identity::of(&user, gid).map(Some)
}

/// Finds out whom to become for the sake of what the process before left, if the configuration cannot say it: the user of that
/// process, `before`, or else `recodex`; `None` as in [`identity`].
///
/// # Errors
/// As [`identity`].
pub fn identity_without_settings(before: Option<(Uid, Gid)>) -> Result<Option<Identity>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let known = before.and_then(|(uid, gid)| Some((User::from_uid(uid).ok()??, gid)));
    match known.and_then(|(user, gid)| Identity::of(&user, gid).ok()) {
        Some(identity) => Ok(Some(identity)),
        None => identity(&Settings::default(), None),
    }
}

/// Gives up everything that is not needed once the ports are bound. Must be called before there are threads.
///
/// # Errors
/// [`Exit::NoPermission`] if something of root is left.
pub fn drop_all(identity: Option<&Identity>) -> Result<(), Failure> {
    let refused =
        |what: &str, e: &dyn std::fmt::Display| Failure::new(Exit::NoPermission, format!("cannot {what}: {e}"));
    if let Some(Identity { uid, gid, groups }) = identity {
        // Needs CAP_SETPCAP, which goes with the user id. A container may withhold it; then there is less to drop.
        let _ = caps::clear(None, CapSet::Bounding);
        setgroups(groups).map_err(|e| refused("set the supplementary groups", &e))?;
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
    // Also where the monitor was started as another user, but with a way back to root.
    if !getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|uid| !uid.is_root())) {
        return Err(refused("give up root", &"some user id of the process is still root's"));
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
