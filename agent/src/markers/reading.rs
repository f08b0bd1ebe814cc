//! Reading one place: on a thread that may hang, with the eyes of everybody who uses it.
//!
//! ```text
//!   QEMUs with disks there --> their views --.
//!   libvirt, which starts the next one ------+--> marker in each --> all say the same? --> Said
//! ```
//!
//! A marker counts where all who use the place read the same one. Where a process has
//! ended, its view goes with it; where nobody is left to ask, nothing is said.

use super::{MARKER, Used};
use crate::view::{self, Root, View};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directory -> images in it, and who uses them.
pub(super) type Folders = BTreeMap<String, Vec<(String, Used)>>;
/// What is asked of one folder with one pair of eyes: images; `true` where a marker may be made.
type Images = Vec<(String, bool)>;
/// One pair of eyes, and the folders that it is asked about.
type Asked = (View, BTreeMap<String, Images>);

/// Where processes are seen, and how libvirt sees files; `None` while it is out of sight.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) proc: PathBuf,
    pub(super) libvirts: Option<View>,
    /// Counts the changes of it: what was read before one says nothing after it.
    pub(super) turn: u64,
}

/// What is said of a directory's marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Marker(String),
    /// The directory answers, and has none.
    Nothing,
    /// The storage does not answer.
    Silent,
    /// It could not be looked at as those see it who use it.
    Unseen(String),
    /// Those who use it do not see the same storage there.
    Differs,
}

/// One place's reading.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) place: String,
    pub(super) turn: u64,
    /// Of the place and of each folder.
    pub(super) markers: BTreeMap<String, Said>,
    pub(super) backing: Vec<(String, String)>,
}

/// Reads a place with the eyes of all who use it.
pub(super) fn read(place: String, folders: &Folders, sight: &Sight) -> Reading {
    let mut reading = Reading { place, turn: sight.turn, markers: BTreeMap::new(), backing: Vec::new() };
    let (views, blind) = views(folders, sight);
    reading.markers.extend(blind.into_iter().map(|(folder, why)| (folder, Said::Unseen(why))));
    for (view, asked) in &views {
        let Some((markers, backing)) = look(view, &reading.place, asked, sight) else { continue };
        for (folder, said) in markers {
            let together = match reading.markers.remove(&folder) {
                Some(before) => agreed(before, said),
                None => said,
            };
            reading.markers.insert(folder, together);
        }
        reading.backing.extend(backing);
    }
    for folder in folders.keys().chain([&reading.place]) {
        let nobody = || Said::Unseen("libvirt is out of sight".to_owned());
        reading.markers.entry(folder.clone()).or_insert_with(nobody);
    }
    reading
}

/// What two pairs of eyes say together.
fn agreed(one: Said, other: Said) -> Said {
    match (one, other) {
        (Said::Differs, _) | (_, Said::Differs) => Said::Differs,
        (Said::Unseen(why), _) | (_, Said::Unseen(why)) => Said::Unseen(why),
        (Said::Silent, _) | (_, Said::Silent) => Said::Silent,
        (one, other) if one == other => one,
        _ => Said::Differs,
    }
}

/// Each view once, with what it is asked; and the folders that somebody uses whom we cannot follow.
fn views(folders: &Folders, sight: &Sight) -> (Vec<Asked>, Vec<(String, String)>) {
    let (mut views, mut blind) = (BTreeMap::<view::Place, Asked>::new(), Vec::new());
    let libvirts = sight.libvirts.as_ref().and_then(|view| Some((view, place_of(view, &sight.proc).ok()?)));
    if let Some((view, place)) = &libvirts {
        let all = |images: &Vec<(String, Used)>| images.iter().map(|(path, used)| (path.clone(), used.make)).collect();
        let asked = folders.iter().map(|(folder, images)| (folder.clone(), all(images))).collect();
        views.insert(place.clone(), ((*view).clone(), asked));
    }
    let used = folders.iter().flat_map(|(folder, images)| images.iter().map(move |image| (folder, image)));
    for (folder, (path, used)) in used {
        for (pid, start) in &used.by {
            let seen = View::of(&sight.proc, *pid, *start).and_then(|view| Ok((place_of(&view, &sight.proc)?, view)));
            match seen {
                // libvirt's eyes are asked about everything anyway.
                Ok((place, _)) if libvirts.as_ref().is_some_and(|(_, libvirts)| place == *libvirts) => {}
                Ok((place, view)) => {
                    let (_, asked) = views.entry(place).or_insert_with(|| (view, BTreeMap::new()));
                    asked.entry(folder.clone()).or_default().push((path.clone(), used.make));
                }
                // It has ended: it uses nothing any more.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => blind.push((folder.clone(), format!("process {pid}: {e}"))),
            }
        }
    }
    (views.into_values().collect(), blind)
}

