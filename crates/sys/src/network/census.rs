//! What is in a network namespace beside sockets: its interfaces, addresses, settings, and what is no part of a new one.
//!
//! A new namespace is what it is compared with, so that nothing needs to be known of what the settings of this kernel are
//! called or mean: whatever differs was set by somebody.

use super::route::{append, list, order, word};
use super::{Whose, unshare, within};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Where the settings of the network namespace of whoever looks are.
const SETTINGS: &str = "/proc/sys/net";
/// The longest setting that is read.
const LONGEST: usize = 64 << 10;
/// The index of the loopback interface in each namespace (LOOPBACK_IFINDEX, include/net/flow.h).
const LOOPBACK: u32 = 1;
const UP: u32 = 1;
/// How often settings are written that others have changed in turn.
const TURNS: u32 = 4;

// Messages of include/uapi/linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const GET_RULE: u16 = 34;
/// Routes and rules that the kernel made itself (RTPROT_KERNEL), or learnt (RTPROT_REDIRECT, RTPROT_RA).
const KERNELS: [u8; 3] = [2, 1, 9];
/// NETLINK_ROUTE.
const ROUTE: u32 = 0;
/// NETLINK_NETFILTER, and NFT_MSG_GETTABLE of its subsystem NFNL_SUBSYS_NFTABLES.
const NETFILTER: u32 = 12;
const GET_TABLE: u16 = 10 << 8 | 1;

/// An address of the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Its bytes, in the order of the network: 4 or 16.
    pub bytes: Vec<u8>,
    /// How many bits of it tell the network.
    pub prefix: u8,
    /// RT_SCOPE_...
    pub scope: u8,
}

/// A setting (sysctl(8)) that is not what it is in a new namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path below `/proc/sys/net`.
    pub name: String,
    /// What it is.
    pub value: Vec<u8>,
    /// What it is in a new namespace.
    pub usual: Vec<u8>,
}

/// What is in a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Whether the loopback interface is up.
    pub up: bool,
    /// How long its packets may be.
    pub mtu: u32,
    /// Its addresses, sorted.
    pub addresses: Vec<Address>,
    /// Settings that are not as in a new namespace, sorted by name.
    pub settings: Vec<Setting>,
    /// All else that is in no new namespace, in words: a thing, and its name.
    pub others: Vec<(String, String)>,
}

/// Makes a new network namespace, in which we are, as programs expect it: with a loopback interface that is up.
///
/// # Errors
/// EPERM without rights over it.
pub fn begin() -> Result<()> {
    set_loopback(true, None)
}

/// Looks at a network.
///
/// # Errors
/// That it cannot be entered, or that no new one can be made to compare it with.
pub fn take(whose: Whose) -> Result<Census> {
    within(whose, || {
        let here = Raw::read()?;
        unshare(libc::CLONE_NEWNET)?;
        begin()?;
        Ok(here.beside(Raw::read()?).encode())
    })
    .and_then(|bytes| Census::decode(&bytes).ok_or(Errno::BADMSG))
}

