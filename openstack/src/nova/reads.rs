//! What is asked of Nova.

use super::Nova;
use super::pages::{Link, Listed, PAGE, endless};
use crate::answer::{Answer, Failure};
use crate::body::{
    ActionDetail, Aggregate, ComputeService, Hypervisor, InstanceAction, Migration, Server, ServerGroup,
};
use crate::traces::EVACUATION;
use crate::version::Microversion;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::HashSet;
use tokio::time::Instant;

/// As for pages by marker.
const MAX_OFFSET: usize = 200_000;

/// Which migrations are asked for; empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationFilter {
    /// Nova's name of the host that they left.
    pub source_compute: Option<String>,
    /// A server's id.
    pub server: Option<String>,
    pub evacuations_only: bool,
    /// Made or changed at that time or later, by Nova's clock.
    pub changed_since: Option<Timestamp>,
}

impl MigrationFilter {
    pub fn evacuations_from(host: &str) -> Self {
        Self { source_compute: Some(host.to_owned()), evacuations_only: true, ..Self::default() }
    }

    pub fn evacuations_of(server: &str) -> Self {
        Self { server: Some(server.to_owned()), evacuations_only: true, ..Self::default() }
    }

    /// For servers that don't know all of these filters.
    fn wants(&self, migration: &Migration) -> bool {
        let since = |since| migration.updated_at.or(migration.created_at).is_none_or(|at| at >= since);
        self.source_compute.as_ref().is_none_or(|host| migration.source_compute.as_ref() == Some(host))
            && self.server.as_ref().is_none_or(|server| migration.instance_uuid == *server)
            && (!self.evacuations_only || migration.migration_type == EVACUATION)
            && self.changed_since.is_none_or(since)
    }
}

impl Nova {
    /// All nova-compute services.
    pub async fn compute_services(&self, deadline: Instant) -> Answer<Vec<ComputeService>> {
        let query = [("binary", "nova-compute".to_owned())];
        let body: Result<Services, Failure> = self.get(&["os-services"], &query, deadline).await;
        body.map(|body| body.services).into()
    }

    /// All hypervisors: which `hypervisor_hostname` belongs to which service.
    pub async fn hypervisors(&self, deadline: Instant) -> Answer<Vec<Hypervisor>> {
        self.pages(&["os-hypervisors", "detail"], &[], deadline).await.into()
    }

    /// All servers of all projects, or those that Nova has on `host`. With a cell's database down
    /// Nova answers with those of the others and says nothing: compare with what should be there.
    pub async fn servers(&self, host: Option<&str>, deadline: Instant) -> Answer<Vec<Server>> {
        let mut query = vec![("all_tenants", "1".to_owned())];
        query.extend(host.map(|host| ("host", host.to_owned())));
        self.pages(&["servers", "detail"], &query, deadline).await.into()
    }

    /// All servers of all projects, reduced page by page.
    pub async fn all_servers<T>(&self, keep: impl Fn(Server) -> T, deadline: Instant) -> Answer<Vec<T>> {
        let query = [("all_tenants", "1".to_owned())];
        self.pages_as(&["servers", "detail"], &query, keep, deadline).await.into()
    }

    pub async fn server(&self, id: &str, deadline: Instant) -> Answer<Server> {
        let body: Result<OneServer, Failure> = self.get(&["servers", id], &[], deadline).await;
        body.map(|body| body.server).into()
    }

    /// What was asked of a server, newest first; the newest thousand.
    pub async fn instance_actions(&self, id: &str, deadline: Instant) -> Answer<Vec<InstanceAction>> {
        let path = ["servers", id, "os-instance-actions"];
        let body: Result<Actions, Failure> = self.get(&path, &[], deadline).await;
        body.map(|body| body.actions).into()
    }

    /// One action with its steps, by Nova's own id of the request.
    pub async fn instance_action(&self, id: &str, request_id: &str, deadline: Instant) -> Answer<ActionDetail> {
        let path = ["servers", id, "os-instance-actions", request_id];
        let body: Result<OneAction, Failure> = self.get(&path, &[], deadline).await;
        body.map(|body| body.action).into()
    }

    /// Migration records, newest first.
    pub async fn migrations(&self, filter: &MigrationFilter, deadline: Instant) -> Answer<Vec<Migration>> {
        self.find_migrations(filter, deadline).await.into()
    }

