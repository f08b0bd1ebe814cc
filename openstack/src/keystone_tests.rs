//! Logins, ages of tokens, and pauses.

use super::*;
use medevac_settings::Secret;

/// Good for an hour.
fn token(got: Instant) -> Arc<Token> {
    let compute = Err(CatalogProblem::NoCompute { has: Vec::new() });
    let (header, who, lifetime) = (HeaderValue::from_static("t"), WhoAmI::default(), Duration::from_secs(3600));
    let image = Err(CatalogProblem::NoImage { interface: "public", has: Vec::new() });
    Arc::new(Token { header, who, compute, image, got, lifetime })
}

/// One where nobody listens: port 1 of loopback.
fn keystone() -> Keystone {
    let (user, project) = (User::Id("u".into()), Project::Id("p".into()));
    let credentials = Credentials::with_password("http://127.0.0.1:1", user, Secret::new("pw"), project).unwrap();
    Keystone::new(credentials).unwrap()
}

#[tokio::test]
async fn while_the_old_token_does_nobody_waits_for_its_renewal() {
    let keystone = keystone();
    let began = Instant::now();
    let at = |seconds| keystone.step(began + Duration::from_secs(seconds));
    keystone.state().token = Some(token(began));
    assert!(matches!(at(10), Step::Have(_)));
    assert_eq!(keystone.state().logins, 0, "fresh: nothing is sent");
    assert!(matches!(at(3100), Step::Have(_)));
    assert_eq!(keystone.state().logins, 1, "in its last quarter a renewal begins");
    assert!(matches!(at(3101), Step::Have(_)));
    assert_eq!(keystone.state().logins, 1, "one at a time");
    while keystone.state().pause.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It failed, aside: the old one goes on being used, and the pause is kept.
    keystone.state().pause.as_mut().unwrap().0 = began + Duration::from_secs(3200);
    assert!(matches!(at(3150), Step::Have(_)));
    assert_eq!(keystone.state().logins, 1);
    assert!(matches!(at(3300), Step::Have(_)));
    assert_eq!(keystone.state().logins, 2, "after the pause, once more");
    assert!(matches!(at(3595), Step::Wait(2, _)), "at its end there is nothing left but to wait");
    keystone.state().login = None;
    keystone.state().pause.as_mut().unwrap().0 = began + Duration::from_secs(3700);
    assert!(matches!(at(3600), Step::Pause(LoginProblem::Pausing { .. })));
}

#[tokio::test]
async fn only_the_token_that_was_turned_away_is_dropped() {
    let keystone = keystone();
    let (old, new) = (token(Instant::now()), token(Instant::now()));
    keystone.state().token = Some(Arc::clone(&new));
    keystone.reject(&old);
    assert!(keystone.state().token.is_some(), "another caller has renewed it already");
    keystone.reject(&new);
    assert!(keystone.state().token.is_none());
}

#[test]
fn bodies_are_those_of_keystone() {
    let user = || User::Name { name: "nova".into(), domain: Domain::Id("default".into()) };
    let project = Project::Name { name: "service".into(), domain: Domain::Name("Default".into()) };
    let mut credentials = Credentials::with_password("http://k", user(), Secret::new("pw"), project).unwrap();
    let body = request(&credentials).unwrap();
    assert_eq!(body["auth"]["identity"]["password"]["user"]["password"], "pw");
    assert_eq!(body["auth"]["scope"]["project"]["domain"]["name"], "Default");
    let Method::Password { password, .. } = credentials.method.clone() else { panic!("no password") };
    let who = Who::Name { name: "ha".into(), user: user() };
    credentials.method = Method::ApplicationCredential { who, secret: password };
    let body = request(&credentials).unwrap();
    assert_eq!(body["auth"]["identity"]["application_credential"]["user"]["domain"]["id"], "default");
    assert!(body["auth"]["scope"].is_null());
}

#[test]
fn a_token_is_renewed_in_time_and_never_used_at_its_end() {
    let told = |issued: &str, expires: &str| ToldToken {
        issued_at: issued.into(),
        expires_at: expires.into(),
        user: Named::default(),
        project: Named::default(),
        roles: Vec::new(),
        catalog: Vec::new(),
    };
    let day = told("2026-11-22T14:32:56.000000Z", "2026-11-23T14:32:56.000000Z");
    assert_eq!(lifetime(&day), Duration::from_secs(86_400));
    assert_eq!(lifetime(&told("", "never")), LIFETIME_IF_UNSAID);
    let token = token(Instant::now());
    let at = |seconds| {
        let then = token.got + Duration::from_secs(seconds);
        (token.is_fresh(then), token.is_usable(then))
    };
    assert_eq!((at(0), at(2999)), ((true, true), (true, true)));
    assert_eq!((at(3001), at(3589), at(3591)), ((false, true), (false, true), (false, false)));
}

#[test]
fn a_token_whose_catalog_does_not_lead_to_nova_is_not_kept_for_a_day() {
    let (day, brief) = (Duration::from_secs(86_400), Duration::from_secs(5));
    assert_eq!((kept(day, true), kept(day, false), kept(brief, false)), (day, KEPT_WITHOUT_NOVA, brief));
}

#[test]
fn pauses_grow_to_their_limit() {
    let failed = LoginProblem::Failed { url: String::new(), cause: String::new() };
    let refused = LoginProblem::Refused { url: String::new(), message: String::new() };
    assert_eq!((pause(&failed, 0), pause(&failed, 1), pause(&failed, 99)), (PAUSE.0, PAUSE.0 * 2, PAUSE.1));
    assert_eq!((pause(&refused, 0), pause(&refused, 99)), PAUSE_REFUSED);
}
