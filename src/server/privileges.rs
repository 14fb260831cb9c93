//! The giving up of root: the monitor reads its configuration and binds its TCP ports as root, and does everything else without it.

use crate::config::{Settings, Source};
use crate::error::{Exit, Failure};
use crate::server::trust;
use caps::CapSet;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist, getresgid, getresuid, setgid, setgroups, setuid};
use std::ffi::CString;

/// The user and the groups that the monitor takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: Uid,
    gid: Gid,
    /// All groups.
    groups: Vec<Gid>,
}

impl Identity {
    /// Returns the identity of a user with all its groups, `gid` among them.
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

/// Returns the identity that the settings name, or `None` if the monitor was not started as root and keeps its own. `config` is
/// the file of the settings, if there is one.
///
/// # Errors
/// [`Exit::NoPermission`] if there is no such user or group, or it is root's: the monitor never relays as root. The same if others
/// than root can change the configuration, and it names a user or a group that they may not name.
pub(crate) fn identity(settings: &Settings, config: Option<&Source>) -> Result<Option<Identity>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Some(config) = config {
        trust::check(config, settings)?;
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

/// Returns the identity for a process that has no usable settings and only ends what was inherited: the user and the group of the
/// previous process, or else `recodex`. `None` as in [`identity`].
///
/// # Errors
/// [`Exit::NoPermission`] if there is no user `recodex`, and it is needed.
pub(super) fn identity_without_settings(previous: Option<(Uid, Gid)>) -> Result<Option<Identity>, Failure> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let known = previous.and_then(|(uid, gid)| Some((User::from_uid(uid).ok()??, gid)));
    match known.and_then(|(user, gid)| Identity::of(&user, gid).ok()) {
        Some(identity) => Ok(Some(identity)),
        None => identity(&Settings::default(), None),
    }
}

/// Gives up root and all capabilities, once the ports are bound. Must be called before there are other threads.
///
/// # Errors
/// [`Exit::NoPermission`] if an id or a capability of root is left.
pub(super) fn drop_all(identity: Option<&Identity>) -> Result<(), Failure> {
    let refused =
        |what: &str, e: &dyn std::fmt::Display| Failure::new(Exit::NoPermission, format!("cannot {what}: {e}"));
    if let Some(Identity { uid, gid, groups }) = identity {
        // Cleared first, because that needs CAP_SETPCAP, which is lost with the user id. A container without CAP_SETPCAP has fewer
        // capabilities to drop, so an error does not matter.
        let _ = caps::clear(None, CapSet::Bounding);
        setgroups(groups).map_err(|e| refused("set the supplementary groups", &e))?;
        setgid(*gid).map_err(|e| refused("set the group id", &e))?;
        setuid(*uid).map_err(|e| refused("set the user id", &e))?;
        let (users, groups) = (getresuid(), getresgid());
        let gone = users.is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [*uid; 3])
            && groups.is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [*gid; 3])
            && setuid(Uid::from_raw(0)).is_err();
        if !gone {
            return Err(refused("give up root", &"the process could become root again"));
        }
    }
    // Checked also if the monitor was started as another user: it could become root again by a saved id of root's.
    if !getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|uid| !uid.is_root())) {
        return Err(refused("give up root", &"some user id of the process is still root's"));
    }
    prctl::set_no_new_privs().map_err(|e| refused("set no_new_privs", &e))?;
    // A service manager may have given a capability for a port below 1024. It is not needed any more, either.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        // Read first: a sandbox may forbid the call that clears them, even if there is nothing to clear.
        if !caps::read(None, set).map_err(|e| refused("read capabilities", &e))?.is_empty() {
            caps::clear(None, set).map_err(|e| refused("drop capabilities", &e))?;
        }
    }
    Ok(())
}