    async fn find_migrations(&self, filter: &MigrationFilter, deadline: Instant) -> Result<Vec<Migration>, Failure> {
        let session = self.session(deadline).await.map_err(Failure::NotSent)?;
        let paged = session.range.max >= Microversion::MIGRATION_PAGES;
        let mut query = Vec::new();
        query.extend(filter.source_compute.clone().map(|host| ("source_compute", host)));
        query.extend(filter.server.clone().map(|server| ("instance_uuid", server)));
        if filter.evacuations_only {
            query.push(("migration_type", EVACUATION.to_owned()));
        }
        let path = ["os-migrations"];
        let mut found = if paged {
            query.extend(filter.changed_since.map(|since| ("changes-since", since.to_string())));
            self.pages(&path, &query, deadline).await?
        } else {
            Migration::open(self.get(&path, &query, deadline).await?).0
        };
        found.retain(|migration| filter.wants(migration));
        Ok(found)
    }

    pub async fn aggregates(&self, deadline: Instant) -> Answer<Vec<Aggregate>> {
        let body: Result<Aggregates, Failure> = self.get(&["os-aggregates"], &[], deadline).await;
        body.map(|body| body.aggregates).into()
    }

    /// The server groups of all projects.
    pub async fn server_groups(&self, deadline: Instant) -> Answer<Vec<ServerGroup>> {
        self.find_groups(deadline).await.into()
    }

    /// Nova pages these by offset and doesn't say where they end: an empty page does.
    async fn find_groups(&self, deadline: Instant) -> Result<Vec<ServerGroup>, Failure> {
        let (mut all, mut known, mut offset) = (Vec::new(), HashSet::new(), 0);
        while offset < MAX_OFFSET {
            let query =
                [("all_projects", "True".to_owned()), ("limit", PAGE.to_string()), ("offset", offset.to_string())];
            let body: Groups = self.get(&["os-server-groups"], &query, deadline).await?;
            if body.server_groups.is_empty() {
                return Ok(all);
            }
            offset += body.server_groups.len();
            let before = all.len();
            all.extend(body.server_groups.into_iter().filter(|group: &ServerGroup| known.insert(group.id.clone())));
            if all.len() == before {
                return Err(endless("a page of server groups brought nothing new".into()));
            }
        }
        Err(endless(format!("there are more than {MAX_OFFSET} server groups")))
    }
}

#[derive(Deserialize)]
struct Services {
    services: Vec<ComputeService>,
}

#[derive(Deserialize)]
struct OneServer {
    server: Server,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(rename = "instanceActions")]
    actions: Vec<InstanceAction>,
}

#[derive(Deserialize)]
struct OneAction {
    #[serde(rename = "instanceAction")]
    action: ActionDetail,
}

#[derive(Deserialize)]
struct Aggregates {
    aggregates: Vec<Aggregate>,
}

#[derive(Deserialize)]
struct Groups {
    server_groups: Vec<ServerGroup>,
}

#[derive(Deserialize)]
pub(super) struct ServerPage {
    servers: Vec<Server>,
    #[serde(default)]
    servers_links: Vec<Link>,
}

impl Listed for Server {
    type Page = ServerPage;
    fn open(page: ServerPage) -> (Vec<Self>, Vec<Link>) {
        (page.servers, page.servers_links)
    }
    fn marker(&self) -> String {
        self.id.clone()
    }
}

#[derive(Deserialize)]
pub(super) struct HypervisorPage {
    hypervisors: Vec<Hypervisor>,
    #[serde(default)]
    hypervisors_links: Vec<Link>,
}

impl Listed for Hypervisor {
    type Page = HypervisorPage;
    fn open(page: HypervisorPage) -> (Vec<Self>, Vec<Link>) {
        (page.hypervisors, page.hypervisors_links)
    }
    fn marker(&self) -> String {
        self.id.clone()
    }
}

#[derive(Deserialize)]
pub(super) struct MigrationPage {
    migrations: Vec<Migration>,
    #[serde(default)]
    migrations_links: Vec<Link>,
}

impl Listed for Migration {
    type Page = MigrationPage;
    fn open(page: MigrationPage) -> (Vec<Self>, Vec<Link>) {
        (page.migrations, page.migrations_links)
    }
    fn marker(&self) -> String {
        self.uuid.clone().unwrap_or_else(|| self.id.to_string())
    }
}
