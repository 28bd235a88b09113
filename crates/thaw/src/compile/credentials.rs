//! Credentials: what a thread may do. The last thing it sets, since it may lose the right to set anything else.

use super::Compiler;
use crate::script::Script;
use frost_model::pd::Credentials;

const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_SECUREBITS: u64 = 28;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
/// SECBIT_NO_SETUID_FIXUP: capabilities stay as they are when the user changes.
const NO_SETUID_FIXUP: u32 = 1 << 2;
const LINUX_CAPABILITY_VERSION_3: u64 = 0x2008_0522;

impl Compiler<'_> {
    /// What process `index` has when its tape comes to its credentials: in a user namespace of its own all capabilities,
    /// of which none is inherited (`set_cred_user_ns`, kernel/user_namespace.c).
    fn credentials_at(&self, index: usize) -> Credentials {
        let have = self.baseline.credentials.clone();
        let pid = self.checkpoint.processes[index].pd.relation.pid;
        if !self.checkpoint.nest_of(pid).is_some_and(|nest| nest.user) {
            return have;
        }
        // Who is in a user namespace already has all that there are as its bounding set.
        let all = have.bounding;
        Credentials { inheritable: 0, permitted: all, effective: all, ambient: 0, securebits: 0, ..have }
    }

    /// Makes the calling thread's credentials `want`, starting from the builder's.
    pub(super) fn credentials(&mut self, script: &mut Script, index: usize, want: &Credentials) {
        let have = &self.credentials_at(index);
        if want == have {
            return;
        }
        let ids_differ = want.uids != have.uids || want.gids != have.gids;
        let mut securebits = have.securebits;
        if want.uids != have.uids && securebits & NO_SETUID_FIXUP == 0 {
            securebits |= NO_SETUID_FIXUP;
            script.call(libc::SYS_prctl, &[PR_SET_SECUREBITS, securebits.into()]);
        }
        if want.groups != have.groups {
            let groups: Vec<u8> = want.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            let list = self.control.blob(&groups);
            script.call(libc::SYS_setgroups, &[want.groups.len() as u64, list]);
        }
        if ids_differ {
            let ids = |ids: [u32; 4]| [ids[0].into(), ids[1].into(), ids[2].into()];
            script.call(libc::SYS_setresgid, &ids(want.gids));
            script.attempt(libc::SYS_setfsgid, &[want.gids[3].into()]);
            script.call(libc::SYS_setresuid, &ids(want.uids));
            script.attempt(libc::SYS_setfsuid, &[want.uids[3].into()]);
        }
        let dropped = have.bounding & !want.bounding;
        for capability in (0..64).filter(|capability| dropped & (1 << capability) != 0) {
            script.call(libc::SYS_prctl, &[PR_CAPBSET_DROP, capability]);
        }
        if want.securebits != securebits {
            script.call(libc::SYS_prctl, &[PR_SET_SECUREBITS, want.securebits.into()]);
        }
        if have.ambient != 0 {
            script.call(libc::SYS_prctl, &[PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0]);
        }
        let header = self.control.words(&[LINUX_CAPABILITY_VERSION_3]);
        let half = |low: bool, set: u64| if low { set as u32 } else { (set >> 32) as u32 };
        let data: Vec<u8> = [true, false]
            .into_iter()
            .flat_map(|low| {
                [half(low, want.effective), half(low, want.permitted), half(low, want.inheritable)]
            })
            .flat_map(u32::to_ne_bytes)
            .collect();
        let data = self.control.blob(&data);
        script.call(libc::SYS_capset, &[header, data]);
        for capability in (0..64).filter(|capability| want.ambient & (1 << capability) != 0) {
            script.call(libc::SYS_prctl, &[PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0]);
        }
        if want.no_new_privs && !have.no_new_privs {
            script.call(libc::SYS_prctl, &[PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
        }
    }
}
