//! What a domain's XML says about where it can run.

use medevac_proto::text_hash;
use roxmltree::{Document, Node};
use std::path::Path;

/// Namespace of the operator's mark: `<medevac:protect xmlns:medevac="urn:medevac:1"/>`.
pub const MARK_NAMESPACE: &str = "urn:medevac:1";
/// How every version of the namespace begins in which Nova describes a server.
const NOVA_NAMESPACE: &str = "http://openstack.org/xmlns/libvirt/nova/";
/// Namespace of the agent's own note. Another one: libvirt keeps one element per namespace.
pub const NOTE_NAMESPACE: &str = "urn:medevac:agent:1";

/// How a domain reaches one of its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Block,
    /// Reached over the network, by libvirt or by Nova, which attaches a volume wherever the server comes up.
    Network,
    /// Nothing that we know to be the same elsewhere.
    Other,
}

/// A disk, NVRAM or TPM state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: String,
    pub kind: Kind,
    /// A CD or floppy: its image may be missing without harm to the guest's data,
    /// but a start elsewhere fails without it.
    pub medium: bool,
}

/// One version of a domain's inactive XML, and what follows from it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Hex of the text's digest: names this version.
    pub hash: String,
    pub text: String,
    pub uuid: String,
    pub memory_kib: u64,
    pub sources: Vec<Source>,
    /// Reasons that bind the domain to this host.
    pub local_only: Vec<String>,
    /// The operator asks for protection.
    pub marked: bool,
    /// The agent of some host cleared the autostart flag and owes it back.
    pub autostart_noted: bool,
}

impl std::fmt::Debug for Description {
    /// Never the text: it may hold passwords of consoles and storage.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Description").field("uuid", &self.uuid).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Description {
    /// Reads a domain's XML; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Description, String> {
        let document = Document::parse(text).map_err(|e| format!("not XML: {e}"))?;
        let root = document.root_element();
        if root.tag_name().name() != "domain" {
            return Err(format!("the root element is <{}>, not <domain>", root.tag_name().name()));
        }
        let uuid = child_text(root, "uuid").unwrap_or_default().to_owned();
        let metadata = child(root, "metadata");
        let has = |namespace: &str, name: &str| {
            let is = |n: Node<'_, '_>| n.tag_name().name() == name && n.tag_name().namespace() == Some(namespace);
            metadata.is_some_and(|m| m.descendants().any(is))
        };
        Ok(Description {
            hash: text_hash(text),
            text: text.to_owned(),
            memory_kib: memory_kib(root),
            sources: sources(root, &uuid, metadata.is_some_and(is_novas)),
            local_only: local_only(root),
            marked: has(MARK_NAMESPACE, "protect"),
            autostart_noted: has(NOTE_NAMESPACE, "autostart"),
            uuid,
        })
    }
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

fn child_text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name).and_then(|n| n.text()).map(str::trim).filter(|t| !t.is_empty())
}

fn memory_kib(root: Node<'_, '_>) -> u64 {
    let Some(memory) = child(root, "memory") else {
        return 0;
    };
    let number: u64 = memory.text().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    match memory.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => number / 1024,
        "KB" => number * 1000 / 1024,
        "M" | "MiB" => number * 1024,
        "MB" => number * 1_000_000 / 1024,
        "G" | "GiB" => number * 1024 * 1024,
        "GB" => number * 1_000_000_000 / 1024,
        _ => number,
    }
}

/// Nova made this domain.
fn is_novas(metadata: Node<'_, '_>) -> bool {
    let namespace = |n: Node<'_, '_>| n.tag_name().namespace().is_some_and(|name| name.starts_with(NOVA_NAMESPACE));
    metadata.children().any(|n| n.tag_name().name() == "instance" && namespace(n))
}