/// Makes the network in which we are so that a census finds in it what is in `wanted`.
///
/// # Errors
/// What could not be made so, and why.
pub fn establish(wanted: &Census) -> std::result::Result<(), (String, Errno)> {
    let all = |errno| ("a network of its own".to_owned(), errno);
    let mut here = take(Whose::Ours).map_err(all)?;
    if (here.up, here.mtu) != (wanted.up, wanted.mtu) {
        let failed = |errno| ("the loopback interface".to_owned(), errno);
        set_loopback(wanted.up, Some(wanted.mtu)).map_err(failed)?;
    }
    // That of an interface which is down has none of IPv6, and each change may have brought or taken some.
    let addresses = addresses().map_err(all)?.0;
    for (kind, ours, theirs) in
        [(DELETE_ADDRESS, &addresses, &wanted.addresses), (NEW_ADDRESS, &wanted.addresses, &addresses)]
    {
        for address in ours.iter().filter(|address| !theirs.contains(address)) {
            let name = || format!("address {} of lo", shown(&address.bytes));
            change_address(kind, address).map_err(|errno| (name(), errno))?;
        }
    }
    // Some settings change others, as ip_forward does also those that are as usual; so it is looked until all are as they
    // should be.
    for turn in 0..=TURNS {
        // What was set in here and is not in there is as usual there.
        let mut settings: BTreeMap<&str, &[u8]> = BTreeMap::new();
        settings
            .extend(here.settings.iter().map(|setting| (setting.name.as_str(), setting.usual.as_slice())));
        settings
            .extend(wanted.settings.iter().map(|setting| (setting.name.as_str(), setting.value.as_slice())));
        settings.retain(|name, value| read_setting(name).as_deref() != Ok(*value));
        let Some((first, _)) = settings.first_key_value() else { return Ok(()) };
        let mut wrong = (turn == TURNS).then(|| (format!("setting net/{first}"), Errno::INVAL));
        for (name, value) in &settings {
            if let Err(errno) = write_setting(name, value)
                && turn == TURNS
            {
                wrong = Some((format!("setting net/{name}"), errno));
            }
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        here = take(Whose::Ours).map_err(all)?;
    }
    Ok(())
}

/// Ends what is left of connections of a network in which no program is: the kernel keeps them for a minute, and their ports
/// with them (TIME_WAIT). A kernel without CONFIG_INET_DIAG_DESTROY keeps them.
///
/// # Errors
/// As [`take`].
pub fn end_connections(whose: Whose) -> Result<()> {
    /// NETLINK_SOCK_DIAG; SOCK_DIAG_BY_FAMILY and SOCK_DESTROY of include/uapi/linux/sock_diag.h.
    const SOCK_DIAG: u32 = 4;
    const BY_FAMILY: u16 = 20;
    const DESTROY: u16 = 21;
    /// The lengths of `struct inet_diag_sockid` and `struct inet_diag_msg`, include/uapi/linux/inet_diag.h.
    const ID: usize = 48;
    const TOLD: usize = 72;
    /// FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING (include/net/tcp_states.h): none that could still be accepted.
    const ENDED: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
    within(whose, || {
        for family in [libc::AF_INET, libc::AF_INET6] {
            // struct inet_diag_req_v2: family, protocol, extensions, padding, states, the id of the socket.
            let request = |id: &[u8]| {
                let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
                body.extend(ENDED.to_ne_bytes());
                body.extend(id);
                body
            };
            for told in list(SOCK_DIAG, BY_FAMILY, &request(&[0; ID]), TOLD)? {
                // Of a socket that somebody has the kernel tells the inode.
                if word(&told.fixed, TOLD - 4) == 0
                    && let Some(id) = told.fixed.get(4..4 + ID)
                {
                    let _ = order(SOCK_DIAG, DESTROY, 0, &request(id));
                }
            }
        }
        Ok(Vec::new())
    })
    .map(drop)
}

fn set_loopback(up: bool, mtu: Option<u32>) -> Result<()> {
    // struct ifinfomsg: family, padding, type, index, flags, which of them change.
    let mut body = vec![0; 4];
    body.extend(LOOPBACK.to_ne_bytes());
    body.extend(if up { UP } else { 0 }.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    if let Some(mtu) = mtu {
        append(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
    }
    order(ROUTE, NEW_LINK, 0, &body)
}

fn change_address(kind: u16, address: &Address) -> Result<()> {
    /// NLM_F_CREATE | NLM_F_EXCL.
    const CREATE: u16 = 0x600;
    let family = if address.bytes.len() == 4 { libc::AF_INET } else { libc::AF_INET6 };
    // struct ifaddrmsg: family, prefix, flags, scope, index.
    let mut body = vec![family as u8, address.prefix, 0, address.scope];
    body.extend(LOOPBACK.to_ne_bytes());
    append(&mut body, IFA_LOCAL, &address.bytes);
    append(&mut body, IFA_ADDRESS, &address.bytes);
    order(ROUTE, kind, if kind == NEW_ADDRESS { CREATE } else { 0 }, &body)
}

// Attributes of include/uapi/linux/if_link.h, if_addr.h, rtnetlink.h, fib_rules.h and netfilter/nf_tables.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_QDISC: u16 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_PROTOCOL: u16 = 21;
const NFTA_TABLE_NAME: u16 = 1;

/// Lists the addresses of the loopback interface that we can make again, and those that we cannot.
fn addresses() -> Result<(Vec<Address>, Vec<String>)> {
    let (mut found, mut odd) = (Vec::new(), Vec::new());
    for told in list(ROUTE, GET_ADDRESS, &[0; 8], 8)? {
        if word(&told.fixed, 4) != LOOPBACK {
            continue;
        }
        let Some(bytes) = told.attribute(IFA_ADDRESS) else { continue };
        let local = told.attribute(IFA_LOCAL).unwrap_or(bytes);
        let (prefix, scope) = (told.fixed[1], told.fixed[3]);
        let labelled = told.text(IFA_LABEL).is_some_and(|label| label != "lo");
        if local != bytes || labelled || !matches!(bytes.len(), 4 | 16) {
            odd.push(format!("{} of lo", shown(local)));
        } else {
            found.push(Address { bytes: bytes.to_vec(), prefix, scope });
        }
    }
    found.sort();
    Ok((found, odd))
}

fn shown(bytes: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(bytes).to_string();
    }
    <[u8; 16]>::try_from(bytes)
        .map_or_else(|_| "?".to_owned(), |bytes| std::net::Ipv6Addr::from(bytes).to_string())
}

/// What a namespace holds, as it is read.
#[derive(Debug, Default)]
struct Raw {
    up: bool,
    mtu: u32,
    addresses: Vec<Address>,
    settings: BTreeMap<String, Vec<u8>>,
    others: Vec<(String, String)>,
}

impl Raw {
    /// Reads the one in which we are.
    fn read() -> Result<Self> {
        let mut raw = Self::default();
        let mut names = BTreeMap::new();
        for link in list(ROUTE, GET_LINK, &[0; 16], 16)? {
            let (index, flags) = (word(&link.fixed, 4), word(&link.fixed, 8));
            let name = link.text(IFLA_IFNAME).unwrap_or_default();
            let queue = link.text(IFLA_QDISC).unwrap_or_default();
            if index == LOOPBACK {
                raw.up = flags & UP != 0;
                raw.mtu = link.word(IFLA_MTU).unwrap_or(0);
                if !matches!(queue.as_str(), "noqueue" | "noop" | "") {
                    raw.others.push((format!("queueing discipline {queue}"), name.clone()));
                }
            } else {
                let info = link.inside(IFLA_LINKINFO);
                let kind = info.and_then(|info| info.text(IFLA_INFO_KIND)).unwrap_or_default();
                let kind = if kind.is_empty() { "device".to_owned() } else { kind };
                // Some kernels have such of their own in each namespace, as tunl0: they are down.
                let state = if flags & UP == 0 { "" } else { ", up" };
                raw.others.push(("network interface".to_owned(), format!("{name} ({kind}{state})")));
            }
            names.insert(index, name);
        }
        let (addresses, odd) = addresses()?;
        raw.addresses = addresses;
        raw.others.extend(odd.into_iter().map(|odd| ("address".to_owned(), odd)));
        for route in list(ROUTE, GET_ROUTE, &[0; 12], 12)? {
            let [_, bits, _, _, _, protocol, ..] = route.fixed[..] else { continue };
            if KERNELS.contains(&protocol) {
                continue;
            }
            let to = route.attribute(RTA_DST).map_or_else(|| "default".to_owned(), shown);
            let by = route.word(RTA_OIF).and_then(|index| names.get(&index).cloned()).unwrap_or_default();
            raw.others.push(("route".to_owned(), format!("{to}/{bits} by {by}")));
        }
        // One whose maker is not told is the kernel's (Linux before 4.17).
        for rule in list(ROUTE, GET_RULE, &[0; 12], 12).unwrap_or_default() {
            let protocol = rule.attribute(FRA_PROTOCOL).and_then(|value| value.first().copied());
            if protocol.is_some_and(|protocol| !KERNELS.contains(&protocol)) {
                let priority = rule.word(FRA_PRIORITY).unwrap_or(0);
                raw.others.push(("routing rule".to_owned(), format!("of priority {priority}")));
            }
        }
        // struct nfgenmsg: any family, version 0, resource 0. A kernel without nftables has none.
        for table in list(NETFILTER, GET_TABLE, &[0; 4], 4).unwrap_or_default() {
            raw.others.push(("nftables table".to_owned(), table.text(NFTA_TABLE_NAME).unwrap_or_default()));
        }
        for file in ["ip_tables_names", "ip6_tables_names", "arp_tables_names"] {
            let tables = std::fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
            raw.others.extend(tables.lines().map(|name| ("iptables table".to_owned(), name.to_owned())));
        }
        read_settings(Path::new(SETTINGS), &mut raw.settings);
        raw.others.sort();
        Ok(raw)
    }

    /// Leaves out what is in a new one too.
    fn beside(self, new: Self) -> Census {
        let usual = |name: &str| new.settings.get(name).cloned().unwrap_or_default();
        Census {
            up: self.up,
            mtu: self.mtu,
            addresses: self.addresses,
            // Of an interface that a new one does not have, settings go with it.
            settings: self
                .settings
                .into_iter()
                .filter(|(name, value)| new.settings.get(name).is_some_and(|usual| usual != value))
                .map(|(name, value)| Setting { usual: usual(&name), name, value })
                .collect(),
            others: self.others.into_iter().filter(|other| !new.others.contains(other)).collect(),
        }
    }
}

/// Reads all settings that can be both read and written. Files of which one cannot tell anything are left out.
fn read_settings(directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            read_settings(&path, found);
        } else if metadata.is_file()
            && metadata.permissions().mode() & 0o600 == 0o600
            && let Ok(name) = path.strip_prefix(SETTINGS)
            && let Some(name) = name.to_str()
            && let Ok(value) = read_setting(name)
        {
            found.insert(name.to_owned(), value);
        }
    }
}

