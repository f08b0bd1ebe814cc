//! The fake's Keystone: tokens that end, and a catalog.

use super::state::{Asked, Reply, State};
use super::{PROJECT, USER};
use serde_json::{Value, json};

/// `POST /v3/auth/tokens`.
pub(super) fn token(state: &mut State, asked: &Asked) -> Reply {
    state.logins += 1;
    if asked.method != "POST" || !state.knows(&asked.body()["auth"]) {
        return refused();
    }
    let now = state.now();
    let ends = now + state.world.timing.token;
    let token = format!("gAAAA-fake-{}", state.logins);
    // Old ones that have ended go first: a long test logs in often.
    state.tokens.retain(|_, end| *end > now);
    state.tokens.insert(token.clone(), ends);
    let time = |at| state.clock.wall(at).strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let body = json!({"token": {
        "methods": ["password"], "user": {"id": USER, "name": "medevac", "domain": {"id": "default", "name": "Default"}},
        "project": {"id": PROJECT, "name": "service", "domain": {"id": "default", "name": "Default"}},
        "roles": [{"id": "r1", "name": "admin"}, {"id": "r2", "name": "reader"}],
        "issued_at": time(now), "expires_at": time(ends), "catalog": catalog(state),
    }});
    let mut reply = Reply::json(201, &body);
    reply.headers.push(("x-subject-token", token));
    reply
}

fn catalog(state: &State) -> Value {
    let endpoint = |interface: &str, region: &str, path: &str| {
        json!({"interface": interface, "region_id": region, "region": region, "id": "e",
               "url": format!("{}{path}", state.base)})
    };
    let compute: Vec<Value> = state
        .options
        .regions
        .iter()
        .flat_map(|region| ["public", "internal"].map(|interface| endpoint(interface, region, "/compute/v2.1")))
        .collect();
    let identity = vec![endpoint("public", "RegionOne", "/identity")];
    let mut services = vec![json!({"type": "identity", "name": "keystone", "id": "s1", "endpoints": identity})];
    if !compute.is_empty() {
        services.push(json!({"type": "compute", "name": "nova", "id": "s2", "endpoints": compute}));
    }
    if state.options.glance && !state.options.regions.is_empty() {
        let image: Vec<Value> =
            state.options.regions.iter().map(|region| endpoint("public", region, "/image")).collect();
        services.push(json!({"type": "image", "name": "glance", "id": "s3", "endpoints": image}));
    }
    json!(services)
}

pub(super) fn is_valid(state: &State, token: Option<&str>) -> bool {
    token.and_then(|token| state.tokens.get(token)).is_some_and(|ends| *ends > state.now())
}

fn refused() -> Reply {
    let message = "The request you have made requires authentication.";
    Reply::json(401, &json!({"error": {"code": 401, "title": "Unauthorized", "message": message}}))
}

/// As the middleware in front of Nova does it.
pub(super) fn turned_away() -> Reply {
    let mut reply = refused();
    reply.headers.push(("www-authenticate", "Keystone uri=\"http://127.0.0.1/identity\"".into()));
    reply
}
