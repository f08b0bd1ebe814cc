//! Nova's paths, as far as medevac walks them.

use super::render::{View, node_of, uuid_of};
use super::state::{Asked, Reply, State};
use super::world::{By, Host, Move, No, Srv, missing};
use serde_json::{Value, json};

type Answered = Result<Reply, No>;

/// The newest answer is at the path's end; the token has been checked.
pub(super) fn nova(state: &mut State, asked: &Asked, minor: u16) -> Answered {
    let parts: Vec<&str> = asked.path.iter().map(String::as_str).collect();
    match (asked.method.as_str(), &parts[..]) {
        ("GET", ["os-services"]) => Ok(services(state, asked, minor)),
        ("PUT", ["os-services", id]) => put_service(state, asked, id, minor),
        ("GET", ["os-hypervisors", "detail"]) => {
            let view = state.view(minor);
            let all: Vec<&Host> = view.world.hosts.iter().collect();
            page("hypervisors", &all, node_of, |host| view.hypervisor(host), (state.options.page, asked))
        }
        ("GET", ["servers", "detail"]) => servers(state, asked, minor),
        ("GET", ["servers", id]) => {
            let view = state.view(minor);
            let server = view.world.server(id).ok_or_else(|| missing(id))?;
            Ok(Reply::json(200, &json!({"server": view.server(server, true)})))
        }
        ("GET", ["servers", id, "os-instance-actions", rest @ ..]) => actions(&state.view(minor), id, rest),
        ("POST", ["servers", id, "action"]) => action(state, asked, id, minor),
        ("GET", ["os-migrations"]) => migrations(state, asked, minor),
        ("GET", ["os-aggregates"]) => {
            let view = state.view(minor);
            let all: Vec<Value> = view.world.aggregates.iter().map(|one| view.aggregate(one)).collect();
            Ok(Reply::json(200, &json!({"aggregates": all})))
        }
        ("POST", ["os-aggregates", id, "action"]) => aggregate(state, asked, id, minor),
        ("GET", ["os-server-groups"]) => {
            let view = state.view(minor);
            let (from, limit) = (number(asked, "offset").unwrap_or(0), number(asked, "limit").unwrap_or(usize::MAX));
            let limit = limit.min(state.options.page);
            let all: Vec<Value> = view.world.groups.iter().map(|one| view.group(one)).skip(from).take(limit).collect();
            Ok(Reply::json(200, &json!({"server_groups": all})))
        }
        _ => Err((404, "The resource could not be found.".into())),
    }
}

fn services(state: &State, asked: &Asked, minor: u16) -> Reply {
    let view = state.view(minor);
    let wanted = asked.query("host");
    let fits = |name: &str| wanted.is_none_or(|host| host == name);
    let all: Vec<Value> =
        view.world.hosts.iter().filter(|host| fits(&host.name)).map(|host| view.service(host)).collect();
    Reply::json(200, &json!({"services": all}))
}

fn put_service(state: &mut State, asked: &Asked, id: &str, minor: u16) -> Answered {
    let now = state.now();
    let found = state.world.hosts.iter().find(|host| host.service == id);
    let host = found.cloned().ok_or_else(|| (404, format!("Service {id} not found.")))?;
    let body = asked.body();
    let mut wait = None;
    match body["forced_down"].as_bool() {
        Some(true) => state.world.host_mut(&host.name).into_iter().for_each(|host| host.forced_down = true),
        Some(false) => state.world.force_up(&host.name)?,
        None => {}
    }
    if let Some(status) = body["status"].as_str() {
        let disabled = status == "disabled";
        // Nova tells the compute service of it, and waits, if it believes it to be up.
        if host.disabled != disabled && host.dead_since.is_some() && state.world.is_up(&host, now) {
            wait = Some(state.world.timing.rpc);
        }
        if let Some(host) = state.world.host_mut(&host.name) {
            host.disabled = disabled;
            host.reason = body["disabled_reason"].as_str().map(str::to_owned).filter(|_| disabled);
        }
    }
    let view = state.view(minor);
    let host = view.world.host(&host.name).ok_or_else(|| (404, "gone".to_owned()))?;
    Ok(Reply { wait, ..Reply::json(200, &json!({"service": view.service(host)})) })
}

