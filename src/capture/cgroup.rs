//! `/proc/PID/cgroup` (cgroups(7)): where a process stands in the hierarchies of control groups, and which pod and container that is.
//!
//! Whoever may make groups beneath its own can give them any name. So a form counts only where it begins: at the root of the hierarchy,
//! or right above exeat's own group, which the kernel writes as `..` and nobody can make. What stands beneath a container proves nothing.

/// Longest text that is looked at, in bytes: a process is in at most a few dozen hierarchies.
const MOST: usize = 64 * 1024;

/// The groups of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cgroups {
    paths: Vec<Box<str>>,
    pod: Option<Box<str>>,
    container: Option<Box<str>>,
}

/// What one path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place<'a> {
    /// The pod's uid as the kubelet wrote it: systemd's form has `_` in the place of `-`.
    pod: Option<&'a str>,
    container: Option<&'a str>,
}

impl Cgroups {
    /// Reads the kernel's table. Hierarchies that contradict each other in pod or container prove neither.
    #[must_use]
    pub fn parse(table: &str) -> Self {
        let mut read = Self::default();
        let (mut pods, mut containers): (Vec<Box<str>>, Vec<Box<str>>) = (Vec::new(), Vec::new());
        for line in table.get(..MOST).unwrap_or(table).lines() {
            // number:controllers:path; the path may hold colons
            let Some(path) = line.splitn(3, ':').nth(2).filter(|path| path.starts_with('/')) else { continue };
            let place = place(path);
            pods.extend(place.pod.map(|pod| pod.replace('_', "-").into_boxed_str()));
            containers.extend(place.container.map(Into::into));
            if path != "/" && !read.paths.iter().any(|known| **known == *path) {
                read.paths.push(path.into());
            }
        }
        read.pod = agreed(pods);
        read.container = agreed(containers);
        read
    }

    /// The uid of the Kubernetes pod, as the API server writes it.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        self.pod.as_deref()
    }

    /// The container's full id.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// Whether the process is in this group, or beneath it, in one of the hierarchies.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        !group.is_empty()
            && self.paths.iter().any(|path| path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

/// The one value that all name.
fn agreed(mut values: Vec<Box<str>>) -> Option<Box<str>> {
    values.dedup();
    let one = values.pop()?;
    values.is_empty().then_some(one)
}

fn place(path: &str) -> Place<'_> {
    let above = path.starts_with("/../") || path == "/..";
    let mut parts = path.split('/').skip(1).skip_while(|part| *part == "..").peekable();
    let Some(&first) = parts.peek() else { return Place::default() };
    match first {
        // kubelet with the cgroupfs driver; `kubelet` above it where the node is a container itself
        "kubepods" | "kubelet" => cgroupfs(parts),
        "kubepods.slice" | "kubelet.slice" => slices(parts),
        // containerd with its own cgroups beneath a kubelet that speaks systemd's names
        "system.slice" => parts.nth(1).and_then(|unit| colons(unit).or_else(|| beside(unit, parts.next()))).unwrap_or_default(),
        // plain Docker, Podman
        "docker" | "libpod_parent" | "machine.slice" => {
            Place { pod: None, container: parts.nth(1).and_then(|part| scope(part).or_else(|| id(part))) }
        }
        // a sibling of exeat's own group, or of its pod's
        _ if above => slices(parts),
        _ => Place::default(),
    }
}

/// `/kubepods/[QOS/]podUID/[RUNTIME-]ID`
fn cgroupfs<'a>(parts: impl Iterator<Item = &'a str>) -> Place<'a> {
    let mut parts = parts.skip_while(|part| matches!(*part, "kubelet" | "kubepods" | "burstable" | "besteffort"));
    let Some(pod) = parts.next().and_then(|part| part.strip_prefix("pod")).filter(|pod| is_pod(pod)) else { return Place::default() };
    Place { pod: Some(pod), container: parts.next().and_then(|part| id(part).or_else(|| scope(part))) }
}

/// `/kubepods.slice/[kubepods-QOS.slice/]kubepods[-QOS]-podUID.slice/RUNTIME-ID.scope`, and its end alone
fn slices<'a>(parts: impl Iterator<Item = &'a str>) -> Place<'a> {
    let mut found = Place::default();
    for part in parts {
        if let Some(slice) = part.strip_suffix(".slice") {
            match slice.rsplit_once("-pod") {
                Some((_, pod)) if is_pod(pod) => found.pod = Some(pod),
                Some(_) => return Place::default(),
                None if found.pod.is_some() => return found,
                None => {}
            }
        } else {
            found.container = scope(part).or_else(|| id(part));
            return found;
        }
    }
    found
}

/// `kubepods[-QOS]-podUID.slice:cri-containerd:ID`
fn colons(part: &str) -> Option<Place<'_>> {
    let mut parts = part.split(':');
    let pod = parts.next()?.strip_suffix(".slice")?.rsplit_once("-pod")?.1;
    let (container, last) = (parts.nth(1).and_then(id)?, parts.next());
    (is_pod(pod) && last.is_none()).then_some(Place { pod: Some(pod), container: Some(container) })
}

/// `/system.slice/docker-ID.scope`, and `/system.slice/containerd.service/` with the form of [`colons`] in it.
fn beside<'a>(unit: &'a str, next: Option<&'a str>) -> Option<Place<'a>> {
    if let Some(container) = scope(unit) {
        return Some(Place { pod: None, container: Some(container) });
    }
    next.filter(|_| matches!(unit, "containerd.service" | "k3s.service" | "rke2-server.service" | "rke2-agent.service")).and_then(colons)
}