fn sources(root: Node<'_, '_>, uuid: &str, novas: bool) -> Vec<Source> {
    let mut out = Vec::new();
    let devices = child(root, "devices");
    for disk in devices.iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk")) {
        let medium = matches!(disk.attribute("device"), Some("cdrom" | "floppy"));
        // Nova writes the volume's id as its serial, and gives its own disks none.
        let volume = novas && child_text(disk, "serial").is_some_and(is_uuid);
        // The chain of images behind it, where the XML tells it.
        let mut layer = Some(disk);
        while let Some(node) = layer {
            if let Some(source) = child(node, "source") {
                let found = source_of(node.attribute("type").unwrap_or("file"), source);
                let kind = if volume { Kind::Network } else { found.kind };
                out.push(Source { medium, kind, ..found });
            }
            layer = child(node, "backingStore");
        }
    }
    if let Some(nvram) = child(root, "os").and_then(|os| child(os, "nvram")) {
        match child(nvram, "source") {
            Some(source) => out.push(source_of(nvram.attribute("type").unwrap_or("file"), source)),
            None => out.extend(nvram.text().map(str::trim).filter(|t| !t.is_empty()).map(file)),
        }
    }
    let tpm = devices.and_then(|d| child(d, "tpm")).and_then(|t| child(t, "backend"));
    if tpm.is_some_and(|t| t.attribute("type") == Some("emulator")) {
        out.push(file(&format!("/var/lib/libvirt/swtpm/{uuid}/tpm")));
    }
    out
}

fn file(path: &str) -> Source {
    Source { path: path.to_owned(), kind: Kind::File, medium: false }
}

fn source_of(kind: &str, source: Node<'_, '_>) -> Source {
    let attribute = |name| source.attribute(name).unwrap_or_default().to_owned();
    let (kind, path) = match kind {
        "file" => (Kind::File, attribute("file")),
        "block" => (Kind::Block, attribute("dev")),
        "network" => {
            let server = child(source, "host").and_then(|h| h.attribute("name")).unwrap_or_default();
            (Kind::Network, format!("{}://{server}/{}", attribute("protocol"), attribute("name")))
        }
        "volume" => (Kind::Other, format!("pool {} volume {}", attribute("pool"), attribute("volume"))),
        other => (Kind::Other, format!("{other} {}", attribute("dir"))),
    };
    Source { path, kind, medium: false }
}

fn local_only(root: Node<'_, '_>) -> Vec<String> {
    let mut out = Vec::new();
    let Some(devices) = child(root, "devices") else {
        return out;
    };
    let mut add = |reason: &str| {
        if !out.iter().any(|r| r == reason) {
            out.push(reason.to_owned());
        }
    };
    for device in devices.children().filter(Node::is_element) {
        match (device.tag_name().name(), device.attribute("type")) {
            ("hostdev", _) | ("interface", Some("hostdev")) => add("host device"),
            ("filesystem", _) => add("host directory"),
            ("memory", _) if device.attribute("model") == Some("nvdimm") => add("nvdimm"),
            ("disk", Some("nvme" | "vhostuser" | "vhostvdpa" | "dir")) => add("disk of this host"),
            ("disk", Some("volume")) => add("disk in a storage pool: its path is not in the XML"),
            ("tpm", _) => {
                let backend = child(device, "backend").and_then(|b| b.attribute("type"));
                if backend == Some("passthrough") {
                    add("host TPM");
                }
            }
            _ => {}
        }
    }
    out
}

/// The directory in which a file's marker lies.
pub fn directory_of(path: &str) -> String {
    Path::new(path).parent().map(|p| p.display().to_string()).unwrap_or_default()
}

/// Where the marker of a directory lies that is on the same file system: Nova keeps a folder per
/// server, named by its UUID, and one marker for all of them does.
pub fn place_of(directory: &str) -> &str {
    match directory.rsplit_once('/') {
        Some((parent, name)) if !parent.is_empty() && is_uuid(name) => place_of(parent),
        _ => directory,
    }
}