fn servers(state: &State, asked: &Asked, minor: u16) -> Answered {
    let view = state.view(minor);
    let host = asked.query("host");
    // Newest first, as Nova lists them.
    let here = view.world.servers.iter().rev().filter(|server| host.is_none_or(|host| server.host == host));
    let all: Vec<&Srv> = here.collect();
    page("servers", &all, |server| server.id.clone(), |server| view.server(server, false), (state.options.page, asked))
}

fn migrations(state: &State, asked: &Asked, minor: u16) -> Answered {
    let view = state.view(minor);
    let is = |key: &str, value: &str| asked.query(key).is_none_or(|wanted| wanted == value);
    let since = asked.query("changes-since").and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let fits = |record: &&Move| {
        let changed = view.clock.wall(record.updated.unwrap_or(record.created));
        is("source_compute", &record.source)
            && is("instance_uuid", &record.server)
            && is("migration_type", record.kind)
            && since.is_none_or(|since| changed >= since)
    };
    let all: Vec<&Move> = view.world.moves.iter().rev().filter(fits).collect();
    if minor < 59 {
        let all: Vec<Value> = all.into_iter().map(|record| view.migration(record)).collect();
        return Ok(Reply::json(200, &json!({"migrations": all})));
    }
    let key = |record: &Move| uuid_of(record.id);
    page("migrations", &all, key, |record| view.migration(record), (state.options.page, asked))
}

/// One page of `all`, and where the next one begins.
fn page<T>(
    name: &str,
    all: &[&T],
    key: impl Fn(&T) -> String,
    render: impl Fn(&T) -> Value,
    (most, asked): (usize, &Asked),
) -> Answered {
    let limit = number(asked, "limit").unwrap_or(most).min(most);
    let from = match asked.query("marker") {
        None => 0,
        Some(marker) => {
            let at = all.iter().position(|item| key(item) == marker);
            at.ok_or_else(|| (400, format!("Marker {marker} could not be found.")))? + 1
        }
    };
    let items = &all[from..all.len().min(from + limit)];
    let mut body = json!({});
    if let Some(last) = items.last().filter(|_| items.len() == limit) {
        // Behind a proxy Nova's links often name an address that nobody can reach.
        let href = format!("http://wrong.invalid/v2.1/{name}?limit={limit}&marker={}", key(last));
        body[format!("{name}_links")] = json!([{"rel": "next", "href": href}]);
    }
    body[name] = items.iter().map(|item| render(item)).collect();
    Ok(Reply::json(200, &body))
}

fn number(asked: &Asked, key: &str) -> Option<usize> {
    asked.query(key)?.parse().ok()
}

fn actions(view: &View<'_>, id: &str, rest: &[&str]) -> Answered {
    view.world.server(id).ok_or_else(|| missing(id))?;
    let none = Vec::new();
    let acts = view.world.actions.get(id).unwrap_or(&none);
    if let [request] = rest {
        let act = acts.iter().find(|act| act.request == *request);
        let act = act.ok_or_else(|| (404, format!("Action {request} not found on instance {id}")))?;
        return Ok(Reply::json(200, &json!({"instanceAction": view.detail(id, act)})));
    }
    let all: Vec<Value> = acts.iter().rev().map(|act| view.action(id, act)).collect();
    Ok(Reply::json(200, &json!({"instanceActions": all})))
}

