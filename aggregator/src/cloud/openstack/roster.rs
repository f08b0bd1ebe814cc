//! Which servers there are and what is said of them: all, once a minute, for
//! what is shown and decided while all is well; and what their images say.
//!
//! ```text
//!   GET /servers/detail, to the last page --> facts, marks alone --> triage
//!   GET /v2/images/ID, once for each image --/
//! ```

use super::{LOOK_WITHIN, Shared};
use medevac_openstack::{Answer, Failure, Kind};
use medevac_triage::{CloudNews, InstanceId, Marks, Mould, Server, is_mark};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A minute is soon for what is shown, and costs Nova ten pages for ten thousand servers.
const EVERY: Duration = Duration::from_secs(60);
/// While nothing is known at all.
const AGAIN: Duration = Duration::from_secs(10);
/// Nova needs about a second for a page of a thousand, several when it is loaded.
const WITHIN: Duration = Duration::from_secs(50);
/// An operator who marks an image sees it after this; Glance hears of us as rarely.
const IMAGE_LASTS: Duration = Duration::from_secs(600);
/// An image that could not be read is asked for again after this.
const IMAGE_AGAIN: Duration = Duration::from_secs(60);
/// Nothing that is recovered waits longer for its image's marks.
const IMAGES_WITHIN: Duration = Duration::from_secs(3);
/// Images asked for at a time.
const IMAGES_AT_ONCE: usize = 8;

/// What is known of images, and of the flavors and names that many servers share.
#[derive(Debug, Default)]
pub(super) struct Moulds {
    images: BTreeMap<String, Known>,
    /// Servers keep the flavor that they were made from, so one name may have several.
    flavors: Vec<Arc<Mould>>,
    names: BTreeSet<Arc<str>>,
    /// That Glance cannot be asked is told once.
    warned: bool,
}

#[derive(Debug)]
struct Known {
    image: Arc<Mould>,
    until: Instant,
}

/// Until the process ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut pause = AGAIN;
    loop {
        let begun = Instant::now();
        match shared.nova.all_servers(|server| shared.server(server), begun + WITHIN).await.result() {
            Ok(servers) => {
                let servers = shared.with_images(servers, Instant::now() + LOOK_WITHIN).await;
                shared.tell(CloudNews::Roster(servers)).await;
                pause = EVERY;
            }
            Err(failure) => tracing::debug!(%failure, "the servers could not be listed"),
        }
        tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
    }
}

impl Shared {
    /// As [`Shared::server`], with what its image says if that can be had soon.
    pub(super) async fn known(&self, servers: Vec<medevac_openstack::Server>) -> Vec<Server> {
        let servers = servers.into_iter().map(|server| self.server(server)).collect();
        self.with_images(servers, Instant::now() + IMAGES_WITHIN).await
    }

    async fn with_images(&self, mut servers: Vec<Server>, until: Instant) -> Vec<Server> {
        self.read_images(&servers, until).await;
        let moulds = self.moulds.lock().unwrap_or_else(PoisonError::into_inner);
        for server in &mut servers {
            if let Some(known) = moulds.images.get(&server.image.id) {
                server.image = Arc::clone(&known.image);
            }
        }
        servers
    }

    fn server(&self, server: medevac_openstack::Server) -> Server {
        let mut moulds = self.moulds.lock().unwrap_or_else(PoisonError::into_inner);
        Server {
            id: InstanceId(server.id.to_ascii_lowercase()),
            name: server.name,
            host: server.host.as_deref().map(|host| self.names.ours(host)).unwrap_or_default(),
            vm_state: server.vm_state.unwrap_or_default(),
            task_state: server.task_state,
            memory_kib: server.flavor.ram * 1024,
            project: moulds.name(server.project_id),
            zone: moulds.name(server.zone.unwrap_or_default()),
            flavor: moulds.flavor(server.flavor),
            image: moulds.image(server.image_id.as_deref()),
            marks: only_marks(server.metadata),
        }
    }

    /// Asks for the images that are not known, or no longer.
    async fn read_images(&self, servers: &[Server], until: Instant) {
        let ids = servers.iter().map(|server| server.image.id.as_str());
        let wanted: BTreeSet<&str> = ids.filter(|id| !id.is_empty()).collect();
        let now = Instant::now();
        let missing: Vec<&str> = {
            let moulds = self.moulds.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = |id: &&str| moulds.images.get(*id).is_some_and(|known| now < known.until);
            wanted.into_iter().filter(|id| !fresh(id)).collect()
        };
        for some in missing.chunks(IMAGES_AT_ONCE) {
            let asked = some.iter().map(|id| async { (*id, self.glance.image(id, until).await) });
            let answers = futures::future::join_all(asked).await;
            let mut moulds = self.moulds.lock().unwrap_or_else(PoisonError::into_inner);
            answers.into_iter().for_each(|(id, answer)| moulds.learn(id, answer));
            if Instant::now() >= until {
                return;
            }
        }
    }
}

impl Moulds {
    fn learn(&mut self, id: &str, answer: Answer<medevac_openstack::Image>) {
        let now = Instant::now();
        let bare = Mould { id: id.to_owned(), ..Mould::default() };
        let (image, lasts) = match answer.result() {
            // A private image is its tenant's: neither its name nor its marks are an operator's word.
            Ok(image) if image.public => {
                (Mould { name: image.name, marks: only_marks(image.properties), ..bare }, IMAGE_LASTS)
            }
            Ok(_) => (bare, IMAGE_LASTS),
            Err(Failure::Refused(refusal)) if refusal.kind == Kind::NotFound => (bare, IMAGE_LASTS),
            Err(failure) => {
                if !std::mem::replace(&mut self.warned, true) {
                    let code = "MDV-CLOUD-IMAGES";
                    tracing::warn!(code, "marks on images are not seen, as Glance cannot be asked: {failure}");
                }
                let last = self.images.get(id).map(|known| Mould::clone(&known.image));
                (last.unwrap_or(bare), IMAGE_AGAIN)
            }
        };
        self.images.insert(id.to_owned(), Known { image: Arc::new(image), until: now + lasts });
    }

    fn image(&self, id: Option<&str>) -> Arc<Mould> {
        let Some(id) = id else { return Arc::default() };
        let unknown = || Arc::new(Mould { id: id.to_owned(), ..Mould::default() });
        self.images.get(id).map_or_else(unknown, |known| Arc::clone(&known.image))
    }

    /// One for all servers of it.
    fn flavor(&mut self, flavor: medevac_openstack::Flavor) -> Arc<Mould> {
        let marks = only_marks(flavor.extra_specs.unwrap_or_default());
        let mould = Mould { id: String::new(), name: flavor.original_name, marks };
        let known = self.flavors.iter().find(|known| ***known == mould);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let mould = Arc::new(mould);
        self.flavors.push(Arc::clone(&mould));
        mould
    }

    fn name(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.names.get(name.as_str()) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

fn only_marks(all: BTreeMap<String, String>) -> Marks {
    all.into_iter().filter(|(name, _)| is_mark(name)).collect()
}