/// Views of one place show the same files.
fn place_of(view: &View, proc: &Path) -> io::Result<view::Place> {
    match view {
        View::Own => view::place(proc, "self"),
        View::Of { pid, .. } => view::place(proc, &pid.to_string()),
    }
}

type Looked = (BTreeMap<String, Said>, Vec<(String, String)>);

/// Looks with one pair of eyes; `None` when they have closed.
fn look(view: &View, place: &str, asked: &BTreeMap<String, Images>, sight: &Sight) -> Option<Looked> {
    let found = match view.enter(&sight.proc) {
        Ok(root) => look_from(&root, place, asked),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            let unseen = || Said::Unseen(e.to_string());
            let markers = asked.keys().map(String::as_str).chain([place]).map(|folder| (folder.to_owned(), unseen()));
            (markers.collect(), Vec::new())
        }
    };
    view.stands(&sight.proc).ok().map(|()| found)
}

fn look_from(root: &Root, place: &str, asked: &BTreeMap<String, Images>) -> Looked {
    let device = |folder: &str| root.metadata(Path::new(folder)).ok().map(|found| found.dev());
    let home = device(place);
    let shares = |folder: &String| *folder == place || home.is_some() && device(folder) == home;
    let (inside, apart): (Vec<_>, Vec<_>) = asked.iter().partition(|(folder, _)| shares(folder));
    // Where a mount is missing, the empty mount point must not get a marker of its own:
    // one is made only beside an image that is there.
    let is_there = |path: &String| root.metadata(Path::new(path)).is_ok();
    let there = |images: &Images| images.iter().any(|(path, make)| *make && is_there(path));
    let make = inside.iter().any(|(_, images)| there(images));
    let marker = said(read_marker(root, Path::new(place), make));
    let mut markers: BTreeMap<_, _> = inside.into_iter().map(|(folder, _)| (folder.clone(), marker.clone())).collect();
    for (folder, images) in apart {
        markers.insert(folder.clone(), said(read_marker(root, Path::new(folder), there(images))));
    }
    markers.insert(place.to_owned(), marker);
    let behind = |(path, _): &(String, bool)| Some((path.clone(), backing_file(root, Path::new(path))?));
    let backing = asked.values().flatten().filter_map(behind).collect();
    (markers, backing)
}

fn said(read: io::Result<Option<String>>) -> Said {
    match read {
        Ok(Some(marker)) => Said::Marker(marker),
        Ok(None) => Said::Nothing,
        // No storage says that: the kernel cannot follow a path from another root.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => Said::Unseen(e.to_string()),
        Err(_) => Said::Silent,
    }
}

/// Reads the marker of a directory; makes one where there is none and it may.
fn read_marker(root: &Root, directory: &Path, make: bool) -> io::Result<Option<String>> {
    let path = directory.join(MARKER);
    match root.metadata(directory) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    for _ in 0..2 {
        match root.open(&path) {
            Ok(file) => return Ok(marker_in(file)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) if !make => return Ok(None),
            Err(_) => {}
        }
        // Made under its final name only if nobody else was faster; then theirs is read.
        match root.create_new(&path) {
            Ok(mut file) => {
                writeln!(file, "{}", uuid::Uuid::new_v4())?;
                file.sync_all()?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // Read-only storage without a marker proves nothing, and harms nothing.
            Err(_) => return Ok(None),
        }
    }
    root.open(&path).map(marker_in)
}

/// A marker is a UUID; anything else (also one that is just being written) is none.
fn marker_in(file: File) -> Option<String> {
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).ok()?;
    uuid::Uuid::parse_str(text.trim()).ok().map(|u| u.to_string())
}

/// The image behind a qcow2 image: a relative name counts from the image's own directory.
fn backing_file(root: &Root, path: &Path) -> Option<String> {
    let mut file = root.open(path).ok()?;
    let mut header = [0; 20];
    file.read_exact(&mut header).ok()?;
    let offset = u64::from_be_bytes(header[8..16].try_into().ok()?);
    let length = u32::from_be_bytes(header[16..20].try_into().ok()?);
    // The format allows names of up to 1023 bytes within the first cluster.
    if header[..4] != *b"QFI\xfb" || offset == 0 || length == 0 || length > 1023 {
        return None;
    }
    let mut name = vec![0; length as usize];
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut name).ok()?;
    let name = String::from_utf8(name).ok()?;
    if name.contains("://") || name.starts_with("json:") {
        return Some(name);
    }
    Some(path.parent()?.join(name).display().to_string())
}

#[cfg(test)]
mod tests;