/// `RUNTIME-ID.scope`, and `RUNTIME-ID` of the cgroupfs driver. A monitor (`crio-conmon-`) is not the container.
fn scope(part: &str) -> Option<&str> {
    let bare = part.strip_suffix(".scope").unwrap_or(part);
    ["cri-containerd-", "crio-", "docker-", "libpod-"].into_iter().find_map(|runtime| bare.strip_prefix(runtime)).and_then(id)
}

/// A container id: 64 hexadecimal digits, whatever the runtime.
fn id(text: &str) -> Option<&str> {
    (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))).then_some(text)
}

/// A UUID, with `-` or systemd's `_`, or the 32 digits of a static pod.
fn is_pod(text: &str) -> bool {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    match text.len() {
        32 => text.bytes().all(hexadecimal),
        36 => text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
            _ => hexadecimal(byte),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "6b2f7a0e-8d1c-4c57-9a51-0d2f7c3b9e11";
    const STATIC: &str = "9f86d081884c7d659a2feaa0c55ad015";

    fn read(path: &str) -> (Option<String>, Option<String>) {
        let read = Cgroups::parse(&format!("0::{path}\n"));
        (read.pod().map(str::to_owned), read.container().map(str::to_owned))
    }

    #[test]
    fn every_form_of_kubelet_and_runtimes_gives_pod_and_container() {
        let under = POD.replace('-', "_");
        let both = [
            format!("/kubepods/pod{POD}/{ID}"),
            format!("/kubepods/burstable/pod{POD}/{ID}"),
            format!("/kubepods/besteffort/pod{POD}/crio-{ID}"),
            format!("/kubelet/kubepods/burstable/pod{POD}/{ID}/init"),
            format!("/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/crio-{ID}.scope/container"),
            format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/docker-{ID}.scope"),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{ID}"),
            format!("/../../kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"),
        ];
        for path in both {
            assert_eq!(read(&path), (Some(POD.into()), Some(ID.into())), "{path}");
        }
        assert_eq!(read(&format!("/kubepods/pod{STATIC}/{ID}")), (Some(STATIC.into()), Some(ID.into())));
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/../cri-containerd-{ID}.scope"),
        ] {
            assert_eq!(read(&path), (None, Some(ID.into())), "{path}");
        }
    }

    #[test]
    fn a_name_that_a_workload_can_give_itself_proves_nothing() {
        let under = POD.replace('-', "_");
        let forged = format!("kubepods-pod{under}.slice/cri-containerd-{ID}.scope");
        for path in [
            format!("/user.slice/user-1000.slice/{forged}"),
            format!("/x/kubepods/pod{POD}/{ID}"),
            format!("/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope"),
            format!("/system.slice/mine.service/kubepods-pod{under}.slice:cri-containerd:{ID}"),
            format!("/kubepods.slice/kubepods-podnot_a_uid.slice/cri-containerd-{ID}.scope"),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&path), (None, None), "{path}");
        }
        // beneath a container its own names do not count
        let other = "f".repeat(64);
        let nested = format!("/kubepods/pod{POD}/{ID}/kubepods/pod{STATIC}/{other}");
        assert_eq!(read(&nested), (Some(POD.into()), Some(ID.into())));
        assert_eq!(read(&format!("/docker/{ID}/kubepods/pod{POD}/{other}")), (None, Some(ID.into())));
        let monitor = format!("/kubepods.slice/kubepods-pod{under}.slice/crio-conmon-{ID}.scope");
        assert_eq!(read(&monitor), (Some(POD.into()), None));
    }

    #[test]
    fn hierarchies_that_contradict_each_other_prove_nothing() {
        let other = "a".repeat(64);
        let table = format!("4:memory:/docker/{ID}\n3:cpu:/docker/{other}\n0::/\n");
        let read = Cgroups::parse(&table);
        assert_eq!((read.container(), read.is_in(&format!("/docker/{ID}"))), (None, true));
        let same = Cgroups::parse(&format!("4:memory:/docker/{ID}\n9:name=systemd:/docker/{ID}\n0::/\n"));
        assert_eq!(same.container(), Some(ID));
    }

    #[test]
    fn a_group_holds_what_is_beneath_it_and_nothing_beside_it() {
        let read = Cgroups::parse("1:name=systemd:/system.slice/app.service/worker\n0::/\n");
        assert!(read.is_in("/system.slice/app.service") && read.is_in("/system.slice/app.service/worker"));
        for group in ["/system.slice/app", "/system.slice/app.service/work", "/", "", "/system.slice/other.service"] {
            assert!(!read.is_in(group), "{group}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_and_what_it_finds_stands_there(table in "([0-9]{0,2}:[a-z=,]{0,9}:(/[.a-z0-9_:-]{0,70}){0,5}\n?){0,6}|\\PC{0,300}") {
            let read = Cgroups::parse(&table);
            if let Some(container) = read.container() {
                prop_assert!(id(container).is_some() && table.contains(container));
            }
            if let Some(pod) = read.pod() {
                prop_assert!(is_pod(pod) && !pod.contains('_'));
            }
        }

        /// However a workload names what it makes beneath its own container, it stays in its own pod.
        #[test]
        fn nothing_beneath_a_container_changes_who_it_is(beneath in "(/[.a-z0-9_:-]{1,40}){0,4}", slice in any::<bool>()) {
            let forged = format!("{beneath}/kubepods/pod{STATIC}/{}", "e".repeat(64));
            let own = if slice {
                format!("/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{ID}.scope", POD.replace('-', "_"))
            } else {
                format!("/kubepods/pod{POD}/{ID}")
            };
            for tail in ["", &beneath, &forged] {
                prop_assert_eq!(read(&format!("{own}{tail}")), (Some(POD.to_owned()), Some(ID.to_owned())));
            }
        }
    }
}