fn action(state: &mut State, asked: &Asked, id: &str, minor: u16) -> Answered {
    let by = By { user: Some(super::USER), request: &asked.request_id, now: state.now() };
    let body = asked.body();
    let order = body.as_object().and_then(|map| map.iter().next()).map(|(name, value)| (name.clone(), value.clone()));
    let (name, value) = order.ok_or_else(|| (400, "There is no such action".to_owned()))?;
    if name == "evacuate" {
        let known = ["host", "adminPass", if minor < 68 { "force" } else { "host" }];
        if let Some(key) = value.as_object().and_then(|map| map.keys().find(|key| !known.contains(&key.as_str()))) {
            return Err((400, format!("Additional properties are not allowed ('{key}' was unexpected)")));
        }
        state.world.evacuate(id, value["host"].as_str(), by, minor >= 95)?;
        return Ok(Reply::json(200, &Value::Null));
    }
    state.world.server(id).ok_or_else(|| missing(id))?;
    match name.as_str() {
        "os-start" => state.world.power(id, true, by)?,
        "os-stop" => state.world.power(id, false, by)?,
        "lock" | "unlock" => {
            state.world.act(id, if name == "lock" { "lock" } else { "unlock" }, by);
            let reason = value["locked_reason"].as_str().unwrap_or_default().to_owned();
            if let Some(server) = state.world.server_mut(id) {
                server.locked = (name == "lock").then_some(reason);
            }
        }
        "os-resetState" => {
            state.world.act(id, "resetState", by);
            let to = value["state"].as_str().unwrap_or("error").to_owned();
            if let Some(server) = state.world.server_mut(id) {
                server.vm_state = to;
                server.task = None;
            }
        }
        "os-migrateLive" => live_migrate(state, id, value["host"].as_str(), by)?,
        _ => return Err((400, format!("There is no such action: {name}"))),
    }
    Ok(Reply::empty(202))
}

/// Moves at once: nothing here depends on how long it takes.
fn live_migrate(state: &mut State, id: &str, target: Option<&str>, by: By<'_>) -> Result<(), No> {
    let server = state.world.server(id).cloned().ok_or_else(|| missing(id))?;
    if server.vm_state != "active" {
        return Err(super::world::wrong_state("os-migrateLive", &server));
    }
    let hosts = &state.world.hosts;
    let dest = match target {
        Some(target) => hosts.iter().find(|host| host.name == target),
        None => hosts.iter().find(|host| host.name != server.host && host.dead_since.is_none() && !host.disabled),
    };
    let missing = || (400, format!("Compute host {} could not be found.", target.unwrap_or("any")));
    let dest = dest.map(|host| host.name.clone()).ok_or_else(missing)?;
    state.world.act(id, "live-migration", by);
    state.world.running.remove(&(id.to_owned(), server.host));
    if let Some(server) = state.world.server_mut(id) {
        server.host.clone_from(&dest);
    }
    state.world.run(&dest, id);
    Ok(())
}

fn aggregate(state: &mut State, asked: &Asked, id: &str, minor: u16) -> Answered {
    let body = asked.body();
    let add = body["add_host"]["host"].as_str();
    let host = add.or_else(|| body["remove_host"]["host"].as_str()).unwrap_or_default().to_owned();
    if add.is_some() && state.world.host(&host).is_none() {
        return Err((404, format!("Host '{host}' is not mapped to any cell")));
    }
    let found = state.world.aggregates.iter_mut().find(|one| one.id.to_string() == id);
    let one = found.ok_or_else(|| (404, format!("Aggregate {id} could not be found.")))?;
    match (add.is_some(), one.hosts.iter().position(|name| *name == host)) {
        (true, Some(_)) => return Err((409, format!("Aggregate {id} already has host {host}."))),
        (true, None) => one.hosts.push(host),
        (false, Some(at)) => {
            one.hosts.remove(at);
        }
        (false, None) => {
            return Err((404, format!("Cannot remove host {host} in aggregate {id}: not found")));
        }
    }
    let one = one.clone();
    Ok(Reply::json(200, &json!({"aggregate": state.view(minor).aggregate(&one)})))
}