/// Whether a name of a setting is one: it leads nowhere else.
pub fn is_setting(name: &str) -> bool {
    name.len() < 512
        && !name.contains('\0')
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn open_setting(name: &str, flags: OFlags) -> Result<rustix::fd::OwnedFd> {
    if !is_setting(name) {
        return Err(Errno::INVAL);
    }
    rustix::fs::open(
        Path::new(SETTINGS).join(name),
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

fn read_setting(name: &str) -> Result<Vec<u8>> {
    let file = open_setting(name, OFlags::RDONLY)?;
    // Each is told whole by the first read, if there is room (`proc_sys_call_handler`, fs/proc/proc_sysctl.c).
    for room in [256, LONGEST] {
        let mut value = vec![0u8; room];
        let len = rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut value, 0))?;
        if len < room {
            value.truncate(len);
            return Ok(value);
        }
    }
    Err(Errno::FBIG)
}

fn write_setting(name: &str, value: &[u8]) -> Result<()> {
    let file = open_setting(name, OFlags::WRONLY)?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, value)).map(drop)
}

impl Census {
    /// Writes it for the other end of a pipe: fields with their lengths before them.
    fn encode(&self) -> Vec<u8> {
        let mut fields: Vec<Vec<u8>> = vec![vec![u8::from(self.up)], self.mtu.to_ne_bytes().to_vec()];
        let count =
            |count: usize, fields: &mut Vec<Vec<u8>>| fields.push((count as u32).to_ne_bytes().to_vec());
        count(self.addresses.len(), &mut fields);
        for address in &self.addresses {
            fields.push(address.bytes.clone());
            fields.push(vec![address.prefix, address.scope]);
        }
        count(self.settings.len(), &mut fields);
        for setting in &self.settings {
            fields.extend([setting.name.clone().into_bytes(), setting.value.clone(), setting.usual.clone()]);
        }
        count(self.others.len(), &mut fields);
        for (kind, name) in &self.others {
            fields.extend([kind.clone().into_bytes(), name.clone().into_bytes()]);
        }
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend((field.len() as u32).to_ne_bytes());
            bytes.extend(field);
        }
        bytes
    }

    fn decode(mut rest: &[u8]) -> Option<Self> {
        let mut field = || {
            let len = word(rest.get(..4)?, 0) as usize;
            let field = rest.get(4..4 + len)?;
            rest = rest.get(4 + len..)?;
            Some(field.to_vec())
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
        let up = field()? == [1];
        let mtu = word(&field()?, 0);
        let mut census = Self { up, mtu, ..Self::default() };
        for _ in 0..word(&field()?, 0) {
            let bytes = field()?;
            let [prefix, scope] = field()?.try_into().ok()?;
            census.addresses.push(Address { bytes, prefix, scope });
        }
        for _ in 0..word(&field()?, 0) {
            census.settings.push(Setting { name: text(field()?)?, value: field()?, usual: field()? });
        }
        for _ in 0..word(&field()?, 0) {
            census.others.push((text(field()?)?, text(field()?)?));
        }
        Some(census)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_census_comes_through_a_pipe_as_it_was() {
        let census = Census {
            up: true,
            mtu: 65_536,
            addresses: vec![Address { bytes: vec![127, 0, 0, 1], prefix: 8, scope: 254 }],
            settings: vec![Setting { name: "a/b".to_owned(), value: b"1\n".to_vec(), usual: Vec::new() }],
            others: vec![("route".to_owned(), "default".to_owned())],
        };
        assert_eq!(Census::decode(&census.encode()), Some(census.clone()));
        let bytes = census.encode();
        assert!((0..bytes.len()).all(|end| Census::decode(&bytes[..end]).is_none()));
    }

    #[test]
    fn names_that_lead_elsewhere_are_none_of_settings() {
        assert!(is_setting("ipv4/conf/lo/forwarding"));
        for name in
            ["", "/etc/passwd", "../kernel/core_pattern", "ipv4/../../kernel/x", "ipv4//x", "ipv4/./x"]
        {
            assert!(!is_setting(name), "{name}");
        }
    }
}