/// As Nova and libvirt write it, with dashes.
fn is_uuid(name: &str) -> bool {
    name.len() == 36 && uuid::Uuid::parse_str(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(inner: &str) -> Description {
        let text = format!("<domain type='qemu'><name>g</name><uuid>u-1</uuid>{inner}</domain>");
        Description::parse(&text).unwrap()
    }

    #[test]
    fn disks_nvram_and_tpm_are_found_with_their_kind() {
        let d = parse(
            "<memory unit='MiB'>128</memory>
             <os><nvram template='/t'>/n/g_VARS.fd</nvram></os>
             <devices>
               <disk type='file' device='disk'><source file='/d/g.qcow2'/>
                 <backingStore type='file'><source file='/base/b.qcow2'/><backingStore/></backingStore></disk>
               <disk type='network' device='disk'><source protocol='nbd' name='g'><host name='10.77.2.2' port='10809'/></source></disk>
               <disk type='block' device='disk'><source dev='/dev/sdb'/></disk>
               <disk type='file' device='cdrom'><target dev='sda'/></disk>
               <disk type='file' device='cdrom'><source file='/iso/x.iso'/></disk>
               <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
             </devices>",
        );
        assert_eq!(d.memory_kib, 128 * 1024);
        let got: Vec<_> = d.sources.iter().map(|s| (s.path.as_str(), s.kind, s.medium)).collect();
        assert_eq!(
            got,
            [
                ("/d/g.qcow2", Kind::File, false),
                ("/base/b.qcow2", Kind::File, false),
                ("nbd://10.77.2.2/g", Kind::Network, false),
                ("/dev/sdb", Kind::Block, false),
                ("/iso/x.iso", Kind::File, true),
                ("/n/g_VARS.fd", Kind::File, false),
                ("/var/lib/libvirt/swtpm/u-1/tpm", Kind::File, false),
            ]
        );
        assert_eq!(d.local_only, Vec::<String>::new());
    }

    #[test]
    fn a_volume_that_nova_attached_is_reached_over_the_network_whatever_it_looks_like_here() {
        let devices = "<devices>
               <disk type='file' device='disk'><source file='/i/disk'/></disk>
               <disk type='block' device='disk'><source dev='/dev/dm-3'/>
                 <serial>6d9bc9ba-3a4e-4d9c-8b93-1c59e6d0e7a5</serial></disk>
               <disk type='block' device='disk'><source dev='/dev/sdz'/><serial>WD-1</serial></disk>
             </devices>";
        let kinds = |d: Description| d.sources.iter().map(|s| s.kind).collect::<Vec<_>>();
        let nova = "<metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>";
        assert_eq!(kinds(parse(&format!("{nova}{devices}"))), [Kind::File, Kind::Network, Kind::Block]);
        assert_eq!(kinds(parse(devices)), [Kind::File, Kind::Block, Kind::Block], "nobody attaches it elsewhere");
    }

    #[test]
    fn the_folders_of_nova_are_one_place() {
        let one = "00000000-0000-0000-0000-000000000001";
        assert_eq!(place_of(&format!("/var/lib/nova/instances/{one}")), "/var/lib/nova/instances");
        assert_eq!(place_of(&format!("/data/{one}/{one}")), "/data");
        let alone =
            ["/var/lib/nova/instances/_base", "/mnt/0123456789abcdef0123456789abcdef", &format!("/{one}"), "/", ""];
        assert!(alone.iter().all(|directory| place_of(directory) == *directory));
    }

    #[test]
    fn what_binds_a_guest_to_its_host_is_named_once() {
        let d = parse(
            "<devices><hostdev/><hostdev/><filesystem/><disk type='volume'><source pool='p' volume='v'/></disk></devices>",
        );
        assert_eq!(
            d.local_only,
            ["host device", "host directory", "disk in a storage pool: its path is not in the XML"]
        );
    }

    #[test]
    fn marks_are_read_by_namespace() {
        let d = parse(
            "<metadata><m:protect xmlns:m='urn:medevac:1'/><a:autostart xmlns:a='urn:medevac:agent:1' taken='yes'/></metadata>",
        );
        assert!(d.marked && d.autostart_noted);
        assert!(!parse("<metadata><m:protect xmlns:m='urn:other'/></metadata>").marked);
    }

    #[test]
    fn the_text_is_never_shown() {
        let d = parse("<devices><graphics type='vnc' passwd='hunter2'/></devices>");
        assert!(d.text.contains("hunter2") && !format!("{d:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_no_domain_is_refused_with_the_reason() {
        assert!(Description::parse("<network/>").unwrap_err().contains("<network>"));
        assert!(Description::parse("rubbish").unwrap_err().contains("not XML"));
    }
}
